"""The table of methods at equal Local: rows for people, of what `lpft.reporting.tradeoff` computed."""

from __future__ import annotations

from lpft.reporting.intervals import estimate_text
from lpft.reporting.tradeoff import MatchedComparison, Tradeoff

HEADER = ("method", "reference", "Local (%)", "Global minus the reference's", "a by validation data", "Local", "Global")

Rows = list[tuple[str, list[str]]]
"""Method and entries."""


def equal_local_rows(tradeoff: Tradeoff) -> Rows:
    """Return the entries of `HEADER` for every method with a curve and every reference; empty without comparisons.

    A method that is compared with no reference has one row with its best model on the line. The last two entries are
    Local and Global of the models at the ``a`` that validation data chose, mean over clients and seeds.
    """
    comparisons, rows = tradeoff.comparisons, []
    for one in tradeoff.summary.itertuples() if comparisons else ():
        chosen = [f"{one.best_a:.2f}", f"{one.best_local:.1f}", f"{one.best_global_all:.1f}"]
        found = {reference: c for (method, reference), c in comparisons.items() if method == one.method}
        compared = [[reference, *_entries(c)] for reference, c in found.items()] or [["-", "-", "-"]]
        rows += [(str(one.method), [*entries, *chosen]) for entries in compared]
    return rows


def _entries(found: MatchedComparison) -> list[str]:
    """Return the range of Local, and the difference with its interval and verdict."""
    if not found.matched.overlaps:
        return ["-", "no Local in common"]
    span = f"{found.matched.low:.1f} - {found.matched.high:.1f}"
    return [span, f"{estimate_text(found.estimate, '+.1f')} {found.verdict}"]
