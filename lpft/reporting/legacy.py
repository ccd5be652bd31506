# ruff: noqa
# mypy: ignore-errors
"""Kept until figures, pages and verdicts read the analysis.

Percent, full precision (the shortest text that reads back as the same float); blank where a figure is not defined. A
method with missing or damaged cells has its own tables, but no row in results.csv: a mean over some of the clients
cannot be compared with a mean over all of them.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, get_args

import numpy as np

from lpft.evaluation.groups import Where, worst_group
from lpft.evaluation.metrics import METRICS, Matrix, compute_metrics
from lpft.reporting.frames import accuracy_matrix, evaluation_of
from dataclasses import dataclass, field
from functools import cached_property
from lpft.reporting.results import MethodResult, methods_of, is_reference, provenance, read_config, read_history, read_results
from lpft.reporting.sweeps import Values, Variant, family_of, label, swept, variants_of
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

GROUP_FIGURES = ("worst_group_local", "worst_group_all")
COMPARED = ("local", "global_all", "worst_row", "average3")
"""What two methods are compared in."""
CURVES = ("local", "global_all", "distortion", "worst")
DEPTH_COLUMNS = ("depth", "layer", "distortion_relative")
CURVE_COLUMNS = ("epoch", "phase", "lr_head", "lr_body", "train_loss", *CURVES)

Row = Mapping[str, Any]


def group_columns(cells: Iterable[ClientResult]) -> list[str]:
    """Return the columns of clients.csv that tell of groups; none if the data have no groups."""
    names = dict.fromkeys(name for cell in cells for name in cell.groups or ())
    columns = [f"group_{where}/{name}" for where in get_args(Where) for name in names]
    return [*GROUP_FIGURES, *columns] if names else []


def group_entries(cell: ClientResult) -> dict[str, float | None]:
    """Return what a cell has for `group_columns`, percent; None for a group without samples."""
    groups, places = cell.groups, get_args(Where)
    if not groups:
        return {}
    worst = {f"worst_group_{where}": worst_group(groups, where) for where in places}
    return worst | {f"group_{where}/{name}": groups[name][where] for where in places for name in groups}


def group_rows(results: Iterable[MethodResult]) -> list[dict[str, Any]]:
    """Return one row per seed and method that is complete: the mean over clients of each of `group_columns`."""
    return [
        {"seed": result.seed, "method": result.method, **group_figures(result)}
        for result in results
        if result.complete and group_columns(result.cells)
    ]


def group_figures(result: MethodResult) -> dict[str, float]:
    """Return the mean over clients of each of `group_columns`; clients without samples of a group are left out."""
    entries = [group_entries(cell) for cell in result.cells]
    return {name: _nan(_mean(entry.get(name) for entry in entries)) for name in group_columns(result.cells)}


def curve_rows(result: MethodResult) -> list[dict[str, Any]]:
    """Return the mean over clients per epoch.

    A client that diverged or has no training samples stands at the global model in every epoch, as it does in the
    matrix; hence the last epoch agrees with results.csv.
    """
    entries: dict[int, list[Row]] = {}
    for cell in result.cells:
        for entry in cell.epochs:
            entries.setdefault(int(entry["epoch"]), []).append(entry)
    return [_curve_row(epoch, entries[epoch], result.cells) for epoch in sorted(entries)]


def _curve_row(epoch: int, entries: list[Row], cells: Iterable[ClientResult]) -> dict[str, Any]:
    evaluated = any(entry.get("global_all") is not None for entry in entries)
    states = [_entry_shown(cell, epoch) for cell in cells]
    phases = Counter(str(entry.get("phase") or "") for entry in entries)
    return {
        "epoch": epoch,
        "phase": phases.most_common(1)[0][0],
        **{name: _mean(entry.get(name) for entry in entries) for name in ("lr_head", "lr_body", "train_loss")},
        **{name: _mean(state.get(name) for state in states) if evaluated else None for name in CURVES},
    }


def _entry_shown(cell: ClientResult, epoch: int) -> Row:
    """Return the epoch's entry of a cell; epoch 0's, the global model's, if that is what the client ends with."""
    shown = 0 if cell.status in ("diverged", "no_train") else epoch
    return next((entry for entry in cell.epochs if entry["epoch"] == shown), {})


