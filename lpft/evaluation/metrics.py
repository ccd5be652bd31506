"""The registry of metrics, which all tables, pages, figures and TensorBoard events use.

A metric is an entry of `METRICS` (one number per seed and method) or of `CLIENT_METRICS` (one number per client). A new
entry is a new column of results.csv or clients.csv and, if it is `shown`, of the comparison of methods.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np

from lpft.evaluation.groups import Where, worst_group
from lpft.evaluation.metric import ClientMetric, Evaluation, Metric, Vector, check_names, compute_metric, count, mean
from lpft.evaluation.sampling import mean_of_all, standard_error


def hurt_share(local: Vector, local_before: Vector) -> float:
    """Return the share of clients, in ``[0, 1]``, whose local accuracy fell below the global model's.

    Args:
        local: accuracy of every personalized model on its own client's test set, percent, ``(C,)``.
        local_before: accuracy of the global model on the same test sets, percent, ``(C,)``.

    >>> hurt_share(np.array([90.0, 80.0, 70.0, np.nan]), np.array([90.0, 85.0, 60.0, np.nan]))
    0.3333333333333333
    """
    defined = ~(np.isnan(local) | np.isnan(local_before))
    return float((local[defined] < local_before[defined]).mean()) if defined.any() else float("nan")


def worst_share(values: Vector, share: float) -> float:
    """Return the mean of the lowest values.

    Args:
        values: one value per client, ``(C,)``; NaN is ignored.
        share: share of the clients, in ``(0, 1]``; rounded up to whole clients.

    >>> worst_share(np.array([90.0, 70.0, np.nan, 80.0, 60.0]), 0.25), worst_share(np.array([90.0, 70.0, 80.0]), 0.5)
    (60.0, 75.0)
    """
    defined = np.sort(values[~np.isnan(values)])
    return mean(defined[: math.ceil(share * len(defined))])


def gini(values: Vector) -> float:
    """Return the Gini coefficient of non-negative values: half their mean absolute difference, divided by their mean.

    >>> gini(np.array([50.0, 50.0])), gini(np.array([0.0, 100.0])), gini(np.array([1.0, 3.0, np.nan]))
    (0.0, 0.5, 0.25)
    """
    defined = values[~np.isnan(values)]
    number, total = len(defined), float(defined.sum())
    if not total > 0:
        return math.nan
    return float((2 * np.arange(1, number + 1) - number - 1) @ np.sort(defined)) / (number * total)


def _global(evaluation: Evaluation) -> Vector:
    if evaluation.num_testable is None:
        return np.asarray(np.nanmean(evaluation.accuracy, axis=1))
    rows = enumerate(evaluation.accuracy.tolist())
    return np.array([mean_of_all(row, own, evaluation.num_testable) for own, row in rows])


def _global_error(evaluation: Evaluation) -> Vector:
    if evaluation.num_testable is None:
        return np.full(len(evaluation.accuracy), np.nan)
    rows = enumerate(evaluation.accuracy.tolist())
    return np.array([standard_error(row, own, evaluation.num_testable) for own, row in rows])


def _worst_groups(evaluation: Evaluation, where: Where) -> Vector:
    results = evaluation.results or [None] * len(evaluation.accuracy)
    worst = [worst_group(result.groups or {}, where) if result else None for result in results]
    return np.array(worst, dtype=np.float64)


def _recorded(name: str, title: str, description: str, unit: str = "%") -> ClientMetric:
    """Return the metric of a field of the client results."""
    return ClientMetric(name, title, lambda e: e.values(name), description, unit)


CLIENT_METRICS = [
    ClientMetric("local", "Local", lambda e: np.diagonal(e.accuracy).copy(), "Accuracy on its own test set."),
    ClientMetric("global_all", "Global", lambda e: _global(e), "Mean accuracy over all clients' test sets."),
    ClientMetric(
        "global_all_error",
        "error of Global",
        lambda e: _global_error(e),
        "Standard error of global_all that drawing some clients to test on leaves.",
        optional=True,
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

SCORE_METRICS = {
    "nll": ("NLL", "Negative log-likelihood of the labels, in nats", ""),
    "ece": ("ECE", "Expected calibration error, 15 bins, percentage points", "%"),
    "ece_scaled": ("ECE, scaled", "The same after temperature scaling on the client's validation data", "%"),
    "balanced_accuracy": ("balanced accuracy", "Mean recall of the classes", "%"),
    "auroc": ("AUROC", "Area under the ROC curve, one class against the rest", "%"),
}
"""Title, description and unit of `lpft.evaluation.scores.SCORES`."""
PLACES: dict[str, tuple[Literal["local", "global_all"], str, str]] = {
    "local": ("local", "Local", "on the client's own test set"),
    "global": ("global_all", "Global", "on every client's test set, mean over these"),
}

CLIENT_METRICS += [
    ClientMetric(
        f"{name}_{place}",
        f"{title}, {place_title}",
        partial(Evaluation.scores, name=name, where=where),
        f"{description}; {place_description}.",
        unit,
        optional=True,
    )
    for name, (title, description, unit) in SCORE_METRICS.items()
    for place, (where, place_title, place_description) in PLACES.items()
]
CLIENT_METRICS += [
    ClientMetric(
        f"head_norm_{when}",
        f"norm of the head {when}",
        partial(Evaluation.head_norms, position=position),  # type: ignore[arg-type]
        f"Frobenius norm of the last layer's weight {when} personalization.",
        "",
        optional=True,
    )
    for position, when in enumerate(("before", "after"))
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
        "local_decile",
        "worst decile",
        lambda e: worst_share(e.of_clients("local"), 0.1),
        "Mean Local of the tenth of the clients where it is lowest; at least one client.",
    ),
    Metric(
        "local_quartile",
        "worst quartile",
        lambda e: worst_share(e.of_clients("local"), 0.25),
        "Mean Local of the quarter of the clients where it is lowest; at least one client.",
    ),
    Metric(
        "local_gini",
        "Gini of Local",
        lambda e: gini(e.of_clients("local")),
        "Gini coefficient of Local over the clients: 0 if all are alike.",
        unit="",
        format="{:.3f}".format,
        better="lower",
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
``global_others``, ``cstd_local``, ``worst_local`` and ``average2`` follow its text, which contradicts the table."""

