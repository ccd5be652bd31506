"""How sure the means and differences of a run are: intervals over clients and seeds, and verdicts.

The statistics are `lpft.evaluation.certainty`; this module makes their input from the client results, and frames and
text of their output.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from pandas import DataFrame

from lpft.evaluation.certainty import EQUIVALENCE, Estimate, Word, estimate, holm, verdict
from lpft.evaluation.metric import Evaluation, Metric, Vector
from lpft.evaluation.metrics import CLIENT_METRICS, METRICS, compute_client_metrics
from lpft.reporting.experiment import Experiment, families, section
from lpft.reporting.frames import Frames
from lpft.reporting.references import rows_apart
from lpft.reporting.results import MethodResult

INTERVAL_COLUMNS = ("method", "metric", "mean", "low", "high", "std_error", "df", "num_seeds", "num_clients")
DIFFERENCE_COLUMNS = (
    *("method", "reference", "metric", "mean", "low", "high", "p", "p_holm", "verdict"),
    *("num_seeds", "num_clients"),
)
GLOBAL_MODEL = "global model"
"""The reference of a run that has no row of the global model: what the other rows recorded of it."""
CLIENT_NAMES = {"worst_row": "worst", "cstd_row": "cstd"}
"""Metrics of a method that are the mean of a metric of the clients with another name."""
AVERAGED = ("local", "global_all", "worst")
"""The metrics of a client whose mean is its ``average3``."""

OF_GLOBAL_MODEL = ("local", "global_all", "global_others", "worst", "cstd")
"""The clients' metrics that are known of a global model without a row."""

Key = TypeVar("Key", bound=Hashable)
ByMetric = Mapping[str, DataFrame]
"""Values of a method by metric: one row per seed, one column per client."""


@dataclass(frozen=True)
class Comparison:
    """A paired difference of two methods, and what it means.

    Args:
        estimate: of method minus reference, over clients and seeds.
        p_holm: its p-value, adjusted for the number of methods (references: of references) that are compared with the
            reference by this metric.
        verdict: a word.
    """

    estimate: Estimate
    p_holm: float
    verdict: Word | Literal[""]

    @property
    def row(self) -> tuple[float | str, ...]:
        """Its columns in differences.csv and matched.csv, from ``mean`` to ``num_clients``."""
        one = self.estimate
        return (one.mean, one.low, one.high, one.p, self.p_holm, self.verdict, one.num_seeds, one.num_clients)


