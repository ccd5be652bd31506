"""The evidence for the verdicts on arXiv:2511.12695, computed from analyses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, concat

from lpft.evaluation.certainty import LEVEL, SIGNIFICANT, estimate
from lpft.evaluation.metrics import metric_named
from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import label, section
from lpft.reporting.frames import client_values, complete_rows, distortion_points
from lpft.reporting.intervals import Comparison, Key, compare
from lpft.reporting.verdicts import Outcome

FEW_LAYERS = 6
"""With fewer layers, a rank correlation with depth says little."""
NUM_RESAMPLES = 2000
"""Resamples of a bootstrap interval."""

Row = dict[str, Any]
Array = NDArray[np.float64]


def first_pair(point: Analysis) -> tuple[str, str]:
    """Return the method and baseline by which claims about LP-FT and FT are judged; empty names without a pair."""
    return next(iter(point.experiment.pairs), ("", ""))


def mean_by_method(point: Analysis, methods: Iterable[str], metric: str) -> dict[str, float]:
    """Return the mean of a metric over the seeds, of every method where it is defined."""
    values = {method: point.by_seed(method, metric) for method in methods}
    return {method: float(of_method.mean()) for method, of_method in values.items() if len(of_method)}


# Differences, one row per seed and one column per client


def gap_of(point: Analysis, method: str, baseline: str, metric: str) -> DataFrame:
    """Return the paired differences of two rows; a metric without values for clients has a single column."""
    gaps = point.certainty.gaps(method, baseline, metric)
    if gaps.empty and {method, baseline} <= set(point.experiment.complete_methods):
        return point.differences(method, baseline, metric).to_frame()
    return gaps


def gap_of_families(point: Analysis, method: str, baseline: str, metric: str) -> DataFrame:
    """Return the paired differences of two methods, each the mean over its variants."""
    pairs = product(point.experiment.family_rows(method), point.experiment.family_rows(baseline))
    gaps = [point.certainty.gaps(*pair, metric) for pair in pairs]
    return sum(gaps[1:], gaps[0]) / len(gaps) if gaps else DataFrame()


def change_since(point: Analysis, method: str, metric: str, epoch: int) -> DataFrame:
    """Return how far the end of fine-tuning is above an epoch; 0 for a client that ends with the global model."""
    curves = complete_rows(point.frames, point.frames.curves, method)
    at_epoch = curves[curves["epoch"] == epoch].pivot(index="client", columns="seed", values=metric)
    clients = complete_rows(point.frames, point.frames.clients, method)
    unchanged = clients.pivot(index="client", columns="seed", values="status").isin(["diverged", "no_train"])
    return (client_values(point.frames, method, metric) - at_epoch).mask(unchanged, 0.0).T


def compare_by(gaps: Mapping[Key, DataFrame], metric: str, points: Sequence[Analysis]) -> dict[Key, Comparison]:
    """Judge the differences of a verdict, with p-values adjusted for their number."""
    return compare(gaps, metric_named(metric), points[0].certainty.equivalence) if points else {}


def compare_pairs(
    pairs: Mapping[int, tuple[Analysis, tuple[str, str]]], metrics: Iterable[str], points: Sequence[Analysis]
) -> dict[str, dict[int, Comparison]]:
    """Judge by metric the differences of method and baseline of numbered pairs; see `compare_by`."""
    return {
        metric: compare_by({n: gap_of(point, *pair, metric) for n, (point, pair) in pairs.items()}, metric, points)
        for metric in metrics
    }


def is_better(comparison: Comparison | None) -> bool | None:
    """Return whether a difference is an improvement: False if worse or equivalent, None if undecided."""
    return {"better": True, "worse": False, "equivalent": False}.get(comparison.verdict) if comparison else None


def is_kept(comparison: Comparison, equivalence: float) -> bool | None:
    """Return whether a loss beyond the region of equivalence is ruled out (a one-sided test at 5%).

    False if there is a significant loss, None if undecided.
    """
    if comparison.estimate.interval(1 - 2 * SIGNIFICANT)[0] > -equivalence or comparison.verdict == "equivalent":
        return True
    return False if comparison.verdict == "worse" else None


def all_or_none(outcomes: Sequence[bool | None]) -> Outcome:
    """Return the outcome of a claim from several judgements, of which None is undecided."""
    if not outcomes:
        return "not judged"
    return "held" if all(outcomes) else "unclear" if True in outcomes or None in outcomes else "not held"


# Epochs and durations


def evaluated_epochs(point: Analysis, method: str) -> tuple[int, int] | None:
    """Return the epoch with the best Global, mean over clients and seeds, and the first epoch after 0.

    Only epochs that were evaluated with all seeds count; None if there is none but epoch 0, the global model.
    """
    frame = complete_rows(point.frames, point.frames.mean_curves, method)
    evaluated = frame.dropna(subset=["local", "global_all"])
    counts = evaluated.groupby("epoch")["seed"].nunique()
    epochs = counts.index[counts == frame["seed"].nunique()]
    if not any(epochs > 0):
        return None
    means = evaluated[evaluated["epoch"].isin(epochs)].groupby("epoch")["global_all"].mean().astype(float)
    return int(means.idxmax()), int(min(epoch for epoch in epochs if epoch > 0))


def by_duration(point: Analysis) -> dict[str, dict[int, str]]:
    """Return the rows for every duration of linear probing, in order, by family and other settings."""
    experiment, durations = point.experiment, dict[str, dict[int, str]]()
    budget = section(experiment.config, "personalization").get("epochs")
    for method in experiment.complete_methods:
        variant = experiment.variants.get(method)
        if variant and "lp_epochs" in variant.values:
            other_values = dict(variant.values)
            duration = other_values.pop("lp_epochs")
            if duration is None:
                duration = argument(point, method, "epochs") or budget
            if duration is not None:
                name = f"{variant.family} ({label(other_values)})" if other_values else variant.family
                durations.setdefault(name, {})[int(duration)] = method
    return {name: dict(sorted(rows.items())) for name, rows in durations.items()}


def argument(point: Analysis, method: str, name: str) -> Any:
    """Return an argument of a method's class in the configuration; None by default."""
    return section(point.experiment.config, "methods", method, "init_args").get(name)


