"""Everything that is computed from the results of a run, once. Tables, figures, pages, console and TensorBoard show it.

Imports pandas, but neither torch nor matplotlib.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from typing import Any

from pandas import DataFrame, Series, read_csv

from lpft.evaluation.diagnostics import Diagnostic, diagnose
from lpft.evaluation.metrics import METRICS
from lpft.evaluation.recommend import Recommendation, recommend
from lpft.reporting import frames
from lpft.reporting.frames import accuracy_matrix, metric_columns, summary_frame
from lpft.reporting.pairs import compared_pairs
from lpft.reporting.results import (
    MethodResult,
    check_is_run,
    is_reference,
    methods_of,
    provenance,
    read_config,
    read_history,
    read_results,
)
from lpft.reporting.sweeps import Values, Variant, family_of, label, swept, tuned_of, variants_of
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class Analysis:
    """The analysis of one run; all frames are computed when they are first used, and only once.

    Args:
        run: the run.
        config: its resolved experiment; empty if it cannot be read.
        method_results: the client results on disk, for every seed and method.
        histories: rows of history.csv by seed; none for a global model from elsewhere.
    """

    run: Run
    config: Mapping[str, Any]
    method_results: Sequence[MethodResult]
    histories: Mapping[int, Sequence[Mapping[str, float | None]]]

    # What there is

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that are planned or have results, sorted."""
        return sorted({result.seed for result in self.method_results})

    @cached_property
    def methods(self) -> list[str]:
        """All methods, in the order of the configuration."""
        return methods_of(self.method_results)

    @cached_property
    def client_names(self) -> list[str]:
        """All clients: the order of rows and columns everywhere."""
        return self.method_results[0].clients if self.method_results else []

    @cached_property
    def cells(self) -> list[ClientResult]:
        """The results of all clients, methods and seeds."""
        return [cell for result in self.method_results for cell in result.cells]

    @cached_property
    def complete_methods(self) -> list[str]:
        """The methods that are complete for at least one seed; only these have a row in the comparison."""
        return list(dict.fromkeys(result.method for result in self.method_results if result.complete))

    @cached_property
    def reference(self) -> str | None:
        """The method that is the global model itself; None if there is none."""
        return next((method for method in self.methods if is_reference(method, self.config)), None)

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The rows that a sweep over a method's settings made, by name."""
        return variants_of(self.config)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The swept values of this run, by dotted key; empty if it is not part of a sweep."""
        return dict(provenance(self.config).get("point") or {})

    @property
    def label(self) -> str:
        """The swept values in short; empty if it is not part of a sweep."""
        return label(self.values)

    @cached_property
    def tuned(self) -> dict[str, Values]:
        """The tuned methods, each with the settings that tuning chose."""
        return tuned_of(self.config)

    # Frames

    @cached_property
    def results(self) -> DataFrame:
        """One row per seed and method: the columns of results.csv, ``complete`` and ``problem``."""
        return frames.results_frame(self.method_results)

    @cached_property
    def clients(self) -> DataFrame:
        """One row per seed, method and client: the columns of clients.csv and all other scalars of the result."""
        return frames.clients_frame(self.method_results)

    @cached_property
    def curves(self) -> DataFrame:
        """One row per seed, method, client and epoch."""
        return frames.curves_frame(self.method_results)

    @cached_property
    def mean_curves(self) -> DataFrame:
        """One row per seed, method and epoch: means over the clients, the columns of curves.csv."""
        return frames.mean_curves_frame(self.method_results)

    @cached_property
    def rounds(self) -> DataFrame:
        """One row per seed and round of federated training."""
        return frames.rounds_frame(self.histories)

    @cached_property
    def groups(self) -> DataFrame:
        """One row per seed, method, client, test set and group of samples."""
        return frames.groups_frame(self.method_results)

    @cached_property
    def depth(self) -> DataFrame:
        """One row per seed, method and layer: how far its outputs moved."""
        return frames.depth_frame(self.method_results)

    @cached_property
    def trials(self) -> DataFrame:
        """The rows of tuning.csv as text; empty if nothing was tuned."""
        path = self.run.root / "tuning.csv"
        return read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else DataFrame()

    @cached_property
    def summary(self) -> DataFrame:
        """Mean and standard deviation (ddof 0) over the complete seeds, one row per method and metric."""
        complete = self.results[self.results["complete"]]
        summary = summary_frame(complete, metric_columns(complete))
        order = {method: place for place, method in enumerate(self.methods)}
        return summary.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)

    # Judgements

    @cached_property
    def diagnostics(self) -> list[Diagnostic]:
        """The failure signatures that were found."""
        accuracies = {seed: [row.get("val_accuracy") for row in rows] for seed, rows in self.histories.items() if rows}
        return diagnose(self.cells, accuracies, self.pairs)

    @cached_property
    def client_recommendations(self) -> list[Recommendation]:
        """What each client should use, in the order of clients; among equals the first method of the experiment."""
        by_client = {each.client: each for each in recommend(self.cells, self.methods)}
        return [by_client[client] for client in self.client_names if client in by_client]

    @cached_property
    def recommendations(self) -> DataFrame:
        """`client_recommendations` as a frame: one row per client."""
        columns = [field.name for field in fields(Recommendation)]
        return DataFrame(map(asdict, self.client_recommendations), columns=columns)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs (method, baseline) to compare; see `lpft.reporting.pairs`."""
        return compared_pairs(self.config)

    # Views

    def matrix(self, method: str, seed: int) -> DataFrame:
        """Return the accuracy matrix ``(C, C)`` in percent: row = whose model, column = whose test set.

        Raises:
            KeyError: if there are no results of this method and seed.
        """
        for result in self.method_results:
            if (result.seed, result.method) == (seed, method) and result.cells:
                return DataFrame(accuracy_matrix(result), index=result.clients, columns=result.clients)
        raise KeyError(f"There are no results of method `{method}` with seed {seed} in `{self.run.root}`.")

    def by_seed(self, method: str, metric: str) -> Series:
        """Return a metric of a method for every seed where it is defined."""
        rows = self.results[(self.results["method"] == method) & self.results["complete"]]
        return rows.set_index("seed")[metric].dropna()

    def differences(self, method: str, baseline: str, metric: str) -> Series:
        """Return how much a method is above another in a metric, for every seed that has both.

        Both started from the same global model and saw the same batches: a difference within a seed is free of what
        seeds have in common.
        """
        return (self.by_seed(method, metric) - self.by_seed(baseline, metric)).dropna()

    def clients_compared(self, method: str, baseline: str) -> tuple[int, int, int]:
        """Count the clients whose Local, mean over the seeds that have both methods, is higher, equal and lower."""
        seeds = self.by_seed(method, "local").index.intersection(self.by_seed(baseline, "local").index)
        frame = self.clients[self.clients["seed"].isin(seeds)]
        local = frame.pivot(index=["seed", "client"], columns="method", values="local")
        if not len(seeds):
            return 0, 0, 0
        change = (local[method] - local[baseline]).groupby("client").mean().round(9)
        return int((change > 0).sum()), int((change == 0).sum()), int((change < 0).sum())

    def family(self, name: str) -> list[str]:
        """Return the complete rows of a method: itself and its variants."""
        return [method for method in self.complete_methods if family_of(method, self.variants) == name]


