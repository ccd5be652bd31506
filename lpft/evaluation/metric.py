"""The types of metrics and of their input; `lpft.evaluation.metrics` is the registry."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lpft.storage.client_result import ClientResult

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Better = Literal["higher", "lower"]
RESERVED = ("seed", "method", "client", "status")
"""Columns of results.csv and clients.csv that are not metrics."""


@dataclass(frozen=True)
class Evaluation:
    """The input of all metrics: the results of one method with one seed.

    Args:
        accuracy: percent, shape ``(C, C)``; row = whose model, column = whose test set. A client without test samples
            is a column of NaN, which every mean, minimum and standard deviation ignores.
        results: client results in the order of the rows, None if missing; or empty.
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
        """Return a score of every client's model, on its own or on all test sets, ``(C,)``; NaN if not recorded."""
        results = self.results or [None] * len(self.accuracy)
        values = [(result.scores or {}).get(name, {}).get(where) if result else None for result in results]
        return np.array(values, dtype=np.float64)

    def head_norms(self, position: Literal[0, 1]) -> Vector:
        """Return the norm of every client's head before (0) or after (1) personalization, ``(C,)``."""
        norms = [result.head_norms if result else None for result in self.results] or [None] * len(self.accuracy)
        return np.array([pair[position] if pair else None for pair in norms], dtype=np.float64)

    @cached_property
    def num_testable(self) -> int | None:
        """Number of clients with test samples, if models were tested on only some of them."""
        return next((r.num_testable for r in self.results if r and r.num_testable is not None), None)

    def of_clients(self, name: str) -> Vector:
        """Compute a metric of `CLIENT_METRICS` for every client, ``(C,)``."""
        from lpft.evaluation.metrics import CLIENT_METRICS

        metrics = {metric.name: metric for metric in CLIENT_METRICS}
        if name not in metrics:
            raise ValueError(f"No metric of clients is called `{name}`. HINT: one of {', '.join(metrics)}.")
        return compute_metric(metrics[name], self)


@dataclass(frozen=True)
class ClientMetric:
    """A number that describes every client's model.

    Args:
        name: name of its column in clients.csv.
        title: name in tables and figures.
        compute: takes an `Evaluation`, returns ``(C,)``; NaN where undefined.
        description: one or two sentences for legends.
        unit: unit of its values.
        optional: whether the column is omitted if it has no values.
    """

    name: str
    title: str
    compute: Callable[[Evaluation], Any]
    description: str
    unit: str = "%"
    optional: bool = False


@dataclass(frozen=True)
class Metric(ClientMetric):
    """A number that summarizes one method with one seed: ``compute`` returns a float.

    Its name is its column in results.csv, and ``final/NAME`` in TensorBoard.

    Args:
        format: formats a value for tables.
        better: whether higher or lower values are better.
        shown: whether it is a column of the comparison of methods, and a metric of TensorBoard's HPARAMS tab.
        spread: whether the comparison also shows the standard deviation over the seeds.
        rank: on a narrow terminal, shown metrics of the lowest rank are omitted first; those of rank 9 never are.
    """

    format: Callable[[float], str] = "{:.1f}".format
    better: Better = "higher"
    shown: bool = False
    spread: bool = True
    rank: int = 9

    def __post_init__(self) -> None:
        if self.better not in get_args(Better) or not callable(self.format):
            raise ValueError(
                f"Metric `{self.name}` has better={self.better!r} and format={self.format!r}, but needs one of"
                f" {', '.join(map(repr, get_args(Better)))}, and a function such as '{{:.1f}}'.format."
            )


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
    """Return the correctly rounded mean of all values that are neither None nor NaN; NaN if there are none."""
    if isinstance(values, np.ndarray):
        defined = values[~np.isnan(values)].tolist()
    else:
        defined = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def compute_metric(metric: Metric | ClientMetric, evaluation: Evaluation) -> Any:
    """Compute a metric without warnings about means of empty arrays, which are NaN.

    Returns:
        A float for a `Metric`; otherwise one value per client, float64, ``(C,)``.

    Raises:
        ValueError: if its function returned anything else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        value = metric.compute(evaluation)
    shape = () if isinstance(metric, Metric) else (len(evaluation.accuracy),)
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or numbers.shape != shape:
        given = f"of type {type(value).__name__}" if numbers is None else f"of shape {numbers.shape}"
        raise ValueError(f"The function of metric `{metric.name}` returned a value {given}, but needs shape {shape}.")
    return numbers if shape else float(numbers)


def check_names(metrics: Sequence[ClientMetric], registry: str) -> None:
    """Raise ValueError if two metrics of a registry have the same name, or a metric that of another column."""
    names = [metric.name for metric in metrics]
    taken = [name for name in names if names.count(name) > 1 or name in RESERVED]
    if taken:
        raise ValueError(
            f"A metric cannot be called `{taken[0]}`: another column, or another metric, already is. HINT: if you ran"
            f" a notebook cell twice, use `{registry}[:] = [m for m in {registry} if m.name != {taken[0]!r}]` first."
        )