@dataclass(frozen=True)
class Certainty:
    """Intervals of the means of all complete methods, and of their paired differences to the references.

    Args:
        experiment: what the run consists of.
        frames: its results.
    """

    experiment: Experiment
    frames: Frames

    @property
    def equivalence(self) -> float:
        """Half width of the region of practical equivalence, percentage points."""
        equivalence = section(self.experiment.config, "evaluation").get("equivalence", EQUIVALENCE)
        return EQUIVALENCE if equivalence is None else float(equivalence)

    @cached_property
    def references(self) -> list[str]:
        """What methods are compared with: the global model, ``ft``, and the baselines of the experiment's pairs."""
        complete = self.experiment.complete_methods
        baselines = ("ft", *(baseline for _, baseline in self.experiment.pairs))
        return list(dict.fromkeys([self.global_model, *(name for name in baselines if name in complete)]))

    @property
    def main_reference(self) -> str:
        """The reference of the verdicts in the comparison of methods: ``ft``, if it is complete."""
        return self.references[min(1, len(self.references) - 1)]

    @property
    def global_model(self) -> str:
        """The row of the global model, or `GLOBAL_MODEL` if there is none."""
        reference = self.experiment.reference
        return reference if reference and reference in self.experiment.complete_methods else GLOBAL_MODEL

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics with values for every client, in the order of the registry."""
        known = {*(metric.name for metric in CLIENT_METRICS), "average3"}
        return [metric for metric in METRICS if metric.spread and client_name(metric.name) in known]

    @cached_property
    def estimates(self) -> dict[tuple[str, str], Estimate]:
        """The estimate of every method and metric of the registry; without values for clients over the seeds alone."""
        estimates = {}
        names = {metric.name for metric in self.metrics}
        for method in self.experiment.complete_methods:
            for metric in METRICS:
                if metric.name in names:
                    values = self._values[method][client_name(metric.name)]
                else:
                    values = self._by_seed(method, metric.name)
                estimates[method, metric.name] = estimate(values)
        return estimates

    @cached_property
    def comparisons(self) -> dict[tuple[str, str, str], Comparison]:
        """The comparison of every method, reference and metric of `metrics` that both have."""
        comparisons: dict[tuple[str, str, str], Comparison] = {}
        for reference in self.references:
            for metric in self.metrics:
                methods = [method for method in self.experiment.complete_methods if method != reference]
                gaps = {method: self.gaps(method, reference, metric.name) for method in methods}
                found: dict[str, Comparison] = {}
                for family in (self.methods, self.apart):
                    own = {method: gap for method, gap in gaps.items() if method in family}
                    found |= compare(own, metric, self.equivalence)
                comparisons |= {(method, reference, metric.name): found[method] for method in gaps if method in found}
        return comparisons

    @cached_property
    def apart(self) -> list[str]:
        """The complete rows that are no methods to choose from; their p-values are adjusted apart."""
        apart = rows_apart(self.experiment.config)
        return [method for method in self.experiment.complete_methods if method in apart]

    @cached_property
    def methods(self) -> list[str]:
        """The complete methods: the family of Holm's adjustment."""
        return [method for method in self.experiment.complete_methods if method not in self.apart]

    @cached_property
    def main_pair(self) -> tuple[str, str] | None:
        """The pair that the result's first sentence is about; None if no pair of rows stands out.

        It is the first pair that the experiment compares; without one, the only method that trains, and the global
        model.
        """
        complete = self.experiment.complete_methods
        for method, baseline in self.experiment.pairs:
            if method in complete and baseline in complete:
                return method, baseline
        trained = [method for method in complete if method != self.global_model]
        return (trained[0], self.global_model) if len(trained) == 1 else None

    @cached_property
    def main_family(self) -> tuple[list[str], str] | None:
        """The rows of a swept method and their baseline, if the first pair of the experiment is about them."""
        complete = self.experiment.complete_methods
        rows = families(complete, self.experiment.variants)
        for family, baseline in self.experiment.pairs:
            if baseline in complete and len(rows.get(family, [])) > 1:
                return rows[family], baseline
        return None

    def gaps(self, method: str, reference: str, metric: str) -> DataFrame:
        """Return the paired differences of two methods, one row per seed that has both and one column per client.

        Empty if one of them does not have the metric.
        """
        name = client_name(metric)
        mine, theirs = self._values.get(method, {}), self._values.get(reference, {})
        if name not in mine or name not in theirs:
            return DataFrame()
        return (mine[name] - theirs[name]).loc[mine[name].index.intersection(theirs[name].index)]

    @cached_property
    def intervals(self) -> DataFrame:
        """The columns of intervals.csv: one row per method and metric."""
        rows = []
        for method in self.experiment.complete_methods:
            for metric in self.metrics:
                one = self.estimates[method, metric.name]
                if one.num_seeds:
                    ends = (one.mean, one.low, one.high, one.std_error, one.df, one.num_seeds, one.num_clients)
                    rows.append((method, client_name(metric.name), *ends))
        return DataFrame(rows, columns=list(INTERVAL_COLUMNS))

    @cached_property
    def differences(self) -> DataFrame:
        """The columns of differences.csv: one row per reference, metric and method."""
        rows = []
        for (method, reference, metric), found in self.comparisons.items():
            rows.append((method, reference, client_name(metric), *found.row))
        return DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))

    def _by_seed(self, method: str, metric: str) -> DataFrame:
        """Return a metric of a method that clients do not have: one row per seed, one column."""
        results = self.frames.results
        rows = results[(results["method"] == method) & results["complete"]].set_index("seed")
        return rows.reindex(columns=[metric]).astype(float)

    @cached_property
    def _values(self) -> dict[str, ByMetric]:
        """The values of every client and seed by method, of complete results; the global model too if it has no row."""
        of_methods: dict[str, list[tuple[MethodResult, Mapping[str, Vector]]]] = {self.global_model: []}
        seeds = set()
        for result, measured in zip(self.frames.method_results, self.frames.measured, strict=True):
            if result.complete and result.clients:
                of_methods.setdefault(result.method, []).append((result, with_average(measured.of_clients)))
                if self.global_model == GLOBAL_MODEL and result.seed not in seeds:
                    seeds.add(result.seed)
                    of_methods[GLOBAL_MODEL].append((result, with_average(of_global_model(result))))
        return {method: by_metric(rows) for method, rows in of_methods.items() if rows}