def flood_levels(point: Analysis, family: str) -> dict[float, str]:
    """Return the rows of a method by their flood level."""
    levels = {method: argument(point, method, "flood") for method in point.experiment.family_rows(family)}
    return {float(level): method for method, level in levels.items() if level is not None}


def last_loss(point: Analysis, method: str) -> float:
    """Return the training loss of the last epoch, mean over clients and seeds."""
    rows = complete_rows(point.frames, point.frames.mean_curves, method)
    return float(rows.groupby("seed")["train_loss"].last().astype(float).mean())


def accuracy_before(point: Analysis) -> DataFrame:
    """Return the global model's accuracy on every client's test set, one row per seed and one column per client."""
    clients = point.frames.clients
    frame = clients[clients["method"].isin(point.experiment.complete_methods)]
    frame = frame.astype({"local_before": float}).dropna(subset=["local_before"])
    return frame.drop_duplicates(["seed", "client"]).pivot(index="seed", columns="client", values="local_before")


def average_of(point: Analysis) -> str:
    """Return the metric called Average; for a single client, which has no worst other, the one without Worst."""
    return "average3" if point.frames.results["average3"].notna().any() else "average2"


# Layers


def by_layer(point: Analysis, methods: Iterable[str]) -> dict[str, DataFrame]:
    """Return relative distortion by layer, mean over methods: one row per seed and one column per client."""
    chosen = set(methods)
    rows = [
        (layer, result.seed, cell.client, moved)
        for result in point.method_results
        if result.complete and result.method in chosen
        for cell in result.client_results
        if cell.status == "ok"
        for layer, moved in (cell.depth or {}).items()
    ]
    frame = DataFrame(rows, columns=["layer", "seed", "client", "moved"])
    return {
        str(layer): of_layer.pivot_table(index="seed", columns="client", values="moved", aggfunc="mean")
        for layer, of_layer in frame.groupby("layer", sort=False)
    }


def profile_of(layers: Mapping[str, DataFrame]) -> Row:
    """Return the distortion of every layer, and its rank correlation with depth."""
    moved = {layer: estimate(values) for layer, values in layers.items()}
    means = [of_layer.mean for of_layer in moved.values()]
    rank = rank_correlation(list(enumerate(means))) if len(means) >= FEW_LAYERS else math.nan
    lowest, highest = (pick(moved, key=lambda layer: moved[layer].mean) for pick in (min, max))
    return {"layers": moved, "lowest": lowest, "highest": highest, "last": list(moved)[-1], "rank": rank}


# Correlations


