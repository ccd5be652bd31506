"""The registry of metrics, which every table, page, figure and TensorBoard event reads.

A metric is an entry of `METRICS` (one number per seed and method) or of `CLIENT_METRICS` (one number per client). A new
entry is a new column of results.csv or clients.csv and, if it is `shown`, of the comparison of methods.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpft.evaluation.groups import Where, worst_group
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

    def of_clients(self, name: str) -> Vector:
        """Return a metric of `CLIENT_METRICS` for every client, ``(C,)``."""
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

    def text(self, mean: float, std: float = 0.0, n: int = 1) -> str:
        """Write a mean over ``n`` seeds, with its standard deviation if there are several.

        >>> METRICS[0].text(91.17, 0.9, 3)
        '91.2 ± 0.9'
        """
        if math.isnan(mean):
            return "-"
        return f"{self.format(mean)} ± {self.format(std)}" if self.spread and n > 1 else self.format(mean)


def count(value: float) -> str:
    """Abbreviate a large count.

    >>> count(950), count(12_345), count(6_780_000)
    ('950', '12.3k', '6.78M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def mean(values: Iterable[float | None]) -> float:
    """Return the mean of the values that are neither None nor NaN, rounded once; NaN if there are none."""
    defined = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def hurt_share(local: Vector, local_before: Vector) -> float:
    """Return the share of clients, in ``[0, 1]``, whose local accuracy fell below the global model's.

    Args:
        local: every personalized model on its own client's test set, percent, ``(C,)``.
        local_before: the global model on the same test sets, percent, ``(C,)``.

    >>> hurt_share(np.array([90.0, 80.0, 70.0, np.nan]), np.array([90.0, 85.0, 60.0, np.nan]))
    0.3333333333333333
    """
    defined = ~(np.isnan(local) | np.isnan(local_before))
    return float((local[defined] < local_before[defined]).mean()) if defined.any() else float("nan")


def _worst_groups(evaluation: Evaluation, where: Where) -> Vector:
    worst = [worst_group(result.groups or {}, where) if result else None for result in evaluation.results]
    return np.array(worst, dtype=np.float64)


def _recorded(name: str, title: str, description: str, unit: str = "%") -> ClientMetric:
    """Make the metric of a field of the client results."""
    return ClientMetric(name, title, lambda e: e.values(name), description, unit)


CLIENT_METRICS = [
    ClientMetric("local", "Local", lambda e: np.diagonal(e.accuracy).copy(), "Accuracy on its own test set."),
    ClientMetric(
        "global_all", "Global", lambda e: np.nanmean(e.accuracy, axis=1), "Mean accuracy over all clients' test sets."
    ),
    ClientMetric(
        "global_others", "others", lambda e: np.nanmean(e.others, axis=1), "Mean accuracy over the others' test sets."
    ),
    ClientMetric(
        "worst", "worst", lambda e: np.nanmin(e.others, axis=1), "Lowest accuracy on another client's test set."
    ),
    ClientMetric(
        "cstd",
        "C-Std",
        lambda e: np.nanstd(e.accuracy, axis=1, ddof=e.ddof),
        "Standard deviation of accuracy over all clients' test sets.",
    ),
    _recorded(
        "distortion_own",
        "distortion",
        "Mean l2 distance of the features from the global model's, over its own test samples.",
        unit="",
    ),
    _recorded("distortion_all", "distortion, all", "The same over all test samples.", unit=""),
    _recorded(
        "distortion_relative",
        "relative distortion",
        "distortion_own divided by the mean norm of the global model's features.",
        unit="",
    ),
    _recorded("val_before", "validation before", "The global model's validation accuracy."),
    _recorded("val_after", "validation after", "Validation accuracy after personalization."),
    _recorded("seconds", "seconds", "Wall-clock time of training and evaluation.", unit="s"),
    ClientMetric(
        "worst_group_local",
        "worst group",
        lambda e: _worst_groups(e, "local"),
        "Lowest accuracy over the groups of its own test samples.",
        optional=True,
    ),
    ClientMetric(
        "worst_group_all",
        "worst group, all",
        lambda e: _worst_groups(e, "all"),
        "Lowest accuracy over the groups of all clients' test samples.",
        optional=True,
    ),
]

_accuracy = partial(Metric, shown=True)
_deviation = partial(Metric, better="lower")
_distortion = partial(Metric, unit="", format="{:.2f}".format, better="lower")
_cost = partial(Metric, format=count, better="lower", shown=True, spread=False)

METRICS = [
    _accuracy(
        "local",
        "Local",
        lambda e: np.nanmean(e.of_clients("local")),
        "A client's personalized model on its own test set, mean over clients: the goal of personalization.",
    ),
    _accuracy(
        "global_all",
        "Global",
        lambda e: np.nanmean(e.of_clients("global_all")),
        "A client's personalized model on the test sets of all clients, its own included, mean over clients: what it"
        " still knows about the others.",
    ),
    _accuracy(
        "global_others",
        "others",
        lambda e: np.nanmean(e.of_clients("global_others")),
        "Global without the client's own test set.",
        rank=1,
    ),
    _deviation(
        "cstd_row",
        "C-Std",
        lambda e: np.nanmean(e.of_clients("cstd")),
        "Standard deviation of a personalized model's accuracy over all test sets, mean over clients.",
    ),
    _deviation(
        "cstd_local",
        "C-Std of Local",
        lambda e: np.nanstd(e.of_clients("local"), ddof=e.ddof),
        "Standard deviation of Local over the clients.",
    ),
    _accuracy(
        "worst_row",
        "worst",
        lambda e: np.nanmean(e.of_clients("worst")),
        "A client's personalized model on the other client's test set that it does worst on, mean over clients.",
    ),
    Metric("worst_local", "worst Local", lambda e: np.nanmin(e.of_clients("local")), "Lowest Local of a client."),
    Metric("worst_pair", "worst pair", lambda e: np.nanmin(e.accuracy), "Lowest entry of the accuracy matrix."),
    _accuracy(
        "average3",
        "average3",
        lambda e: sum(compute_named(e, "local", "global_all", "worst_row")) / 3,
        "Mean of Local, Global and worst: the column Average in Table 2 of arXiv:2511.12695.",
        rank=3,
    ),
    Metric(
        "average2",
        "average2",
        lambda e: sum(compute_named(e, "local", "global_all")) / 2,
        "Mean of Local and Global: the average as the text of arXiv:2511.12695 defines it.",
    ),
    _distortion(
        "distortion_own",
        "distortion",
        lambda e: mean(e.values("distortion_own")),
        "How far the features (the input of the last layer) moved from the global model's: mean l2 distance over the"
        " client's test samples, mean over clients. Zero if only the last layer was trained.",
        shown=True,
        rank=6,
    ),
    _distortion(
        "distortion_all",
        "distortion, all",
        lambda e: mean(e.values("distortion_all")),
        "The same over the test samples of all clients.",
    ),
    _cost(
        "hurt_share",
        "hurt",
        lambda e: hurt_share(e.of_clients("local"), e.values("local_before")),
        "Share of clients whose personalized model has a lower Local than the global model.",
        unit="",
        format="{:.0%}".format,
        rank=5,
    ),
    _cost(
        "train_passes",
        "passes",
        lambda e: math.fsum(e.values("train_passes")),
        "Training cost: forward and backward passes of single samples, summed over clients. A forward pass alone counts"
        " a third; training the head on stored features counts nothing.",
        unit="passes",
        rank=4,
    ),
    _cost(
        "seconds",
        "seconds",
        lambda e: math.fsum(e.values("seconds")),
        "Wall-clock time of training and evaluation, summed over clients.",
        unit="s",
        rank=2,
    ),
    Metric(
        "worst_group_local",
        "worst group",
        lambda e: mean(e.of_clients("worst_group_local")),
        "Lowest accuracy over the groups of a client's own test samples, mean over clients.",
        optional=True,
    ),
    Metric(
        "worst_group_all",
        "worst group, all",
        lambda e: mean(e.of_clients("worst_group_all")),
        "Lowest accuracy over the groups of all clients' test samples, mean over clients.",
        optional=True,
    ),
]
"""``global_all``, ``cstd_row``, ``worst_row`` and ``average3`` follow the numbers of Table 2 in arXiv:2511.12695;
``global_others``, ``cstd_local``, ``worst_local`` and ``average2`` follow its text (the two do not agree)."""


def metric_named(name: str) -> Metric:
    """Return an entry of `METRICS`."""
    return next(metric for metric in METRICS if metric.name == name)


def shown_metrics() -> list[Metric]:
    """Return the metrics of the comparison of methods, in its order."""
    return [metric for metric in METRICS if metric.shown]


def compute_metric(metric: Metric | ClientMetric, evaluation: Evaluation):  # type: ignore[no-untyped-def]
    """Compute a metric; the mean of an empty array is NaN, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return metric.compute(evaluation)


def compute_named(evaluation: Evaluation, *names: str) -> list[float]:
    """Compute metrics by name."""
    return [float(compute_metric(metric_named(name), evaluation)) for name in names]


def compute_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Compute every metric of a method with one seed.

    >>> figures = compute_metrics(Evaluation(np.array([[90.0, 50.0], [70.0, 80.0]])))
    >>> figures["local"], figures["global_all"], figures["worst_row"], round(figures["average3"], 4)
    (85.0, 72.5, 60.0, 72.5)
    """
    return {metric.name: float(compute_metric(metric, evaluation)) for metric in METRICS}


def compute_client_metrics(evaluation: Evaluation) -> dict[str, Vector]:
    """Compute every metric of the clients, ``(C,)`` each.

    >>> columns = compute_client_metrics(Evaluation(np.array([[90.0, 50.0], [70.0, 80.0]])))
    >>> columns["global_all"].tolist(), columns["worst"].tolist()
    ([70.0, 75.0], [50.0, 70.0])
    """
    return {metric.name: compute_metric(metric, evaluation) for metric in CLIENT_METRICS}
