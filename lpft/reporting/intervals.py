"""How certain the means and differences of a run are: intervals over clients and seeds, and verdicts.

The statistics are `lpft.evaluation.certainty`; this module makes their input from the client results, and frames of
their output. `lpft.reporting.formatting` writes them as text.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from pandas import DataFrame

from lpft.evaluation.certainty import EQUIVALENCE, Estimate, Word, estimate, holm, verdict
from lpft.evaluation.metric import Evaluation, Matrix, Metric, Vector
from lpft.evaluation.metrics import CLIENT_METRICS, METRICS, compute_client_metrics
from lpft.reporting.experiment import Experiment, section
from lpft.reporting.frames import Frames, Measured
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


@dataclass(frozen=True)
class Comparison:
    """A paired difference of two methods and its verdict.

    Args:
        estimate: of method minus reference, over clients and seeds.
        p_holm: its p-value, adjusted for the number of methods (references: of references) that are compared with the
            reference by this metric.
        verdict: what the difference means, in a word; empty if the two cannot be compared.
    """

    estimate: Estimate
    p_holm: float
    verdict: Word | Literal[""]

    @property
    def row(self) -> tuple[float | str, ...]:
        """Its columns in differences.csv and matched.csv, from ``mean`` to ``num_clients``."""
        e = self.estimate
        return (e.mean, e.low, e.high, e.p, self.p_holm, self.verdict, e.num_seeds, e.num_clients)


@dataclass(frozen=True)
class Certainty:
    """Intervals of the means of all complete methods, and of their paired differences to the references.

    Args:
        experiment: methods, seeds and clients of the run.
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
        """The reference of the verdicts in the comparison of methods: ``ft``, if it and another method are complete."""
        reference = self.references[min(1, len(self.references) - 1)]
        return self.global_model if self.experiment.complete_methods == [reference] else reference

    @property
    def global_model(self) -> str:
        """The row of the global model, or `GLOBAL_MODEL` if there is none."""
        reference = self.experiment.reference
        return reference if reference and reference in self.experiment.complete_methods else GLOBAL_MODEL

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics with values for every client, in the order of the registry."""
        of_clients = {*(metric.name for metric in CLIENT_METRICS), "average3"}
        return [metric for metric in METRICS if metric.spread and client_name(metric.name) in of_clients]

    @cached_property
    def estimates(self) -> dict[tuple[str, str], Estimate]:
        """The estimate of every method and metric of the registry; without values for clients over the seeds alone."""
        estimates = {}
        names = {metric.name for metric in self.metrics}
        for method in self.experiment.complete_methods:
            by_seed = self._measured[method].values()
            for metric in METRICS:
                if metric.name in names:
                    values = by_client([measured.of_clients[client_name(metric.name)] for measured in by_seed])
                else:
                    values = np.array([[measured.metrics[metric.name]] for measured in by_seed])
                estimates[method, metric.name] = estimate(values)
        return estimates

    @cached_property
    def comparisons(self) -> dict[tuple[str, str, str], Comparison]:
        """The comparison of every method, reference and metric of `metrics` that both have."""
        comparisons: dict[tuple[str, str, str], Comparison] = {}
        for reference in self.references:
            for metric in self.metrics:
                methods = [method for method in self.experiment.complete_methods if method != reference]
                gaps = {method: self._gaps(method, reference, metric.name)[1] for method in methods}
                compared: dict[str, Comparison] = {}
                for family in (self.methods, self.apart):
                    of_family = {method: gap for method, gap in gaps.items() if method in family}
                    compared |= compare(of_family, metric, self.equivalence)
                comparisons |= {(m, reference, metric.name): compared[m] for m in gaps if m in compared}
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
        for family, baseline in self.experiment.pairs:
            rows = self.experiment.family_rows(family)
            if baseline in self.experiment.complete_methods and len(rows) > 1:
                return rows, baseline
        return None

    def gaps(self, method: str, reference: str, metric: str) -> DataFrame:
        """Return the paired differences of two methods, one row per seed that has both and one column per client.

        Empty if one of them does not have the metric.
        """
        seeds, values = self._gaps(method, reference, metric)
        return DataFrame(values, index=seeds, columns=list(self.experiment.client_names))

    def _gaps(self, method: str, reference: str, metric: str) -> tuple[list[int], Matrix]:
        """Return the seeds that both methods have, and their differences, ``(S, C)``; see `gaps`."""
        name = client_name(metric)
        of_method, of_reference = (
            {seed: measured.of_clients[name] for seed, measured in by_seed.items() if name in measured.of_clients}
            for by_seed in (self._measured.get(method, {}), self._measured.get(reference, {}))
        )
        seeds = [seed for seed in of_method if seed in of_reference]
        differences = by_client([of_method[seed] - of_reference[seed] for seed in seeds])
        return seeds, differences.reshape(len(seeds), len(self.experiment.client_names))

    @cached_property
    def intervals(self) -> DataFrame:
        """The columns of intervals.csv: one row per method and metric."""
        rows = []
        for method in self.experiment.complete_methods:
            for metric in self.metrics:
                e = self.estimates[method, metric.name]
                if e.num_seeds:
                    values = (e.mean, e.low, e.high, e.std_error, e.df, e.num_seeds, e.num_clients)
                    rows.append((method, client_name(metric.name), *values))
        return DataFrame(rows, columns=list(INTERVAL_COLUMNS))

    @cached_property
    def differences(self) -> DataFrame:
        """The columns of differences.csv: one row per reference, metric and method."""
        rows = [
            (method, reference, client_name(metric), *comparison.row)
            for (method, reference, metric), comparison in self.comparisons.items()
        ]
        return DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))

    @cached_property
    def _measured(self) -> dict[str, dict[int, Measured]]:
        """The metrics of complete results by method and seed; those of the global model too if it has no row."""
        by_method: dict[str, dict[int, Measured]] = {}
        for measured in self.frames.measured:
            result = measured.result
            if result.complete:
                with_mean = replace(measured, of_clients=with_average(measured.of_clients))
                by_method.setdefault(result.method, {})[result.seed] = with_mean
                if self.global_model == GLOBAL_MODEL and result.seed not in by_method.get(GLOBAL_MODEL, {}):
                    before = Measured(result, {}, with_average(of_global_model(result)))
                    by_method.setdefault(GLOBAL_MODEL, {})[result.seed] = before
        return by_method


def compare(gaps: Mapping[Key, ArrayLike], metric: Metric, equivalence: float) -> dict[Key, Comparison]:
    """Judge paired differences, with p-values that are adjusted for their number.

    Args:
        gaps: a family of differences; each has one row per seed and one column per client. Those without values are
            left out.
        metric: that they are differences of.
        equivalence: half width of the region of practical equivalence, percentage points; metrics in other units have
            none.
    """
    estimates = {key: e for key, gap in gaps.items() if (e := estimate(gap)).num_seeds}
    adjusted = holm([e.p for e in estimates.values()])
    region = equivalence if metric.unit == "%" else 0.0
    return {
        key: Comparison(e, p, verdict(e, p, metric.better, region))
        for (key, e), p in zip(estimates.items(), adjusted, strict=True)
    }


def client_name(metric: str) -> str:
    """Return the name of the clients' metric whose mean a metric of a method is."""
    return CLIENT_NAMES.get(metric, metric)


def by_client(rows: Sequence[Vector]) -> Matrix:
    """Stack one row ``(C,)`` per seed to ``(S, C)``, column by column: another order in memory changes last digits."""
    return np.asfortranarray(rows)


def with_average(of_clients: Mapping[str, Vector]) -> dict[str, Vector]:
    """Add ``average3`` to the metrics of the clients, ``(C,)`` each."""
    return {**of_clients, "average3": np.mean([of_clients[name] for name in AVERAGED], axis=0)}


def of_global_model(result: MethodResult) -> dict[str, Vector]:
    """Return the clients' metrics of the global model, ``(C,)`` each, as every complete result records them."""
    row = np.array([cell.local_before for cell in result.client_results], dtype=np.float64)
    metrics = compute_client_metrics(Evaluation(np.tile(row, (len(row), 1))))
    return {name: metrics[name] for name in OF_GLOBAL_MODEL}
