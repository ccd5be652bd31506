"""The registry of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lpft.reporting.analysis import Analysis
from lpft.reporting.style import to_svg
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Args:
        name: of its file, and what you ask for.
        title: heading in the report.
        caption: what to see in it.
        draw: returns the figure, or None if there is nothing to show.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure | None]


@dataclass(frozen=True)
class Entry:
    """A registered figure; see `figure`."""

    title: str
    caption: str
    swept: str
    draw: Callable[[Analysis], Figure | None]


FIGURES: dict[str, Entry] = {}
"""The figures of every run, in the order of the report."""


SWEEP_FIGURES = ("sweep", "difference", "heat-")
"""How the names of the figures of sweeps begin."""


def figure(name: str, title: str, caption: str, swept: str = "") -> Callable[..., Any]:
    """Register a function of the analysis that returns a matplotlib figure, or None if there is nothing to show.

    Args:
        name: of its file.
        title: heading in the report.
        caption: what to see in it.
        swept: what to add to the caption if settings of methods were swept.
    """

    def register(draw: Callable[[Analysis], Figure | None]) -> Callable[[Analysis], Figure | None]:
        FIGURES[name] = Entry(title, caption, swept, draw)
        return draw

    return register


def svgs(available: Mapping[str, Drawing]) -> dict[str, str]:
    """Return those of some figures that have something to show as SVG by name."""
    drawn = {name: to_svg(name, drawing.draw) for name, drawing in available.items()}
    return {name: svg for name, svg in drawn.items() if svg is not None}


def write_figures(run: Run, drawn: Mapping[str, str]) -> list[Path]:
    """Write SVGs to RUN/figures, and remove figures of an earlier report that this one does not have."""
    folder = run.root / "figures"
    for name, svg in drawn.items():
        write_atomically(folder / f"{name}.svg", svg)
    for path in folder.glob("*.svg"):
        if (path.stem in FIGURES or path.stem.startswith(SWEEP_FIGURES)) and path.stem not in drawn:
            path.unlink(missing_ok=True)
    return [folder / f"{name}.svg" for name in drawn]
