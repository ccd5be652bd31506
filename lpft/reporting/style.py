"""The look of all figures: colours, markers, type, and deterministic SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.reporting.results import is_reference, provenance
from lpft.reporting.sweeps import family_of, variants_of

INK, MUTED, GRID, PAPER = "#1b2431", "#5d6877", "#dde2e8", "#fffffe"
"""Text, secondary text, thin lines, ground. The page replaces these four by its own, for light and dark."""

COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6b32"),
    *("#7a67c7", "#44aa99", "#aa4466", "#8a941e", "#b07ae1", "#4e79a7", "#c0564e"),
)
"""Told apart with the common kinds of colour blindness up to seven (Okabe and Ito); markers help beyond."""

MARKERS = "osD^vP<>Xphd8H"
TUNED = 0.9
"""How dark the colour of a tuned method is, see `shade`."""

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a client may be called $x$
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "image.cmap": "viridis",
    "svg.fonttype": "none",
}

FONTS = "-apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


NAMED_CLIENTS = 30
"""Up to so many clients are named in a figure."""
NUMBERED_CLIENTS = 12
"""Up to so many clients a matrix shows its numbers."""


@dataclass(frozen=True)
class Look:
    """How one method is drawn in every figure.

    Args:
        color: hex colour.
        marker: matplotlib marker.
        family: the method that it is a variant of; its own name if it is none.
        label: its name within the family.
        family_color: what its family has in common.
        reference: whether it is the global model.
    """

    color: str
    marker: str
    family: str = ""
    label: str = ""
    family_color: str = ""
    reference: bool = False

    @property
    def plain(self) -> Look:
        """How its family is drawn as one."""
        return Look(self.family_color, self.marker, self.family, self.family, self.family_color)


def looks(methods: Sequence[str], config: Mapping[str, Any]) -> dict[str, Look]:
    """Give every method its colour and marker, by its place in the list; no fine-tuning is a grey star.

    Variants of one method share its marker, and run from a light to a dark shade of its colour. A tuned method has the
    marker of the untuned one, and a dark shade of its colour.
    """
    variants = variants_of(config)
    bases = {name: name.removesuffix("_tuned") for name in provenance(config).get("tuned") or ()}
    tuned = {name: base for name, base in bases.items() if name in methods and base in methods}
    families: dict[str, list[str]] = {}
    for method in methods:
        if not is_reference(method, config) and method not in tuned:
            families.setdefault(family_of(method, variants), []).append(method)
    found = {method: Look("#7d8896", "*", method, method, "#7d8896", reference=True) for method in methods}
    for number, (family, members) in enumerate(families.items()):
        color = COLORS[number % len(COLORS)]
        marker = MARKERS[(number + number // len(COLORS)) % len(MARKERS)]  # another one in the second round of colours
        for place, method in enumerate(members):
            depth = place / (len(members) - 1) if len(members) > 1 else 0.5
            name = variants[method].label if method in variants else method
            found[method] = Look(shade(color, depth), marker, family, name, color)
    for method, base in tuned.items():
        dark = shade(found[base].color, TUNED)
        found[method] = Look(dark, found[base].marker, method, method, dark)
    return found


def families(methods: Iterable[str], look: Mapping[str, Look]) -> dict[str, list[str]]:
    """Group the variants of one method under its name; every other method is a group by itself."""
    groups: dict[str, list[str]] = {}
    for method in methods:
        groups.setdefault(look[method].family, []).append(method)
    return groups


def marker_style(look: Look, label: str, size: float) -> dict[str, Any]:
    """Return marker and legend entry of a method for `Axes.plot`; an empty label makes no entry."""
    return {
        "marker": look.marker,
        "color": look.color,
        "markersize": size * 1.4 if look.marker == "*" else size,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.6,
        "label": short(label, 24) if label else None,
    }


def legend_beside(axes: Axes) -> None:
    """Put the legend to the right of the plot."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handletextpad=0.4)


def room_for_legend(height: float, entries: int) -> float:
    """Return the height in inches of a figure with a legend beside it, of as many entries; at least `height`."""
    return max(height, 0.21 * entries + 0.3)


def shade(color: str, depth: float) -> str:
    """Mix a hex colour with white (depth 0) or black (depth 1); 0.5 leaves it as it is.

    >>> shade("#0072b2", 0.5), shade("#0072b2", 0.0)
    ('#0072b2', '#99c7e0')
    """
    share, other = (0.6 * (1 - 2 * depth), 255) if depth < 0.5 else (0.55 * (2 * depth - 1), 0)
    parts = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (other - part)):02x}" for part in parts)


def render(draw: Callable[[], Figure | None]) -> Figure | None:
    """Draw a figure in the look of all figures."""
    with mpl.rc_context(RC):
        return draw()


def to_svg(name: str, draw: Callable[[], Figure | None]) -> str | None:
    """Draw a figure and return it as SVG with text as text: the same bytes for the same data. None if it is None."""
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None, "Title": name}
    text = io.StringIO()
    with mpl.rc_context({**RC, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the viewer's fonts will have it
        figure = draw()
        if figure is None:
            return None
        figure.savefig(text, format="svg", metadata=metadata)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*?)?, sans-serif|'DejaVu Sans'", FONTS, text.getvalue())
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def text_color(red: float, green: float, blue: float) -> str:
    """Return black or white, whichever reads better on a colour given by parts from 0 to 1."""
    return "#141414" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "#f6f6f6"


def panels(
    number: int, columns: int, size: tuple[float, float], margin: tuple[float, float] = (0.4, 0.4), **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels, row by row; panels left over are taken away.

    Args:
        number: how many panels.
        columns: how many of them beside each other, at most.
        size: width and height of a panel in inches.
        margin: what to add to the width and height of the figure.
        options: for `Figure.subplots`.
    """
    columns = max(1, min(columns, number))
    rows = -(-number // columns)
    figsize = (columns * size[0] + margin[0], rows * size[1] + margin[1])
    figure = Figure(figsize=figsize, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[number:]:
        unused.remove()
    return figure, axes[:number]


def short(name: str, limit: int = 16) -> str:
    """Cut a long name.

    >>> short("a hospital with a long name")
    'a hospital with…'
    """
    return name if len(name) <= limit else name[: limit - 1].rstrip() + "…"


def widen(axes: Axes, span: float = 3.0) -> None:
    """Leave room around the points, and do not blow up differences of a fraction of a percentage point."""
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        middle, half = sum(limits) / 2, max(1.06 * (limits[1] - limits[0]), span) / 2
        set_limits(middle - half, middle + half)
