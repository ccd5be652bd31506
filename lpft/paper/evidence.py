"""What the verdicts on arXiv:2511.12695 look at, computed from an analysis."""

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
from lpft.reporting.analysis import Analysis, family_rows
from lpft.reporting.experiment import label, section
from lpft.reporting.frames import client_values, complete_rows, distortion_points
from lpft.reporting.intervals import Comparison, Key, compare
from lpft.reporting.references import reference_rows

FEW_LAYERS = 6
"""With fewer layers, a rank correlation with depth says little."""
NUM_RESAMPLES = 2000
"""Resamples of a bootstrap interval."""

Row = dict[str, Any]
Array = NDArray[np.float64]


def trained(point: Analysis) -> list[str]:
    """Return the complete methods without the global model itself, and without those that do not start from it."""
    others = {point.experiment.reference, *reference_rows(point.experiment.config)}
    return [method for method in point.experiment.complete_methods if method not in others]


def first_pair(point: Analysis) -> tuple[str, str]:
    """Return the method and the baseline that a claim about LP-FT and FT is judged by; empty names without a pair."""
    return next(iter(point.experiment.pairs), ("", ""))


def mean_by_method(point: Analysis, methods: Iterable[str], metric: str) -> dict[str, float]:
    """Return the mean of a metric over the seeds, of every method where it is defined."""
    values = {method: point.by_seed(method, metric) for method in methods}
    return {method: float(of_method.mean()) for method, of_method in values.items() if len(of_method)}


# Differences, one row per seed and one column per client


def gap_of(point: Analysis, method: str, baseline: str, metric: str) -> DataFrame:
    """Return the paired differences of two rows; of a metric that clients do not have, in one column."""
    gaps = point.certainty.gaps(method, baseline, metric)
    known = {method, baseline} <= set(point.experiment.complete_methods)
    return point.differences(method, baseline, metric).to_frame() if gaps.empty and known else gaps


def gap_to_global_model(point: Analysis, method: str, metric: str) -> DataFrame:
    """Return how far a method is above the global model."""
    return point.certainty.gaps(method, point.certainty.global_model, metric)


def gap_of_families(point: Analysis, method: str, baseline: str, metric: str) -> DataFrame:
    """Return the paired differences of two methods, each the mean over its variants."""
    pairs = product(family_rows(point, method), family_rows(point, baseline))
    gaps = [point.certainty.gaps(*pair, metric) for pair in pairs]
    return sum(gaps[1:], gaps[0]) / len(gaps) if gaps else DataFrame()


def change_since(point: Analysis, method: str, metric: str, epoch: int) -> DataFrame:
    """Return how far the end of fine-tuning is above an epoch; 0 for a client that ends with the global model."""
    curves = complete_rows(point.frames, point.frames.curves, method)
    then = curves[curves["epoch"] == epoch].pivot(index="client", columns="seed", values=metric)
    clients = complete_rows(point.frames, point.frames.clients, method)
    kept = clients.pivot(index="client", columns="seed", values="status").isin(["diverged", "no_train"])
    return (client_values(point.frames, method, metric) - then).mask(kept, 0.0).T


def compare_by(gaps: Mapping[Key, DataFrame], metric: str, points: Sequence[Analysis]) -> dict[Key, Comparison]:
    """Judge the differences of a verdict, with p-values adjusted for their number."""
    return compare(gaps, metric_named(metric), points[0].certainty.equivalence) if points else {}


def is_better(found: Comparison | None) -> bool | None:
    """Return whether a difference is an improvement: False if worse or equivalent, None if undecided."""
    return {"better": True, "worse": False, "equivalent": False}.get(found.verdict) if found else None


def is_kept(found: Comparison, equivalence: float) -> bool | None:
    """Return whether a loss beyond the region of equivalence is ruled out (a one-sided test at 5%).

    False if there is a significant loss, None if undecided.
    """
    if found.estimate.interval(1 - 2 * SIGNIFICANT)[0] > -equivalence or found.verdict == "equivalent":
        return True
    return False if found.verdict == "worse" else None


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
            rest = dict(variant.values)
            duration = rest.pop("lp_epochs")
            if duration is None:
                duration = argument(point, method, "epochs") or budget
            if duration is not None:
                name = f"{variant.family} ({label(rest)})" if rest else variant.family
                durations.setdefault(name, {})[int(duration)] = method
    return {name: dict(sorted(rows.items())) for name, rows in durations.items()}


def argument(point: Analysis, method: str, name: str) -> Any:
    """Return an argument of a method's class in the configuration; None by default."""
    return section(point.experiment.config, "methods", method, "init_args").get(name)


def flood_levels(point: Analysis, family: str) -> dict[float, str]:
    """Return the rows of a method by their flood level."""
    levels = {method: argument(point, method, "flood") for method in family_rows(point, family)}
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
    """Return the metric that is called Average; with a single client, which has no worst other, the one without it."""
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
        str(layer): own.pivot_table(index="seed", columns="client", values="moved", aggfunc="mean")
        for layer, own in frame.groupby("layer", sort=False)
    }


def profile_of(layers: Mapping[str, DataFrame]) -> Row:
    """Return the distortion of every layer, and its rank correlation with depth."""
    moved = {layer: estimate(values) for layer, values in layers.items()}
    means = [found.mean for found in moved.values()]
    rank = rank_correlation(list(enumerate(means))) if len(means) >= FEW_LAYERS else math.nan
    lowest, highest = (pick(moved, key=lambda layer: moved[layer].mean) for pick in (min, max))
    return {"layers": moved, "lowest": lowest, "highest": highest, "last": list(moved)[-1], "rank": rank}


# Correlations


@dataclass(frozen=True)
class Coefficient:
    """A correlation with its 95% interval, whose ends are NaN if there is none; all of it NaN without a correlation."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes zero, otherwise 0."""
        return int(self.low > 0) - int(self.high < 0)


def distortion_and_loss(point: Analysis, families: Iterable[str]) -> DataFrame:
    """Return distortion and loss of Global for every seed, client and evaluated epoch of some methods."""
    frames = [distortion_points(point.frames, row) for family in families for row in family_rows(point, family)]
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
    drawn = weighted_correlation(x, y, weights)
    tails = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tails, 1 - tails]) if np.isfinite(drawn).any() else (math.nan, math.nan)
    return Coefficient(float(weighted_correlation(x, y, np.ones((1, len(x))))[0]), float(low), float(high))


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
    found = estimate(np.array(by_seed, dtype=float).reshape(-1, 1))
    return Coefficient(found.mean, *np.clip(found.interval(), -1.0, 1.0).tolist())


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's coefficient; NaN for fewer than three pairs, or if one side is constant."""
    ranks = DataFrame(pairs, columns=["x", "y"], dtype=float).dropna().rank()
    if len(ranks) < 3:
        return math.nan
    return float(weighted_correlation(ranks["x"].to_numpy(), ranks["y"].to_numpy(), np.ones((1, len(ranks))))[0])
