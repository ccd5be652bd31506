"""How verdicts put numbers and places into words."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from lpft.reporting.sweeps import Point


def spread(values: Sequence[float], form: str) -> str:
    """Return mean and standard deviation (ddof 0) of values, of which a single one has none.

    >>> spread([1.0, 2.0], "+.1f"), spread([1.0], "+.1f"), spread([], "+.1f")
    ('+1.5 ± 0.5', '+1.0', 'unknown')
    """
    if not values:
        return "unknown"
    return f"{fmean(values):{form}}" + (f" ± {pstdev(values):{form.lstrip('+')}}" if len(values) > 1 else "")


def at(point: Point, line: str) -> str:
    """Begin a line with the point of the sweep that it is about; a run by itself needs no name."""
    return f"{point.label}: {line}" if point.values else line