def depth_rows(result: MethodResult) -> list[dict[str, Any]]:
    """Return one row of depth.csv per layer: its distortion, mean over the clients with status ok.

    None if it is not known of all of them: cells may be from before it was recorded.
    """
    known = [cell.depth for cell in result.cells if cell.status == "ok"]
    moved = [depth for depth in known if depth] if all(known) else []
    shared = [layer for layer in moved[0] if all(layer in depth for depth in moved)] if moved else []
    return [
        {"depth": place, "layer": layer, "distortion_relative": _mean(depth[layer] for depth in moved)}
        for place, layer in enumerate(shared, 1)
    ]


def distortion_points(result: MethodResult) -> list[tuple[str, int, float, float]]:
    """Return client, epoch, distortion and loss of Global for every client and evaluated epoch.

    Epoch 0, where nothing has moved and nothing is lost, is left out. If no epochs were evaluated, the end is all there
    is.
    """
    points = []
    before = _mean(cell.local_before for cell in result.cells)
    for cell in result.cells:
        start = next((entry.get("global_all") for entry in cell.epochs if entry["epoch"] == 0), None)
        found = [
            (cell.client, int(entry["epoch"]), float(entry["distortion"]), float(start - entry["global_all"]))
            for entry in cell.epochs
            if entry["epoch"] > 0 and None not in (start, entry.get("distortion"), entry.get("global_all"))
        ]
        after = _mean(cell.accuracy)
        if not found and None not in (before, after, cell.distortion_own):
            last = max((int(entry["epoch"]) for entry in cell.epochs), default=0)
            found = [(cell.client, last, cell.distortion_own, before - after)]  # type: ignore[operator, list-item]
        points += found
    return points


def result_rows(results: Iterable[MethodResult]) -> list[dict[str, Any]]:
    """Return one row of results.csv per seed and method that is complete."""
    return [{"seed": r.seed, "method": r.method, **figures(r)} for r in results if r.complete]


def figures(result):
    return {k: v for k, v in compute_metrics(evaluation_of(result)).items() if k not in GROUP_FIGURES or group_columns(result.cells)}


def figures_in(rows):
    rows = list(rows)
    return tuple(m.name for m in METRICS if not m.optional or any(m.name in row for row in rows))