@dataclass(frozen=True)
class Coefficient:
    """A correlation with its 95% interval; NaN where one of them cannot be computed."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes zero, otherwise 0."""
        return int(self.low > 0) - int(self.high < 0)


def distortion_and_loss(point: Analysis, families: Iterable[str]) -> DataFrame:
    """Return distortion and loss of Global for every seed, client and evaluated epoch of some methods."""
    frames = [
        distortion_points(point.frames, row) for family in families for row in point.experiment.family_rows(family)
    ]
    columns = ["seed", "client", "distortion", "loss"]
    return concat([frame[columns] for frame in frames]) if frames else DataFrame(columns=columns)


def correlations(frame: DataFrame) -> tuple[Coefficient, Coefficient]:
    """Return Pearson's and Spearman's coefficient of distortion and loss; NaN for fewer than three points.

    Several points belong to one client and to one seed, so clients and seeds are resampled, independently, and not
    points: a point counts as often as its client times its seed.

    References:
        Owen (2007), The pigeonhole bootstrap. The ranks are those of the whole sample.
    """
    pairs = frame[["distortion", "loss"]].astype(float)
    weights = resampled(frame["seed"].to_numpy(), frame["client"].to_numpy())
    return _coefficient(pairs, weights), _coefficient(pairs.rank(), weights)


def resampled(*groups: Array) -> Array:
    """Return how often every point counts in resamples of its groups, ``(NUM_RESAMPLES, num_points)``."""
    generator = np.random.default_rng(0)
    weights = np.ones((NUM_RESAMPLES, len(groups[0])))
    for group in groups:
        names, index = np.unique(group, return_inverse=True)
        if len(names) > 1:  # the only seed or client cannot be resampled
            weights *= generator.multinomial(len(names), np.full(len(names), 1 / len(names)), NUM_RESAMPLES)[:, index]
    return weights


def _coefficient(pairs: DataFrame, weights: Array) -> Coefficient:
    x, y = pairs.to_numpy().T
    if len(pairs) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Coefficient(math.nan, math.nan, math.nan)
    value = weighted_correlation(x, y, np.ones((1, len(x))))[0]
    resamples = weighted_correlation(x, y, weights)
    tails = (1 - LEVEL) / 2
    low, high = np.nanquantile(resamples, [tails, 1 - tails]) if np.isfinite(resamples).any() else (math.nan, math.nan)
    return Coefficient(float(value), float(low), float(high))


def weighted_correlation(x: Array, y: Array, weights: Array) -> Array:
    """Return the correlation of x and y, ``(num_points,)``, for every row of weights; NaN if one side is constant.

    >>> weighted_correlation(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0]), np.array([[1, 1, 0], [1, 1, 1]]))
    array([1., 0.])
    """
    shares = weights / weights.sum(axis=1, keepdims=True)
    (x_mean, y_mean), (xx, yy, xy) = (
        [shares @ values for values in moments] for moments in ((x, y), (x * x, y * y, x * y))
    )
    variances = np.stack([xx - x_mean**2, yy - y_mean**2])
    constant = (variances <= 1e-12 * np.stack([xx, yy])).any(axis=0)
    spread = np.sqrt(np.where(constant, math.nan, variances.prod(axis=0)))
    return np.clip((xy - x_mean * y_mean) / spread, -1, 1)


def trend(points: Sequence[tuple[DataFrame, DataFrame]]) -> Coefficient:
    """Return the rank correlation of two values over the points of a sweep, computed seed by seed.

    Args:
        points: the two values of every point, each with one row per seed and one column per client.

    Returns:
        Its mean over the seeds, with a t interval, as far as that lies in ``[-1, 1]``.
    """
    seeds = sorted(set.intersection(*(set(x.index) & set(y.index) for x, y in points)))
    by_seed = [rank_correlation([(x.loc[seed].mean(), y.loc[seed].mean()) for x, y in points]) for seed in seeds]
    mean = estimate(np.array(by_seed, dtype=float).reshape(-1, 1))
    return Coefficient(mean.mean, *np.clip(mean.interval(), -1.0, 1.0).tolist())


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's coefficient; NaN for fewer than three pairs, or if one side is constant."""
    ranks = DataFrame(pairs, columns=["x", "y"], dtype=float).dropna().rank()
    if len(ranks) < 3:
        return math.nan
    return float(weighted_correlation(ranks["x"].to_numpy(), ranks["y"].to_numpy(), np.ones((1, len(ranks))))[0])