def compare(gaps: Mapping[Key, DataFrame], metric: Metric, equivalence: float) -> dict[Key, Comparison]:
    """Judge paired differences, with p-values that are adjusted for their number.

    Args:
        gaps: a family of differences; each has one row per seed and one column per client. Those without values are
            left out.
        metric: that they are differences of.
        equivalence: half width of the region of practical equivalence, percentage points; metrics in other units have
            none.
    """
    estimates = {key: found for key, gap in gaps.items() if (found := estimate(gap)).num_seeds}
    adjusted = holm([found.p for found in estimates.values()])
    region = equivalence if metric.unit == "%" else 0.0
    return {
        key: Comparison(found, p, verdict(found, p, metric.better, region))
        for (key, found), p in zip(estimates.items(), adjusted, strict=True)
    }


def client_name(metric: str) -> str:
    """Return the name of the clients' metric whose mean a metric of a method is."""
    return CLIENT_NAMES.get(metric, metric)


def by_metric(rows: Sequence[tuple[MethodResult, Mapping[str, Vector]]]) -> dict[str, DataFrame]:
    """Return the values of a method by metric, one row per seed and one column per client.

    Args:
        rows: a result of each seed, and its clients' metrics, ``(C,)`` each.
    """
    seeds, names = [result.seed for result, _ in rows], rows[0][0].clients
    alike = all(result.clients == names for result, _ in rows)
    frames = {}
    for metric in rows[0][1]:
        if alike:
            vectors = np.stack([of_clients[metric] for _, of_clients in rows])
            frames[metric] = DataFrame(vectors, index=seeds, columns=names)
        else:
            named = [dict(zip(result.clients, of_clients[metric], strict=True)) for result, of_clients in rows]
            frames[metric] = DataFrame(named, index=seeds, dtype=float)
    return frames


def with_average(of_clients: Mapping[str, Vector]) -> dict[str, Vector]:
    """Add ``average3`` to the metrics of the clients, ``(C,)`` each."""
    return {**of_clients, "average3": np.mean([of_clients[name] for name in AVERAGED], axis=0)}


def of_global_model(result: MethodResult) -> dict[str, Vector]:
    """Return the clients' metrics of the global model: one row of accuracies, which every method's result records."""
    by_client = {cell.client: cell.local_before for cell in result.cells}
    row = np.array([by_client[client] for client in result.clients], dtype=np.float64)
    metrics = compute_client_metrics(Evaluation(np.tile(row, (len(row), 1))))
    return {name: metrics[name] for name in OF_GLOBAL_MODEL}


# Text


def mean_text(metric: Metric, center: float, found: Estimate) -> str:
    """Write a mean with half of its 95% interval, if it has one.

    >>> from lpft.evaluation.metrics import METRICS
    >>> mean_text(METRICS[0], 91.17, Estimate(mean=91.17, std_error=0.5, df=12, num_seeds=3, num_clients=10))
    '91.2 ± 1.1'
    """
    if math.isnan(center):
        return "-"
    if not metric.spread or math.isnan(found.margin):
        return metric.format(center)
    return f"{metric.format(center)} ± {metric.format(found.margin)}"


def estimate_text(found: Estimate, form: str = ".1f") -> str:
    """Write an estimate with half of its 95% interval; a sign in the format concerns the mean only.

    >>> estimate_text(Estimate(mean=2.1, std_error=0.6, df=12, num_seeds=3, num_clients=10), "+.1f")
    '+2.1 ± 1.3'
    """
    if math.isnan(found.mean):
        return "-"
    mean = format(found.mean, form)
    return mean if math.isnan(found.margin) else f"{mean} ± {format(found.margin, form.removeprefix('+'))}"


def comparison_text(found: Comparison, form: str = "+.1f") -> str:
    """Write a difference with its 95% interval and its verdict.

    >>> one = Estimate(mean=2.1, std_error=0.6, df=12, num_seeds=3, num_clients=10)
    >>> comparison_text(Comparison(one, p_holm=0.004, verdict="better"))
    '+2.1 (+0.8 to +3.4, better)'
    """
    one = found.estimate
    ends = "no interval" if math.isnan(one.margin) else f"{one.low:{form}} to {one.high:{form}}"
    return f"{one.mean:{form}} ({ends}, {found.verdict}{'; one seed' if one.clients_only else ''})"
