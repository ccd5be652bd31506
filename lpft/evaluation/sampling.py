"""Testing every model on some clients only: what that says about all."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_of_all(row: Sequence[float | None], own: int, num_testable: int | None) -> float:
    """Return the mean of a model's accuracies over all clients, or what is expected of it; NaN without any.

    Where only some clients were drawn, the client's own test set counts as one of all of them, and the drawn others
    stand for the rest: an estimate without bias.

    Args:
        row: accuracies on the clients' test sets, ``(C,)``; None or NaN where there is none.
        own: position of the model's own client.
        num_testable: number of clients with test samples; None if the row has all of them.

    >>> mean_of_all([90.0, 50.0, None, 70.0, None], own=0, num_testable=5)
    66.0
    """
    at_home, others = split_row(row, own)
    defined = [*at_home, *others]
    if num_testable is None or not others:
        return sum(defined) / len(defined) if defined else math.nan
    rest = num_testable - len(at_home)
    return (sum(at_home) + rest * sum(others) / len(others)) / num_testable


def standard_error(row: Sequence[float | None], own: int, num_testable: int | None) -> float:
    """Return the standard error of `mean_of_all` that drawing clients leaves; 0 if all were tested.

    It is that of a sample without replacement; NaN for a single other client.

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
    at_home, others = split_row(row, own)
    rest, number = num_testable - len(at_home), len(others)
    if number < 2:
        return 0.0 if rest == number else math.nan
    center = sum(others) / number
    variance = sum((value - center) ** 2 for value in others) / (number - 1)
    return rest / num_testable * math.sqrt(variance / number * (1 - number / rest))


def split_row(row: Sequence[float | None], own: int) -> tuple[list[float], list[float]]:
    """Return the accuracies on the own test set (one or none) and on the others' that there are."""
    at_home, others = [row[own]], [*row[:own], *row[own + 1 :]]
    return _defined(at_home), _defined(others)


def _defined(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]