def summary_rows(
    rows: Iterable[Row], order: Sequence[str] = (), columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return mean and standard deviation (ddof 0) over seeds for every method and figure.

    Args:
        rows: rows of results.csv.
        order: the methods in the order to list them; others follow as they come.
        columns: the figures; by default all that results.csv has.

    >>> rows = [{"seed": seed, "method": "ft", "local": local} for seed, local in ((0, 80.0), (1, 90.0))]
    >>> summary_rows(rows)[0]
    {'method': 'ft', 'metric': 'local', 'mean': 85.0, 'std': 5.0, 'n': 2}
    """
    rows = list(rows)
    by_method: dict[str, list[Row]] = {method: [] for method in order}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    names = figures_in(rows) if columns is None else columns
    return [_summary_row(method, name, seeds) for method, seeds in by_method.items() if seeds for name in names]


def _summary_row(method: str, metric: str, seeds: Iterable[Row]) -> dict[str, Any]:
    values = [row[metric] for row in seeds if row.get(metric) is not None and not math.isnan(row[metric])]
    std = math.sqrt(fmean((value - fmean(values)) ** 2 for value in values)) if values else None
    return {"method": method, "metric": metric, "mean": _mean(values), "std": std, "n": len(values)}


def difference_rows(rows: Iterable[Row], baseline: str) -> list[dict[str, Any]]:
    """Compare every method with another, seed by seed.

    Both started from the same global model and saw the same batches, so that a difference within a seed is free of what
    seeds have in common.

    Args:
        rows: rows of results.csv.
        baseline: the method to compare with.

    Returns:
        One row per other method and figure of `COMPARED`: mean and standard deviation (ddof 0) of the differences over
        the ``n`` seeds that have both.

    >>> rows = [{"seed": s, "method": m, "local": x} for s, m, x in ((0, "ft", 80.0), (0, "lp", 83.0), (1, "lp", 90.0))]
    >>> difference_rows(rows, "ft")[0]
    {'method': 'lp', 'metric': 'local', 'mean': 3.0, 'std': 0.0, 'n': 1}
    """
    rows = list(rows)
    base = {row["seed"]: row for row in rows if row["method"] == baseline}
    differences: dict[str, list[Row]] = {}
    for row in rows:
        if row["method"] != baseline and row["seed"] in base:
            pairs = {name: (row.get(name), base[row["seed"]].get(name)) for name in COMPARED}
            known = {name: a - b for name, (a, b) in pairs.items() if a is not None and b is not None}
            differences.setdefault(row["method"], []).append(known)
    return [_summary_row(method, name, seeds) for method, seeds in differences.items() for name in COMPARED]


def clients_compared(results: Iterable[MethodResult], method: str, baseline: str) -> tuple[int, int, int]:
    """Count the clients whose local accuracy, mean over the seeds that have both, is higher, equal and lower."""
    found = {(r.seed, r.method): np.diagonal(accuracy_matrix(r)) for r in results if r.complete}
    seeds = [seed for seed, name in found if name == method and (seed, baseline) in found]
    if not seeds:
        return 0, 0, 0
    change = np.mean([found[seed, method] - found[seed, baseline] for seed in seeds], axis=0).round(9)
    return int((change > 0).sum()), int((change == 0).sum()), int((change < 0).sum())


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known else None


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def to_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return rows as CSV; blank where a column is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_field(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _field(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Point:
    """The results of one run: a point of a sweep, or a run by itself. This is what verdicts are given.

    Args:
        run: the run.
        config: its resolved experiment.
        results: what was found on disk, for every seed and method.
        values: the swept values of this point, by dotted key; none for a run by itself.
    """

    run: Run
    config: Mapping[str, Any]
    results: Sequence[MethodResult]
    values: Values = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The swept values in words; empty for a run by itself."""
        return label(self.values)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of results.csv: one per seed and method that is complete."""
        return result_rows(self.results)

    @cached_property
    def methods(self) -> list[str]:
        """The methods that are complete for at least one seed, in their order."""
        complete = {row["method"] for row in self.rows}
        return [method for method in methods_of(self.results) if method in complete]

    @property
    def trained(self) -> list[str]:
        """The same without the global model itself."""
        return [method for method in self.methods if not is_reference(method, self.config)]

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The rows that a sweep over a method's settings made, by name."""
        return variants_of(self.config)

    @cached_property
    def histories(self) -> dict[int, list[float | None]]:
        """The global models' validation accuracy after every round, in percent, by seed."""
        seeds = sorted({result.seed for result in self.results})
        histories = {seed: read_history(self.run.global_file(seed, "history.csv")) for seed in seeds}
        return {seed: [row.get("val_accuracy") for row in history] for seed, history in histories.items() if history}

    def family(self, name: str) -> list[str]:
        """Return the complete rows of a method: itself and its variants."""
        return [method for method in self.methods if family_of(method, self.variants) == name]

    def complete(self, method: str) -> list[MethodResult]:
        """Return a method's complete results, one per seed."""
        return [result for result in self.results if result.complete and result.method == method]

    def by_seed(self, method: str, metric: str) -> dict[int, float]:
        """Return a figure of results.csv of one method for every seed where it is known."""
        rows = [row for row in self.rows if row["method"] == method]
        return {row["seed"]: row[metric] for row in rows if not math.isnan(row[metric])}

    def differences(self, method: str, baseline: str, metric: str) -> list[float]:
        """Return how much one method is above another in a figure, for every seed that has both."""
        own, other = self.by_seed(method, metric), self.by_seed(baseline, metric)
        return [own[seed] - other[seed] for seed in own if seed in other]


def read_point(run: Run, results: Sequence[MethodResult] | None = None) -> Point:
    """Read the results of one run."""
    config = read_config(run)
    found = read_results(run) if results is None else results
    return Point(run, config, found, dict(provenance(config).get("point") or {}))


def tuned_of(config: Mapping[str, Any]) -> dict[str, Values]:
    """Return the tuned methods of a run, each with the settings that were chosen."""
    return {str(name): settings or {} for name, settings in (provenance(config).get("tuned") or {}).items()}


def num_planned(config):
    keys = swept(config)
    return math.prod(len(values) for values in keys.values()) if keys else 0
