"""The registry of figures, shared layouts, and deterministic SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import measure_word
from lpft.reporting.sentences import render, texts
from lpft.reporting.style import RC
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run

FONTS = "-apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
SWEEP_FIGURES = ("sweep", "difference", "heat-")
"""Prefixes of the names of the figures of sweeps."""
WIDTH = 5.6
"""Width in inches of a figure with one plot: it fits on a phone and stays readable there."""

RunFigure = Callable[[Analysis], Figure | None]
FIGURES: dict[str, RunFigure] = {}
"""The figures of every run, in the order of the report."""


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Args:
        name: name of its file.
        title: heading in the report.
        caption: description below the figure.
        draw: function that returns the figure, or None if there is nothing to show.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure | None]

    @cached_property
    def svg(self) -> str | None:
        """The figure as SVG; None if there is nothing to show."""
        return to_svg(self.name, self.draw)


def figure(draw: RunFigure) -> RunFigure:
    """Register a function of the analysis that returns a matplotlib figure, or None if there is nothing to show.

    sentences.yaml has its title and caption under its name. Without them, the name is the title, and the first line of
    the function's docstring the caption.
    """
    FIGURES[draw.__name__] = draw
    return draw


def described(
    name: str, kind: str, draw: Callable[[], Figure | None], config: Mapping[str, Any], **values: Any
) -> Drawing:
    """Return a drawing with the title and caption that sentences.yaml has for its kind; see `figure`.

    Args:
        name: of the figure.
        kind: its entry in sentences.yaml.
        draw: makes the figure.
        config: the resolved experiment; it says what the percentages are of (``measure`` in sentences.yaml).
        values: what the texts need besides.
    """
    if kind not in texts("figures"):
        caption = (getattr(draw, "func", draw).__doc__ or "").strip()
        return Drawing(name, name.replace("_", " ").capitalize(), caption.partition("\n")[0], draw)
    values = {"measure": measure_word(config), **values}
    return Drawing(name, render("figures", kind, "title", **values), render("figures", kind, "caption", **values), draw)


def write_figures(run: Run, drawings: Mapping[str, Drawing]) -> list[Path]:
    """Write the figures that have something to show to RUN/figures, and remove all others of earlier reports."""
    folder = run.root / "figures"
    svgs = {folder / f"{name}.svg": drawing.svg for name, drawing in drawings.items() if drawing.svg is not None}
    for path, svg in svgs.items():
        write_atomically(path, svg)
    for path in folder.glob("*.svg"):
        if (path.stem in FIGURES or path.stem.startswith(SWEEP_FIGURES)) and path not in svgs:
            path.unlink(missing_ok=True)
    return list(svgs)


def to_svg(name: str, draw: Callable[[], Figure | None]) -> str | None:
    """Return a figure as SVG in which text stays text: the same bytes for the same data; None if there is no figure."""
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None, "Title": name}
    text = io.StringIO()
    with mpl.rc_context({**RC, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the viewer's fonts will have it
        drawn = draw()
        if drawn is None:
            return None
        if not isinstance(drawn, Figure):
            raise TypeError(f"The figure `{name}` returned a value of type {type(drawn).__name__}, not a Figure.")
        FigureCanvasSVG(drawn).print_svg(text, metadata=metadata)  # `savefig` would draw it twice
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*?)?, sans-serif|'DejaVu Sans'", FONTS, text.getvalue())
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


# Layouts


def one_plot(height: float) -> tuple[Figure, Axes]:
    """Create a figure with one plot of a given height in inches; `legend_below` makes room for the legend."""
    drawn = Figure(figsize=(WIDTH, height))
    return drawn, drawn.subplots()


def legend_below(drawn: Figure) -> None:
    """Put the legend of a figure with one plot below it, in as many columns as the names allow."""
    handles, names = drawn.axes[0].get_legend_handles_labels()
    if not names:
        return
    columns = 2 if max(map(len, names)) > 16 else 3
    drawn.set_figheight(drawn.get_figheight() + 0.21 * -(-len(names) // columns))
    drawn.legend(handles, names, loc="outside lower center", ncols=columns, handletextpad=0.4)


def panels(
    number: int, columns: int, size: tuple[float, float], margin: tuple[float, float] = (0.4, 0.4), **options: Any
) -> tuple[Figure, list[Axes]]:
    """Create a figure of equal panels, row by row; unused panels are removed.

    Args:
        number: number of panels.
        columns: maximum number of panels in a row.
        size: width and height of a panel in inches.
        margin: additional width and height of the figure.
        options: options of `Figure.subplots`.
    """
    columns = max(1, min(columns, number))
    rows = -(-number // columns)
    drawn = Figure(figsize=(columns * size[0] + margin[0], rows * size[1] + margin[1]))
    axes = list(drawn.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[number:]:
        unused.remove()
    return drawn, axes[:number]


def widen(axes: Axes, span: float = 3.0) -> None:
    """Set limits that leave a margin and span at least so many percentage points, so as not to magnify noise."""
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        middle, half = sum(limits) / 2, max(1.06 * (limits[1] - limits[0]), span) / 2
        set_limits(middle - half, middle + half)