@dataclass(frozen=True)
class Sweep:
    """The analysis of a sweep.

    Args:
        run: the run that has the points.
        config: the configuration of the sweep.
        points: the runs of the sweep that have results, in the order of the swept values.
        missing: names of the runs without results.
    """

    run: Run
    config: Mapping[str, Any]
    points: Sequence[Analysis]
    missing: Sequence[str]

    @cached_property
    def sweep(self) -> DataFrame:
        """The columns of sweep.csv: swept keys, ``method``, ``n``, then every metric's mean and ``_std``."""
        return sweep_frame(self.points)

    @property
    def num_planned(self) -> int:
        """How many points the sweep has."""
        return len(list(product(*swept(self.config).values()))) if swept(self.config) else len(self.points)


def analyze(run: Run) -> Analysis:
    """Analyze a run; a warning is logged for each damaged result.

    Raises:
        FileNotFoundError: if the folder is not a run.
    """
    check_is_run(run)
    config, results = read_config(run), read_results(run)
    for result in results:
        for damage in result.damaged:
            log.warning("%s is left out: %s; the next `lpft personalize` computes it again", damage.path, damage.reason)
    seeds = sorted({result.seed for result in results})
    return Analysis(run, config, results, {seed: read_history(run.global_file(seed, "history.csv")) for seed in seeds})


def analyze_results(run: Run) -> Analysis:
    """Analyze a run that has results.

    Raises:
        FileNotFoundError: if the folder is not a run, or has no results yet.
    """
    analysis = analyze(run)
    if not any(result.cells for result in analysis.method_results):
        raise FileNotFoundError(
            f"`{run.root}` holds no results of personalized clients."
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
            f"`{run.root}` is a sweep of which no point has results."
            " HINT: `lpft run -c FILE` or `lpft personalize -c FILE` computes them."
        )
    return Sweep(run, read_config(run), points, missing)


def points_in_order(run: Run) -> list[Run]:
    """Return the points of a sweep that are on disk, in the order of the swept values; none if it is not a sweep."""
    order = {json.dumps(values): place for place, values in enumerate(product(*swept(read_config(run)).values()))}

    def place(point: Run) -> int:
        values = (provenance(read_config(point)).get("point") or {}).values()
        return order.get(json.dumps(list(values)), len(order))

    return sorted(run.points(), key=place)


def sweep_frame(points: Sequence[Analysis]) -> DataFrame:
    """Return one row per point and method, with mean and standard deviation (ddof 0) of every metric.

    A swept key of a method is blank in the rows of other methods.
    """
    rows: list[dict[str, Any]] = []
    swept_of_methods: list[str] = []
    for point in points:
        for method, summary in point.summary.groupby("method", sort=False):
            variant = point.variants.get(str(method))
            own = {f"methods.{variant.family}.{key}": v for key, v in variant.values.items()} if variant else {}
            swept_of_methods += list(own)
            row = {key: _plain(value) for key, value in {**point.values, **own}.items()}
            row |= {"method": method, "n": int((point.results["method"] == method)[point.results["complete"]].sum())}
            for entry in summary.itertuples():
                row |= {str(entry.metric): entry.mean, f"{entry.metric}_std": entry.std}
            rows.append(row)
    keys = list(dict.fromkeys([*(key for point in points for key in point.values), *swept_of_methods]))
    columns = set().union(*rows) if rows else set()
    metrics = [metric.name for metric in METRICS if metric.name in columns]
    return DataFrame(rows, columns=[*keys, "method", "n", *(name + end for name in metrics for end in ("", "_std"))])


def _plain(value: object) -> object:
    """Return a value as a CSV field has it: what is not a plain number or word as JSON, as in the configuration."""
    return json.dumps(value) if value is None or isinstance(value, (bool, Mapping, list)) else value
