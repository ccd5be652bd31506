"""The tables of a run, as CSV: pure functions of the cells.

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
from dataclasses import asdict
from statistics import fmean
from typing import Any, get_args

import numpy as np

from lpft.evaluation.groups import Where, worst_group
from lpft.evaluation.metrics import MATRIX_METRICS, Matrix, client_metrics, hurt_share, matrix_metrics
from lpft.reporting.findings import advice_of, signatures_of
from lpft.reporting.results import MethodResult, methods_of
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

FIGURES = (*MATRIX_METRICS, "distortion_own", "distortion_all", "hurt_share", "train_passes", "seconds")
GROUP_FIGURES = ("worst_group_local", "worst_group_all")
"""What is added to `FIGURES` where the data have groups."""
SUMMARY_COLUMNS = ("method", "metric", "mean", "std", "n")
CLIENT_METRICS = ("local", "global_all", "global_others", "worst", "cstd")
CLIENT_COLUMNS = (
    *("client", "status", "num_train", "num_val", "num_test"),
    *CLIENT_METRICS,
    *("distortion_own", "distortion_all", "distortion_relative", "val_before", "val_after", "seconds"),
)
ADVICE_COLUMNS = (
    *("client", "num_val", "val_before", "best_method", "val_after", "gain", "standard_error", "advice"),
    *("test_before", "test_after"),
)
SIGNATURE_COLUMNS = ("signature", "client", "method", "seed", "value", "found", "advice")
COMPARED = ("local", "global_all", "worst_row", "average3")
"""What two methods are compared in."""
CURVES = ("local", "global_all", "distortion", "worst")
DEPTH_COLUMNS = ("depth", "layer", "distortion_relative")
CURVE_COLUMNS = ("epoch", "phase", "lr_head", "lr_body", "train_loss", *CURVES)

Row = Mapping[str, Any]


def write_method_tables(run: Run, result: MethodResult) -> None:
    """Write accuracy.csv and clients.csv of one seed and method, curves.csv if an epoch was evaluated, and depth.csv.

    depth.csv is there if bodies were trained, and how far each layer moved is known of all of them.
    """

    def write(name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        path = run.method_file(result.seed, result.method, name)
        if rows:
            write_atomically(path, to_csv(columns, rows))
        else:
            path.unlink(missing_ok=True)

    write_atomically(run.method_file(result.seed, result.method, "accuracy.csv"), accuracy_csv(result))
    clients = to_csv((*CLIENT_COLUMNS, *group_columns(result.cells)), client_rows(result))
    write_atomically(run.method_file(result.seed, result.method, "clients.csv"), clients)
    curves = curve_rows(result)
    write("curves.csv", CURVE_COLUMNS, curves if any(row["local"] is not None for row in curves) else ())
    write("depth.csv", DEPTH_COLUMNS, depth_rows(result))


def write_run_tables(run: Run, results: Sequence[MethodResult]) -> None:
    """Write results.csv, summary.csv, advice.csv and signatures.csv of a run."""
    rows = result_rows(results)
    write_atomically(run.root / "results.csv", to_csv(("seed", "method", *figures_in(rows)), rows))
    write_atomically(run.root / "summary.csv", to_csv(SUMMARY_COLUMNS, summary_rows(rows, methods_of(results))))
    write_atomically(run.root / "advice.csv", to_csv(ADVICE_COLUMNS, map(asdict, advice_of(results))))
    found = [{**asdict(s), "signature": s.name, "advice": s.advice} for s in signatures_of(run, results)]
    write_atomically(run.root / "signatures.csv", to_csv(SIGNATURE_COLUMNS, found))


def accuracy_matrix(result: MethodResult) -> Matrix:
    """Put a method's cells together: ``(C, C)`` percent, row = whose model, column = whose test set.

    NaN where a cell is missing or a client has no test samples.
    """
    position = {client: index for index, client in enumerate(result.clients)}
    matrix = np.full((len(position), len(position)), np.nan)
    for cell in result.cells:
        columns = [position[client] for client in cell.clients]
        matrix[position[cell.client], columns] = [math.nan if value is None else value for value in cell.accuracy]
    return matrix


def accuracy_csv(result: MethodResult) -> str:
    """Return the accuracy matrix as CSV; client names are the header and the first column."""
    rows = [dict(zip(result.clients, row, strict=True)) for row in accuracy_matrix(result)]
    names = [{"": client} for client in result.clients]
    return to_csv(("", *result.clients), [{**row, **name} for row, name in zip(rows, names, strict=True)])


def client_rows(result: MethodResult) -> list[dict[str, Any]]:
    """Return one row per client, with status ``missing`` or ``damaged`` where there is no usable cell."""
    if not result.clients:
        return []
    per_client = client_metrics(accuracy_matrix(result))
    cells = {cell.client: cell for cell in result.cells}
    rows = []
    for index, client in enumerate(result.clients):
        if cell := cells.get(client):
            metrics = {name: float(per_client[name][index]) for name in CLIENT_METRICS}
            known = {name: getattr(cell, name) for name in CLIENT_COLUMNS if hasattr(cell, name)}
            rows.append(known | metrics | group_entries(cell))
        else:
            rows.append({"client": client, "status": "missing" if client in result.missing else "damaged"})
    return rows


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


def figures(result: MethodResult) -> dict[str, float]:
    """Sum up a complete method and seed in the figures of `FIGURES`; NaN where one is not defined.

    Where the data have groups, those of `GROUP_FIGURES` are added.
    """
    by_group = group_figures(result)
    matrix = accuracy_matrix(result)
    before = np.array([math.nan if cell.local_before is None else cell.local_before for cell in result.cells])
    return {
        **matrix_metrics(matrix),
        "distortion_own": _nan(_mean(cell.distortion_own for cell in result.cells)),
        "distortion_all": _nan(_mean(cell.distortion_all for cell in result.cells)),
        "hurt_share": hurt_share(np.diagonal(matrix), before),
        "train_passes": math.fsum(cell.train_passes for cell in result.cells),
        "seconds": math.fsum(cell.seconds for cell in result.cells),
        **{name: by_group[name] for name in GROUP_FIGURES if name in by_group},
    }


def figures_in(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the figures that rows of results.csv have: `FIGURES`, and `GROUP_FIGURES` where the data have groups."""
    return (*FIGURES, *(GROUP_FIGURES if any(name in row for row in rows for name in GROUP_FIGURES) else ()))


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
