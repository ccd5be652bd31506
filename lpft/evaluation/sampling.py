"""Estimates of the accuracy over all clients from tests on a random sample of them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_of_all(row: Sequence[float | None], own: int, num_testable: int | None) -> float:
    """Return the mean of a model's accuracies over all clients, or an unbiased estimate of it; NaN without values.

    If only some clients were drawn, the client's own test set has the weight of one client, and the other drawn ones
    represent all others.

    Args:
        row: accuracies on the clients' test sets, ``(C,)``; None or NaN if undefined or not tested.
        own: position of the model's client.
        num_testable: number of clients with test samples; None if the row contains all of them.

    >>> mean_of_all([90.0, 50.0, None, 70.0, None], own=0, num_testable=5)
    66.0
    """
    local, others = split_row(row, own)
    defined = [*local, *others]
    if num_testable is None or not others:
        return sum(defined) / len(defined) if defined else math.nan
    num_others = num_testable - len(local)
    return (sum(local) + num_others * sum(others) / len(others)) / num_testable


def standard_error(row: Sequence[float | None], own: int, num_testable: int | None) -> float:
    """Return the standard error of `mean_of_all` due to drawing clients; 0 if all were tested.

    It assumes sampling without replacement; NaN if a single other client was drawn.

    Args:
        row: as in `mean_of_all`.
        own: as in `mean_of_all`.
        num_testable: as in `mean_of_all`.

    References:
        Cochran, Sampling Techniques (1977), theorem 2.2.

    >>> standard_error([90.0, 50.0, None, 70.0, None], own=0, num_testable=5) == 0.8 * (200 / 2 * (1 - 2 / 4)) ** 0.5
    True
    """
    if num_testable is None:
        return 0.0
    local, others = split_row(row, own)
    num_others, num_drawn = num_testable - len(local), len(others)
    if num_drawn < 2:
        return 0.0 if num_others == num_drawn else math.nan
    center = sum(others) / num_drawn
    variance = sum((value - center) ** 2 for value in others) / (num_drawn - 1)
    return num_others / num_testable * math.sqrt(variance / num_drawn * (1 - num_drawn / num_others))


def split_row(row: Sequence[float | None], own: int) -> tuple[list[float], list[float]]:
    """Return the defined accuracies on the client's own test set (one or none) and on those of the others."""
    return _defined([row[own]]), _defined([*row[:own], *row[own + 1 :]])


def _defined(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]
