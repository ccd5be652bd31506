"""The tidy data frames of a run, made from its client results. Percent, full precision, NaN where not defined.

Means are `lpft.evaluation.metrics.mean`, which rounds once, so that the same results always give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from pandas import DataFrame

from lpft.evaluation.groups import Where
from lpft.evaluation.metrics import (
    CLIENT_METRICS,
    METRICS,
    Evaluation,
    Matrix,
    compute_client_metrics,
    compute_metrics,
    mean,
)
from lpft.reporting.results import MethodResult
from lpft.storage.client_result import ClientResult

COUNTS = ("num_train", "num_val", "num_test")
FIELDS = (
    *("fingerprint", "local_before", "train_accuracy", "val_gained", "val_lost", "val_global"),
    *("num_classes", "num_train_classes", "train_passes", "clients_per_stack", "device"),
)
"""Fields of a client result that are in the frame of clients but not in clients.csv."""
RATES = ("lr_head", "lr_body", "train_loss")
ACCURACIES = ("local", "global_all", "distortion", "worst")
CURVE_COLUMNS = ("epoch", "phase", *RATES, *ACCURACIES)

Row = dict[str, Any]


def accuracy_matrix(result: MethodResult) -> Matrix:
    """Return the accuracy matrix of a method, ``(C, C)`` percent: row = whose model, column = whose test set.

    NaN where a result is missing or a client has no test samples.
    """
    position = {client: index for index, client in enumerate(result.clients)}
    matrix = np.full((len(position), len(position)), np.nan)
    for cell in result.cells:
        columns = [position[client] for client in cell.clients]
        matrix[position[cell.client], columns] = [math.nan if value is None else value for value in cell.accuracy]
    return matrix


def evaluation_of(result: MethodResult) -> Evaluation:
    """Return what the metrics of one method and seed are computed from."""
    by_client = {cell.client: cell for cell in result.cells}
    return Evaluation(accuracy_matrix(result), [by_client.get(client) for client in result.clients])


def results_frame(results: Iterable[MethodResult]) -> DataFrame:
    """Return one row per seed and method: every metric, ``complete`` and ``problem``.

    The metrics of a method without the results of all clients are NaN: a mean over some clients cannot be compared with
    a mean over all.
    """
    rows = []
    for result in results:
        row: Row = {"seed": result.seed, "method": result.method}
        row |= compute_metrics(evaluation_of(result)) if result.complete else {m.name: math.nan for m in METRICS}
        rows.append(row | {"complete": result.complete, "problem": result.problem})
    frame = DataFrame(rows, columns=["seed", "method", *(metric.name for metric in METRICS), "complete", "problem"])
    return _without_empty(frame, [metric.name for metric in METRICS if metric.optional])


def clients_frame(results: Iterable[MethodResult]) -> DataFrame:
    """Return one row per seed, method and client, with status ``missing`` or ``damaged`` where there is no result."""
    rows = []
    for result in results:
        if not result.clients:
            continue
        evaluation = evaluation_of(result)
        metrics = compute_client_metrics(evaluation)
        for index, (client, cell) in enumerate(zip(result.clients, evaluation.results, strict=True)):
            row: Row = {"seed": result.seed, "method": result.method, "client": client}
            if cell is None:
                row["status"] = "missing" if client in result.missing else "damaged"
            else:
                row |= {name: getattr(cell, name) for name in ("status", *COUNTS, *FIELDS)}
                row |= {name: float(values[index]) for name, values in metrics.items()}
            rows.append(row)
    names = [metric.name for metric in CLIENT_METRICS]
    frame = DataFrame(rows, columns=["seed", "method", "client", "status", *COUNTS, *names, *FIELDS])
    integers = [*COUNTS, "val_gained", "val_lost", "num_classes", "num_train_classes", "clients_per_stack"]
    frame = frame.astype(dict.fromkeys(integers, "Int64"))
    return _without_empty(frame, [metric.name for metric in CLIENT_METRICS if metric.optional])


def groups_frame(results: Iterable[MethodResult]) -> DataFrame:
    """Return one row per seed, method, client, test set (``local`` or ``all``) and group of samples.

    ``accuracy`` in percent, NaN for a group without samples, and ``num_samples``. Empty if the data have no groups.
    """
    rows = [
        (r.seed, r.method, cell.client, where, group, figures[where], figures[f"num_{where}"])
        for r in results
        for cell in r.cells
        for where in get_args(Where)
        for group, figures in (cell.groups or {}).items()
    ]
    columns = ["seed", "method", "client", "test_set", "group", "accuracy", "num_samples"]
    return DataFrame(rows, columns=columns).astype({"accuracy": float})


def curves_frame(results: Iterable[MethodResult]) -> DataFrame:
    """Return one row per seed, method, client and epoch; epoch 0 is the global model."""
    rows = [
        {"seed": r.seed, "method": r.method, "client": cell.client, **entry}
        for r in results
        for cell in r.cells
        for entry in cell.epochs
    ]
    frame = DataFrame(rows, columns=["seed", "method", "client", *CURVE_COLUMNS])
    return frame.astype(dict.fromkeys((*RATES, *ACCURACIES), float))


def mean_curves_frame(results: Iterable[MethodResult]) -> DataFrame:
    """Return one row per seed, method and epoch: means over the clients.

    A client that diverged or has no training samples stays at the global model in every epoch, as it does in the
    matrix; hence the last epoch agrees with results.csv.
    """
    rows = []
    for result in results:
        entries: dict[int, list[Mapping[str, Any]]] = {}
        for cell in result.cells:
            for entry in cell.epochs:
                entries.setdefault(int(entry["epoch"]), []).append(entry)
        for epoch in sorted(entries):
            row = _mean_epoch(epoch, entries[epoch], result.cells)
            rows.append({"seed": result.seed, "method": result.method, **row})
    return DataFrame(rows, columns=["seed", "method", *CURVE_COLUMNS])


def _mean_epoch(epoch: int, entries: list[Mapping[str, Any]], cells: Iterable[ClientResult]) -> Row:
    evaluated = any(entry.get("global_all") is not None for entry in entries)
    states = [_entry_shown(cell, epoch) for cell in cells] if evaluated else []
    phases = Counter(str(entry.get("phase") or "") for entry in entries)
    return {
        "epoch": epoch,
        "phase": phases.most_common(1)[0][0],
        **{name: mean(entry.get(name) for entry in entries) for name in RATES},
        **{name: mean(state.get(name) for state in states) for name in ACCURACIES},
    }


def _entry_shown(cell: ClientResult, epoch: int) -> Mapping[str, Any]:
    """Return the epoch's entry of a client; epoch 0's, the global model's, if that is what the client ends with."""
    shown = 0 if cell.status in ("diverged", "no_train") else epoch
    return next((entry for entry in cell.epochs if entry["epoch"] == shown), {})


