"""What the verdicts on arXiv:2511.12695 look at, computed from an analysis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pandas import DataFrame, Series, concat

from lpft.reporting.analysis import Analysis, family_rows
from lpft.reporting.experiment import label, section
from lpft.reporting.frames import complete_rows, distortion_points
from lpft.reporting.judging import Spread
from lpft.reporting.references import reference_rows

OVERFIT, RETAINED = 1.0, 1.0
"""Points of Global lost since its best epoch, and of Local that may be lost since the first."""
FEW_LAYERS = 6
"""With fewer layers, a rank correlation with depth says little."""

Row = dict[str, Any]


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


def gap_of(point: Analysis, method: str, baseline: str, metric: str) -> Spread:
    """Return the differences of two methods in a metric, seed by seed."""
    return Spread.of(point.differences(method, baseline, metric))


def change(frame: DataFrame, point: Analysis, method: str, seed: Any = None) -> Row | None:
    """Return how Global and Local moved during fine-tuning; None if no epoch was evaluated with all seeds."""
    evaluated = frame.dropna(subset=["local", "global_all"])
    counts = evaluated.groupby("epoch")["seed"].nunique()
    epochs = counts.index[counts == frame["seed"].nunique()]
    curves = evaluated[evaluated["epoch"].isin(epochs)].groupby("epoch")[["local", "global_all"]].mean().astype(float)
    if not any(epochs > 0):
        return None
    ends = {m: point.by_seed(method, m) for m in ("local", "global_all")}
    end = {m: float(values.mean() if seed is None else values[seed]) for m, values in ends.items()}
    first, since = int(min(epoch for epoch in epochs if epoch > 0)), int(curves["global_all"].idxmax())
    lost = float(curves["global_all"][since] - end["global_all"])
    kept = float(end["local"] - curves["local"][first])
    overfits = lost > OVERFIT and kept >= -RETAINED
    return {"overfits": overfits, "change": round(-lost, 9) + 0.0, "since": since, "kept": kept, "first": first}


def by_duration(point: Analysis) -> dict[str, dict[int, Series]]:
    """Return Average by seed for every duration of linear probing, by family and other settings."""
    experiment, durations = point.experiment, dict[str, dict[int, Series]]()
    budget = section(experiment.config, "personalization").get("epochs")
    for method in experiment.complete_methods:
        variant = experiment.variants.get(method)
        if variant and "lp_epochs" in variant.values:
            rest = dict(variant.values)
            duration = rest.pop("lp_epochs")
            if duration is None:
                duration = argument(point, method, "epochs") or budget
            averages = point.by_seed(method, average_of(point))
            if len(averages) and duration is not None:
                name = f"{variant.family} ({label(rest)})" if rest else variant.family
                durations.setdefault(name, {})[int(duration)] = averages
    return durations


def argument(point: Analysis, method: str, name: str) -> Any:
    """Return an argument of a method's class in the configuration; None by default."""
    return section(point.experiment.config, "methods", method, "init_args").get(name)


def distortion_and_loss(point: Analysis, family: str) -> list[tuple[float, float]]:
    """Return distortion and loss of Global for every client, seed and evaluated epoch of a method."""
    frames = [distortion_points(point.frames, method) for method in family_rows(point, family)]
    return [pair for frame in frames for pair in zip(frame["distortion"], frame["loss"], strict=True)]


def distortion_of(point: Analysis, family: str) -> Spread:
    """Return the distortion at the end, by seed the mean over the variants of a method."""
    columns = [point.by_seed(method, "distortion_own") for method in family_rows(point, family)]
    return Spread.of(DataFrame(columns).mean() if columns else [])


def by_depth(point: Analysis, methods: Iterable[str]) -> DataFrame:
    """Return relative distortion, one row per layer and one column per seed, mean over methods."""
    depth = point.frames.depth
    frames = [complete_rows(point.frames, depth, method) for method in methods]
    frame = concat([depth.iloc[:0], *frames]).astype({"distortion_relative": float})
    frame = frame.dropna(subset=["distortion_relative"])
    table = frame.pivot_table(index="layer", columns="seed", values="distortion_relative", aggfunc="mean")
    return table.reindex(frame["layer"].unique())


def profile_of(table: DataFrame) -> Row:
    """Return the distortion of every layer, and its rank correlation with depth."""
    layers = {str(layer): Spread.of(values.dropna()) for layer, values in table.iterrows()}
    means = [spread.mean for spread in layers.values()]
    rank = correlate(list(enumerate(means)))[1] if len(means) >= FEW_LAYERS else math.nan
    lowest, highest = (pick(layers, key=lambda layer: layers[layer].mean) for pick in (min, max))
    return {"layers": layers, "lowest": lowest, "highest": highest, "last": list(layers)[-1], "rank": rank}


def flood_levels(point: Analysis, family: str) -> dict[float, str]:
    """Return the rows of a method by their flood level."""
    levels = {method: argument(point, method, "flood") for method in family_rows(point, family)}
    return {float(level): method for method, level in levels.items() if level is not None}


def last_loss(point: Analysis, method: str) -> float:
    """Return the training loss of the last epoch, mean over clients and seeds."""
    rows = complete_rows(point.frames, point.frames.mean_curves, method)
    return float(rows.groupby("seed")["train_loss"].last().astype(float).mean())


def accuracy_before(point: Analysis) -> Series:
    """Return the global model's accuracy by seed, mean over the clients' test sets."""
    clients = point.frames.clients
    frame = clients[clients["method"].isin(point.experiment.complete_methods)]
    frame = frame.astype({"local_before": float}).dropna(subset=["local_before"])
    return frame.drop_duplicates(["seed", "client"]).groupby("seed")["local_before"].mean()


def average_of(point: Analysis) -> str:
    """Return the metric that is called Average; with a single client, which has no worst other, the one without it."""
    return "average3" if point.frames.results["average3"].notna().any() else "average2"


def correlate(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return Pearson's and Spearman's coefficient; NaN for fewer than three pairs, or if one side is constant."""
    from scipy import stats  # takes a second

    pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return math.nan, math.nan
    x, y = zip(*pairs, strict=True)
    return float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)


def standing(gap: Spread) -> str:
    """Return ``ahead``, ``behind``, ``alike``, ``one seed`` or ``no seed``."""
    if gap.n < 2:
        return "one seed" if gap.n else "no seed"
    return {0: "alike", 1: "ahead", -1: "behind"}[gap.sign]
