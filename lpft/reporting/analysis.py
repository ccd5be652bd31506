"""The analysis of a run's results. Tables, figures, pages, console and TensorBoard all show this one analysis.

Imports pandas, but neither torch nor matplotlib.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from pandas import DataFrame, Series

from lpft.evaluation.convergence import Convergence, judge_convergence
from lpft.evaluation.diagnostics import Diagnostic, diagnose
from lpft.evaluation.metric import Matrix
from lpft.evaluation.metrics import METRICS
from lpft.evaluation.recommend import Recommendation, recommend
from lpft.reporting.experiment import Experiment, class_name, metric_name, section
from lpft.reporting.frames import Frames, accuracy_matrix
from lpft.reporting.held_out import held_out_frame
from lpft.reporting.intervals import Certainty
from lpft.reporting.ladder import Rung, ladder
from lpft.reporting.references import reference_rows
from lpft.reporting.results import (
    History,
    MethodResult,
    check_is_run,
    experiment_of,
    read_config,
    read_history,
    read_results,
)
from lpft.reporting.tradeoff import Tradeoff
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

if TYPE_CHECKING:
    from lpft.reporting.style import Look

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class Analysis:
    """The analysis of one run; every part is computed once, on first use.

    Args:
        run: the run.
        experiment: methods, seeds and clients of the run.
        method_results: the client results of every seed and method.
        histories: rows of history.csv by seed; none for a pretrained global model.
    """

    run: Run
    experiment: Experiment
    method_results: Sequence[MethodResult]
    histories: Mapping[int, History]

    @cached_property
    def frames(self) -> Frames:
        """The results as data frames."""
        return Frames(self.method_results, self.histories)

    @cached_property
    def certainty(self) -> Certainty:
        """Intervals of means and of paired differences, and verdicts."""
        return Certainty(self.experiment, self.frames)

    @cached_property
    def tradeoff(self) -> Tradeoff:
        """Methods as curves, and at equal Local."""
        return Tradeoff(self.experiment, self.frames, self.certainty)

    @cached_property
    def ladder(self) -> list[Rung]:
        """What gain and forgetting are made of; empty if the run has too few rungs."""
        return ladder(self.experiment, self.frames, self.certainty)

    @cached_property
    def held_out(self) -> DataFrame:
        """The means over clients that took part in federated training, and over new ones."""
        return held_out_frame(self.experiment, self.frames)

    @cached_property
    def diagnostics(self) -> list[Diagnostic]:
        """The diagnostics: failure signatures found in the results."""
        classes = {str(m): class_name(settings) for m, settings in section(self.experiment.config, "methods").items()}
        adapted = next((method for method, name in classes.items() if name == "AdaBN"), None)
        restarted = [method for method, name in classes.items() if name == "ScaledHeadFT"]
        pairs, metric = self.experiment.pairs, metric_name(self.experiment.config)
        return diagnose(self._client_results, self._val_accuracies, pairs, adapted, restarted, metric)

    @cached_property
    def recommendations(self) -> list[Recommendation]:
        """The recommended method of each client, in the order of clients; on a tie the first method."""
        by_client = {r.client: r for r in recommend(self._client_results, self.experiment.methods)}
        return [by_client[client] for client in self.experiment.client_names if client in by_client]

    @cached_property
    def convergences(self) -> list[Convergence]:
        """Whether the global models that were trained in this run have converged."""
        return [judge_convergence(accuracies) for accuracies in self._val_accuracies.values()]

    @property
    def _val_accuracies(self) -> dict[int, list[float | None]]:
        """The validation accuracy of every round, by seed."""
        return {seed: [row.get("val_accuracy") for row in rows] for seed, rows in self.histories.items() if rows}

    @property
    def _client_results(self) -> list[ClientResult]:
        """The results of personalized models with the present settings: references are not diagnosed or recommended."""
        references = reference_rows(self.experiment.config)
        personalized = [result for result in self.method_results if result.method not in references]
        current = [result for result in personalized if not (result.mixed or result.outdated)]
        return [client_result for result in current for client_result in result.client_results]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """The style of every method in all figures."""
        from lpft.reporting.style import looks  # matplotlib takes half a second

        return looks(self.experiment.methods, self.experiment.config)

    @cached_property
    def drawn_matrices(self) -> list[Matrix]:
        """The accuracy matrices of all `method_results` as in figures: with many clients, means over several."""
        from lpft.reporting.heatmap import binned

        return [binned(accuracy_matrix(result)) for result in self.method_results]

    def matrix(self, method: str, seed: int) -> DataFrame:
        """Return the accuracy matrix ``(C, C)`` in percent: rows are models, columns are test sets.

        Raises:
            KeyError: if there are no results of this method and seed.
        """
        for result in self.method_results:
            if (str(result.seed), result.method) == (str(seed), str(method)) and result.client_results:
                return DataFrame(accuracy_matrix(result), index=result.clients, columns=result.clients)
        results = [result for result in self.method_results if result.client_results]
        methods = ", ".join(dict.fromkeys(result.method for result in results))
        seeds = ", ".join(map(str, sorted({result.seed for result in results})))
        existing = f"results of {methods}, with seeds {seeds}" if results else "no results yet"
        raise KeyError(
            f"There are no results of method `{method}` with seed {seed} in `{self.run.root}`. HINT: it has {existing}."
        )

    def by_seed(self, method: str, metric: str) -> Series:
        """Return a metric of a method for every seed with a value."""
        results = self.frames.results
        rows = results[(results["method"] == method) & results["complete"]]
        return rows.set_index("seed")[metric].dropna()

    def differences(self, method: str, baseline: str, metric: str) -> Series:
        """Return the differences of two methods in a metric, for every seed with results of both.

        Both started from the same global model and were trained on the same batches, so differences within a seed are
        paired.
        """
        return (self.by_seed(method, metric) - self.by_seed(baseline, metric)).dropna()


@dataclass(frozen=True)
class Sweep:
    """The analysis of a sweep.

    Args:
        run: the run that contains the points.
        config: the configuration of the sweep.
        points: the runs of the sweep that have results, in the order of the swept values.
        missing: names of the points without results.
    """

    run: Run
    config: Mapping[str, Any]
    points: Sequence[Analysis]
    missing: Sequence[str]

    @property
    def num_planned(self) -> int:
        """Number of points of the sweep."""
        swept = section(self.config, "sweep")
        return math.prod(map(len, swept.values())) if swept else len(self.points)


def analyze(run: Run) -> Analysis:
    """Analyze a run; a warning is logged for each damaged result.

    Raises:
        FileNotFoundError: if the folder is not a run.
    """
    check_is_run(run)
    results = read_results(run)
    experiment = experiment_of(read_config(run), results)
    for result in results:
        for damage in result.damaged:
            log.warning("%s is left out: %s; the next `lpft personalize` computes it again", damage.path, damage.reason)
    histories = {seed: read_history(run.global_file(seed, "history.csv")) for seed in experiment.seeds}
    return Analysis(run, experiment, results, histories)


def analyze_results(run: Run) -> Analysis:
    """Analyze a run that has results.

    Raises:
        FileNotFoundError: if the folder is not a run, or has no results yet.
    """
    analysis = analyze(run)
    if not any(result.client_results for result in analysis.method_results):
        raise FileNotFoundError(
            f"`{run.root}` contains no results of personalized clients."
            " HINT: `lpft run -c FILE` or `lpft personalize -c FILE` computes them."
        )
    return analysis


def analyze_sweep(run: Run) -> Sweep:
    """Analyze all points of a sweep.

    Raises:
        FileNotFoundError: if no point has results yet.
    """
    points, missing = [], []
    for point in points_in_order(run):
        try:
            points.append(analyze_results(point))
        except FileNotFoundError:
            missing.append(point.root.name)
    if not points:
        raise FileNotFoundError(
            f"`{run.root}` is a sweep without any results."
            " HINT: `lpft run -c FILE` or `lpft personalize -c FILE` computes them."
        )
    return Sweep(run, read_config(run), points, missing)


def points_in_order(run: Run) -> list[Run]:
    """Return the existing points of a sweep in the order of the swept values; none if the run is not a sweep."""
    combinations = product(*section(read_config(run), "sweep").values())
    positions = {json.dumps(values): position for position, values in enumerate(combinations)}

    def position(point: Run) -> int:
        values = section(read_config(point), "provenance", "point").values()
        return positions.get(json.dumps(list(values)), len(positions))

    return sorted(run.points(), key=position)


def swept_keys(points: Sequence[Analysis]) -> list[str]:
    """Return the swept keys that make up the points of a sweep."""
    return list(dict.fromkeys(key for point in points for key in point.experiment.values))


def sweep_frame(points: Sequence[Analysis]) -> DataFrame:
    """Return one row per point and method, with mean and standard deviation (ddof 0) of every metric.

    A swept key of a method is blank in the rows of other methods.
    """
    rows: list[dict[str, Any]] = []
    swept_of_methods: list[str] = []
    for point in points:
        results = point.frames.results
        for method, summary in point.frames.summary.groupby("method", sort=False):
            variant = point.experiment.variants.get(str(method))
            swept = {f"methods.{variant.family}.{key}": v for key, v in variant.values.items()} if variant else {}
            swept_of_methods += list(swept)
            row = {key: _plain(value) for key, value in {**point.experiment.values, **swept}.items()}
            row |= {"method": method, "n": int((results["method"] == method)[results["complete"]].sum())}
            for entry in summary.itertuples():
                row |= {str(entry.metric): entry.mean, f"{entry.metric}_std": entry.std}
            rows.append(row)
    keys = list(dict.fromkeys([*swept_keys(points), *swept_of_methods]))
    columns = set().union(*rows)
    metrics = [metric.name for metric in METRICS if metric.name in columns]
    return DataFrame(rows, columns=[*keys, "method", "n", *(name + part for name in metrics for part in ("", "_std"))])


def _plain(value: object) -> object:
    """Return a value as a CSV field: numbers and strings unchanged, everything else as JSON."""
    return json.dumps(value) if value is None or isinstance(value, (bool, Mapping, list)) else value
