"""The style of all figures: colours and markers of methods, and the style sheet next to this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from lpft.reporting.experiment import families, is_reference, section, variants_of

RC: Any = mpl.rc_params_from_file(Path(__file__).with_name("report.mplstyle"), use_default_template=False)
INK, MUTED, GRID, PAPER = (RC[key] for key in ("text.color", "axes.edgecolor", "grid.color", "axes.facecolor"))
"""Text, secondary text, thin lines, ground. The page replaces these four by its own, for light and dark."""

GLOBAL_LEVEL: Mapping[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (1, 2))}
"""How the level of the global model is drawn."""

COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6b32"),
    *("#7a67c7", "#44aa99", "#aa4466", "#8a941e", "#b07ae1", "#4e79a7", "#c0564e"),
)
"""The first seven can be told apart with the common kinds of colour blindness (Okabe and Ito); markers help beyond."""

MARKERS = "osD^vP<>Xphd8H"
REFERENCE_COLOR = "#7d8896"
TUNED = 0.9
"""Depth of the colour of a tuned method, see `shade`."""


@dataclass(frozen=True)
class Look:
    """The style of one method in all figures.

    Args:
        color: hex colour.
        marker: matplotlib marker.
        family: the method of which it is a variant; otherwise its own name.
        label: its name within the family.
        family_color: colour of the family.
        reference: whether it is the global model.
    """

    color: str
    marker: str
    family: str
    label: str
    family_color: str
    reference: bool = False

    @property
    def plain(self) -> Look:
        """The style of its family as a whole."""
        return Look(self.family_color, self.marker, self.family, self.family, self.family_color)

    def points(self, label: str, size: float) -> dict[str, Any]:
        """Return marker and legend entry for `Axes.plot`; an empty label makes no entry."""
        return {
            "marker": self.marker,
            "color": self.color,
            "markersize": size * 1.4 if self.marker == "*" else size,
            "markeredgecolor": PAPER,
            "markeredgewidth": 0.6,
            "label": short(label, 24) if label else None,
        }


def looks(methods: Sequence[str], config: Mapping[str, Any]) -> dict[str, Look]:
    """Assign a colour and a marker to every method, by its position in the list; the global model is a grey star.

    Variants of one method share its marker, and run from a light to a dark shade of its colour. A tuned method has the
    marker of the untuned one, and a dark shade of its colour.
    """
    variants = variants_of(config)
    bases = {name: name.removesuffix("_tuned") for name in section(config, "provenance", "tuned")}
    tuned = {name: base for name, base in bases.items() if name in methods and base in methods}
    others = [method for method in methods if not is_reference(method, config) and method not in tuned]
    by_method = {m: Look(REFERENCE_COLOR, "*", m, m, REFERENCE_COLOR, reference=True) for m in methods}
    for number, (family, members) in enumerate(families(others, variants).items()):
        color = COLORS[number % len(COLORS)]
        marker = MARKERS[(number + number // len(COLORS)) % len(MARKERS)]  # another one in the second round of colours
        for index, method in enumerate(members):
            depth = index / (len(members) - 1) if len(members) > 1 else 0.5
            name = variants[method].label if method in variants else method
            by_method[method] = Look(shade(color, depth), marker, family, name, color)
    for method, base in tuned.items():
        dark = shade(by_method[base].color, TUNED)
        by_method[method] = Look(dark, by_method[base].marker, method, method, dark)
    return by_method


def shade(color: str, depth: float) -> str:
    """Mix a hex colour with white (depth 0) or black (depth 1); 0.5 leaves it unchanged.

    >>> shade("#0072b2", 0.5), shade("#0072b2", 0.0)
    ('#0072b2', '#99c7e0')
    """
    share, target = (0.6 * (1 - 2 * depth), 255) if depth < 0.5 else (0.55 * (2 * depth - 1), 0)
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + share * (target - channel)):02x}" for channel in channels)


def text_color(red: float, green: float, blue: float) -> str:
    """Return black or white, whichever has more contrast on a colour with components from 0 to 1."""
    return "#141414" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "#f6f6f6"


def short(name: str, limit: int = 16) -> str:
    """Shorten a long name to its start and its end, where names that begin alike differ.

    >>> short("a hospital with a long name, ward 12")
    'a hospit…ward 12'
    """
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: limit - 1 - tail].rstrip()}…{name[-tail:].lstrip()}"
