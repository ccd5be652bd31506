"""The tidy data frames of a run, made from its client results. Percent, full precision, NaN where not defined.

Means are `lpft.evaluation.metrics.mean`, which rounds once, so that the same results always give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
from pandas import DataFrame

from lpft.evaluation.groups import Where
from lpft.evaluation.metric import Evaluation, Matrix, Vector, mean
from lpft.evaluation.metrics import CLIENT_METRICS, METRICS, compute_client_metrics, compute_metrics
from lpft.reporting.experiment import group_by
from lpft.reporting.results import History, MethodResult
from lpft.storage.client_result import ClientResult

COUNTS = ("num_train", "num_val", "num_test")
FIELDS = (
    *("fingerprint", "local_before", "train_accuracy", "val_gained", "val_lost", "val_global"),
    *("num_classes", "num_train_classes", "train_passes", "clients_per_stack", "device"),
)
"""Fields of a client result that are in the frame of clients but not in clients.csv."""
INTEGERS = (*COUNTS, "val_gained", "val_lost", "num_classes", "num_train_classes", "clients_per_stack")
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
    columns: dict[int, Any] = {}  # by the list of clients, which cells share
    for cell in result.cells:
        if id(cell.clients) not in columns:
            same = cell.clients == result.clients
            columns[id(cell.clients)] = slice(None) if same else [position[client] for client in cell.clients]
        matrix[position[cell.client], columns[id(cell.clients)]] = np.array(cell.accuracy, dtype=np.float64)
    return matrix


class _Evaluation(Evaluation):
    """An evaluation that computes the metrics of the clients once: many metrics of a method are means of them."""

    @cached_property
    def client_metrics(self) -> dict[str, Vector]:
        return compute_client_metrics(self)

    def of_clients(self, name: str) -> Vector:
        return self.client_metrics[name]


@dataclass(frozen=True)
class Measured:
    """The metrics of one method and seed.

    Args:
        metrics: of the method, by name; NaN if it is not complete.
        of_clients: of every client, ``(C,)`` each, by name.
    """

    metrics: Mapping[str, float]
    of_clients: Mapping[str, Vector]


def measure(result: MethodResult) -> Measured:
    """Compute all metrics of one method and seed."""
    metrics = dict.fromkeys([metric.name for metric in METRICS], math.nan)
    if not result.clients:
        return Measured(metrics, {})
    evaluation = evaluation_of(result)
    return Measured(compute_metrics(evaluation) if result.complete else metrics, evaluation.client_metrics)


def evaluation_of(result: MethodResult) -> _Evaluation:
    """Return what the metrics of one method and seed are computed from."""
    by_client = {cell.client: cell for cell in result.cells}
    return _Evaluation(accuracy_matrix(result), [by_client.get(client) for client in result.clients])


@dataclass(frozen=True)
class Frames:
    """The results of a run as data frames, each made when it is first used.

    Args:
        method_results: for every seed and method.
        histories: rows of history.csv by seed.
    """

    method_results: Sequence[MethodResult]
    histories: Mapping[int, History] = field(default_factory=dict)

    @cached_property
    def measured(self) -> list[Measured]:
        """The metrics of every entry of `method_results`."""
        return [measure(result) for result in self.method_results]

    @cached_property
    def results(self) -> DataFrame:
        """One row per seed and method: every metric, ``complete`` and ``problem``.

        The metrics of a method without the results of all clients are NaN: a mean over some clients cannot be compared
        with a mean over all.
        """
        names = [metric.name for metric in METRICS]
        rows = []
        for result, measured in zip(self.method_results, self.measured, strict=True):
            row: Row = {"seed": result.seed, "method": result.method, **measured.metrics}
            rows.append(row | {"complete": result.complete, "problem": result.problem})
        frame = DataFrame(rows, columns=["seed", "method", *names, "complete", "problem"])
        return _without_empty(frame, [metric.name for metric in METRICS if metric.optional])

    @cached_property
    def summary(self) -> DataFrame:
        """Mean and standard deviation (ddof 0) over the complete seeds, one row per method and metric, ``n`` seeds."""
        complete = self.results[self.results["complete"]]
        order = dict.fromkeys(result.method for result in self.method_results)
        rows = []
        for method in (method for method in order if method in set(complete["method"])):
            for name in metric_columns(complete):
                values = complete.loc[complete["method"] == method, name].dropna().tolist()
                center = mean(values)
                std = math.sqrt(mean((value - center) ** 2 for value in values)) if values else math.nan
                rows.append((method, name, center, std, len(values)))
        return DataFrame(rows, columns=["method", "metric", "mean", "std", "n"])

    @cached_property
    def clients(self) -> DataFrame:
        """One row per seed, method and client: the columns of clients.csv and all other scalars of the result.

        The status is ``missing`` or ``damaged`` where there is no result.
        """
        names = [metric.name for metric in CLIENT_METRICS]
        columns = ["seed", "method", "client", "status", *COUNTS, *names, *FIELDS]
        frame = DataFrame(self._client_rows(), columns=columns).astype(dict.fromkeys(INTEGERS, "Int64"))
        return _without_empty(frame, [metric.name for metric in CLIENT_METRICS if metric.optional])

    def _client_rows(self) -> Iterator[Row]:
        for result, measured in zip(self.method_results, self.measured, strict=True):
            by_client = {cell.client: cell for cell in result.cells}
            missing = set(result.missing)
            metrics = {name: values.tolist() for name, values in measured.of_clients.items()}
            for index, client in enumerate(result.clients):
                cell = by_client.get(client)
                row: Row = {"seed": result.seed, "method": result.method, "client": client}
                if cell is None:
                    row["status"] = "missing" if client in missing else "damaged"
                else:
                    row |= {name: getattr(cell, name) for name in ("status", *COUNTS, *FIELDS)}
                    row |= {name: values[index] for name, values in metrics.items()}
                yield row

    @cached_property
    def groups(self) -> DataFrame:
        """One row per seed, method, client, test set (``local`` or ``all``) and group of samples.

        ``accuracy`` in percent, NaN for a group without samples, and ``num_samples``. Empty if the data have no groups.
        """
        rows = [
            (r.seed, r.method, cell.client, where, group, figures[where], figures[f"num_{where}"])
            for r, cell in self._cells()
            for where in get_args(Where)
            for group, figures in (cell.groups or {}).items()
        ]
        columns = ["seed", "method", "client", "test_set", "group", "accuracy", "num_samples"]
        return DataFrame(rows, columns=columns).astype({"accuracy": float})

    @cached_property
    def curves(self) -> DataFrame:
        """One row per seed, method, client and epoch; epoch 0 is the global model."""
        cells = list(self._cells())
        columns: dict[str, Any] = {
            "seed": [result.seed for result, cell in cells for _ in cell.epochs],
            "method": [result.method for result, cell in cells for _ in cell.epochs],
            "client": [cell.client for _, cell in cells for _ in cell.epochs],
        }
        for name in CURVE_COLUMNS:
            values = (entry.get(name) for _, cell in cells for entry in cell.epochs)
            columns[name] = list(values) if name in ("epoch", "phase") else _floats(values)
        return DataFrame(columns)

    @cached_property
    def mean_curves(self) -> DataFrame:
        """One row per seed, method and epoch: means over the clients, the columns of curves.csv.

        A client that diverged or has no training samples stays at the global model in every epoch, as it does in the
        matrix; hence the last epoch agrees with results.csv.
        """
        rows = []
        for result in self.method_results:
            entries = [entry for cell in result.cells for entry in cell.epochs]
            for epoch, own in sorted(group_by(entries, lambda entry: int(entry["epoch"])).items()):
                row = _mean_epoch(epoch, own, result.cells)
                rows.append({"seed": result.seed, "method": result.method, **row})
        return DataFrame(rows, columns=["seed", "method", *CURVE_COLUMNS])

    @cached_property
    def depth(self) -> DataFrame:
        """One row per seed, method and layer: its distortion, mean over the clients with status ok.

        A method is left out if it is not recorded for all of them.
        """
        rows = []
        for result in self.method_results:
            recorded = [cell.depth for cell in result.cells if cell.status == "ok"]
            moved = [depth for depth in recorded if depth] if all(recorded) else []
            shared = [layer for layer in moved[0] if all(layer in depth for depth in moved)] if moved else []
            for place, layer in enumerate(shared, 1):
                rows.append((result.seed, result.method, place, layer, mean(depth[layer] for depth in moved)))
        return DataFrame(rows, columns=["seed", "method", "depth", "layer", "distortion_relative"])

    @cached_property
    def rounds(self) -> DataFrame:
        """One row per seed and round of federated training."""
        columns = ["round", "train_loss", "val_accuracy", "num_clients", "seconds"]
        rows = [{"seed": seed, **row} for seed, history in self.histories.items() for row in history]
        return DataFrame(rows, columns=["seed", *columns]).astype(dict.fromkeys(columns, float))

    def _cells(self) -> Iterator[tuple[MethodResult, ClientResult]]:
        return ((result, cell) for result in self.method_results for cell in result.cells)


def _floats(values: Iterable[float | None]) -> Vector:
    """Return numbers as an array, with NaN for None."""
    return np.fromiter((math.nan if value is None else value for value in values), dtype=np.float64)


def _mean_epoch(epoch: int, entries: Sequence[Mapping[str, Any]], cells: Iterable[ClientResult]) -> Row:
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


def complete_rows(frames: Frames, frame: DataFrame, method: str) -> DataFrame:
    """Return the rows of a frame that belong to the complete results of a method."""
    complete = frames.results["complete"] & (frames.results["method"] == method)
    return frame[(frame["method"] == method) & frame["seed"].isin(frames.results.loc[complete, "seed"])]


def client_values(frames: Frames, method: str, column: str) -> DataFrame:
    """Return a column of the clients of complete results: one row per client, one column per seed."""
    rows = complete_rows(frames, frames.clients, method)
    return rows.pivot(index="client", columns="seed", values=column).reindex(rows["client"].unique()).astype(float)


def distortion_points(frames: Frames, method: str, ends: bool = False) -> DataFrame:
    """Return seed, client, epoch, distortion, and loss of Global in percentage points of a method's complete results.

    Args:
        frames: of the run.
        method: its name.
        ends: return the personalized models (epoch -1) instead of the evaluated epochs. The epochs leave out epoch 0,
            where nothing has moved; without evaluated epochs, the ends are returned.
    """
    rows = complete_rows(frames, frames.clients, method)
    before = rows.astype({"local_before": float}).groupby("seed")["local_before"].mean()
    epochs = complete_rows(frames, frames.curves, method)
    epochs = epochs[epochs["epoch"] > 0].dropna(subset=["global_all", "distortion"])
    if ends or epochs.empty:
        epochs = rows.assign(epoch=-1, distortion=rows["distortion_own"])
    loss = epochs["seed"].map(before) - epochs["global_all"].astype(float)
    found = epochs[["seed", "client", "epoch", "distortion"]].assign(loss=loss)
    return found.astype({"distortion": float, "loss": float}).dropna()


def metric_columns(frame: DataFrame) -> list[str]:
    """Return the metrics that a frame of results has, in the order of the registry."""
    return [metric.name for metric in METRICS if metric.name in frame.columns]


def _without_empty(frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    return frame.drop(columns=[name for name in columns if frame[name].isna().all()])
