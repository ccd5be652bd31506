"""What a metric is, and what it is computed from; `lpft.evaluation.metrics` has the metrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpft.storage.client_result import ClientResult

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What all metrics are computed from: one method's results with one seed.

    Args:
        accuracy: percent, shape ``(C, C)``; row = whose model, column = whose test set. A client without test samples
            is a column of NaN, which every mean, minimum and standard deviation ignores.
        results: results of every client in the order of the rows, None if one is missing; may be empty.
        ddof: delta degrees of freedom of standard deviations over test sets and clients.
    """

    accuracy: Matrix
    results: Sequence[ClientResult | None] = ()
    ddof: int = 0

    def __post_init__(self) -> None:
        if self.accuracy.ndim != 2 or self.accuracy.shape[0] != self.accuracy.shape[1] or not len(self.accuracy):
            raise ValueError(
                f"The accuracy matrix has shape {self.accuracy.shape}, but needs one row and one column per client."
            )

    @cached_property
    def others(self) -> Matrix:
        """The accuracy matrix without every client's own test set: NaN on the diagonal."""
        return np.where(np.eye(len(self.accuracy), dtype=bool), np.nan, self.accuracy)

    def values(self, name: str) -> Vector:
        """Return a field of all client results, ``(C,)``; NaN where it is None or the result is missing."""
        results = self.results or [None] * len(self.accuracy)
        return np.array([getattr(result, name, None) for result in results], dtype=np.float64)

    def scores(self, name: str, where: Literal["local", "global_all"]) -> Vector:
        """Return a score of all clients' predictions, at home or everywhere, ``(C,)``; NaN where there is none."""
        results = self.results or [None] * len(self.accuracy)
        found = [(result.scores or {}).get(name, {}).get(where) if result else None for result in results]
        return np.array(found, dtype=np.float64)

    def head_norms(self, place: Literal[0, 1]) -> Vector:
        """Return the norm of every client's head before (0) or after (1) personalization, ``(C,)``."""
        norms = [result.head_norms if result else None for result in self.results] or [None] * len(self.accuracy)
        return np.array([pair[place] if pair else None for pair in norms], dtype=np.float64)

    @cached_property
    def num_testable(self) -> int | None:
        """Number of clients with test samples, if models were tested on some of them only."""
        return next((r.num_testable for r in self.results if r and r.num_testable is not None), None)

    def of_clients(self, name: str) -> Vector:
        """Return a metric of `CLIENT_METRICS` for every client, ``(C,)``."""
        from lpft.evaluation.metrics import CLIENT_METRICS

        return compute_metric(next(metric for metric in CLIENT_METRICS if metric.name == name), self)


@dataclass(frozen=True)
class ClientMetric:
    """A number that describes every client's model.

    Args:
        name: its column in clients.csv.
        title: how tables and figures call it.
        compute: takes an `Evaluation`, returns ``(C,)``; NaN where it is not defined.
        description: what it is, in a sentence or two; legends show it.
        unit: of its values.
        optional: whether the column is left out where it has no values.
    """

    name: str
    title: str
    compute: Callable[[Evaluation], Any]
    description: str
    unit: str = "%"
    optional: bool = False


@dataclass(frozen=True)
class Metric(ClientMetric):
    """A number that sums up one method with one seed: ``compute`` returns a float.

    Its name is its column in results.csv, and ``final/NAME`` in TensorBoard.

    Args:
        format: how a value is written in tables.
        better: which values are better.
        shown: whether it is a column of the comparison of methods, and a metric of TensorBoard's HPARAMS tab.
        spread: whether the comparison shows the standard deviation over the seeds, too.
        rank: a narrow terminal omits the shown metrics of the lowest rank first; 9 always stays.
    """

    format: Callable[[float], str] = "{:.1f}".format
    better: Literal["higher", "lower"] = "higher"
    shown: bool = False
    spread: bool = True
    rank: int = 9


def count(value: float) -> str:
    """Abbreviate a large count.

    >>> count(950), count(12_345), count(6_780_000)
    ('950', '12.3k', '6.78M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def mean(values: Iterable[float | None] | Vector) -> float:
    """Return the mean of the values that are neither None nor NaN, rounded once; NaN if there are none."""
    if isinstance(values, np.ndarray):
        defined = values[~np.isnan(values)].tolist()
    else:
        defined = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def compute_metric(metric: Metric | ClientMetric, evaluation: Evaluation):  # type: ignore[no-untyped-def]
    """Compute a metric; the mean of an empty array is NaN, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return metric.compute(evaluation)