def depth_frame(results: Iterable[MethodResult]) -> DataFrame:
    """Return one row per seed, method and layer: its distortion, mean over the clients with status ok.

    A method is left out if it is not recorded for all of them.
    """
    rows = []
    for result in results:
        recorded = [cell.depth for cell in result.cells if cell.status == "ok"]
        moved = [depth for depth in recorded if depth] if all(recorded) else []
        shared = [layer for layer in moved[0] if all(layer in depth for depth in moved)] if moved else []
        rows += [
            (result.seed, result.method, place, layer, mean(depth[layer] for depth in moved))
            for place, layer in enumerate(shared, 1)
        ]
    return DataFrame(rows, columns=["seed", "method", "depth", "layer", "distortion_relative"])


def rounds_frame(histories: Mapping[int, Sequence[Mapping[str, float | None]]]) -> DataFrame:
    """Return one row per seed and round of federated training."""
    columns = ["round", "train_loss", "val_accuracy", "num_clients", "seconds"]
    rows = [{"seed": seed, **row} for seed, history in histories.items() for row in history]
    return DataFrame(rows, columns=["seed", *columns]).astype(dict.fromkeys(columns, float))


def summary_frame(frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Return mean and standard deviation (ddof 0) over seeds of some columns, one row per method and metric.

    >>> frame = DataFrame({"seed": [0, 1], "method": "ft", "local": [80.0, 90.0]})
    >>> summary_frame(frame, ["local"]).to_dict("records")
    [{'method': 'ft', 'metric': 'local', 'mean': 85.0, 'std': 5.0, 'n': 2}]
    """
    rows = []
    for method, of_method in frame.groupby("method", sort=False):
        for column in columns:
            values = of_method[column].dropna().tolist()
            center = mean(values)
            std = math.sqrt(mean((value - center) ** 2 for value in values)) if values else math.nan
            rows.append((method, column, center, std, len(values)))
    return DataFrame(rows, columns=["method", "metric", "mean", "std", "n"])


def metric_columns(frame: DataFrame) -> list[str]:
    """Return the metrics that a frame of results has, in the order of the registry."""
    return [metric.name for metric in METRICS if metric.name in frame.columns]


def _without_empty(frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    empty = [name for name in columns if bool(pd.isna(frame[name]).all())]
    return frame.drop(columns=empty)