METRICS += [
    Metric(
        metric.name,
        metric.title,
        lambda e, name=metric.name: mean(e.of_clients(name)),  # type: ignore[misc]
        metric.description,
        metric.unit,
        optional=True,
        format=("{:.1f}" if metric.unit == "%" else "{:.3f}").format,
        better="higher" if metric.name.startswith(("balanced", "auroc")) else "lower",
    )
    for metric in CLIENT_METRICS
    if metric.optional and metric.name not in ("global_all_error", "worst_group_local", "worst_group_all")
]


def metric_named(name: str) -> Metric:
    """Return an entry of `METRICS`."""
    return next(metric for metric in METRICS if metric.name == name)


def shown_metrics() -> list[Metric]:
    """Return the metrics of the comparison of methods, in its order."""
    return [metric for metric in METRICS if metric.shown]


def compute_named(evaluation: Evaluation, *names: str) -> list[float]:
    """Compute metrics by name."""
    return [compute_metric(metric_named(name), evaluation) for name in names]


def compute_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Compute every metric of a method with one seed.

    >>> figures = compute_metrics(Evaluation(np.array([[90.0, 50.0], [70.0, 80.0]])))
    >>> figures["local"], figures["global_all"], figures["worst_row"], round(figures["average3"], 4)
    (85.0, 72.5, 60.0, 72.5)
    """
    check_names(METRICS, "METRICS")
    return {metric.name: compute_metric(metric, evaluation) for metric in METRICS}


def compute_client_metrics(evaluation: Evaluation) -> dict[str, Vector]:
    """Compute every metric of the clients, ``(C,)`` each.

    >>> columns = compute_client_metrics(Evaluation(np.array([[90.0, 50.0], [70.0, 80.0]])))
    >>> columns["global_all"].tolist(), columns["worst"].tolist()
    ([70.0, 75.0], [50.0, 70.0])
    """
    check_names(CLIENT_METRICS, "CLIENT_METRICS")
    return {metric.name: evaluation.of_clients(metric.name) for metric in CLIENT_METRICS}
