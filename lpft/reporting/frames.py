"""The tidy data frames of a run, made from its client results. Percent, full precision, NaN where not defined.

Means are `lpft.evaluation.metrics.mean`, which rounds once, so that the same results always give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, get_args

import numpy as np
from pandas import DataFrame

from lpft.evaluation.groups import Where
from lpft.evaluation.metric import Evaluation, Matrix, Vector, mean
from lpft.evaluation.metrics import CLIENT_METRICS, METRICS, compute_client_metrics, compute_metrics
from lpft.reporting.experiment import group_by
from lpft.reporting.results import History, MethodResult
from lpft.storage.columnar import EntryTable
from lpft.storage.result_parser import stacked

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
    shared_lists = group_by(result.client_results, lambda cell: id(cell.clients))  # cells share their lists of clients
    for cells in shared_lists.values():
        rows = stacked([cell.accuracy for cell in cells])
        if cells[0].clients != result.clients:
            rows = rows[:, np.argsort([position[name] for name in cells[0].clients])]
        matrix[[position[cell.client] for cell in cells]] = rows
    return matrix


class _Evaluation(Evaluation):
    """An evaluation that computes the metrics of the clients once: many metrics of a method are means of them."""

    @cached_property
    def client_metrics(self) -> dict[str, Vector]:
        return compute_client_metrics(self)

    @cached_property
    def _computed(self) -> dict[str, Vector]:
        return {}

    def of_clients(self, name: str) -> Vector:
        if name not in self._computed:
            self._computed[name] = super().of_clients(name)
        return self._computed[name]


@dataclass(frozen=True)
class Measured:
    """The metrics of one method and seed.

    Args:
        result: of the method and seed.
        metrics: of the method, by name; NaN if it is not complete.
        of_clients: of every client, ``(C,)`` each, by name.
    """

    result: MethodResult
    metrics: Mapping[str, float]
    of_clients: Mapping[str, Vector]


def measure(result: MethodResult) -> Measured:
    """Compute all metrics of one method and seed."""
    metrics = dict.fromkeys([metric.name for metric in METRICS], math.nan)
    if not result.clients:
        return Measured(result, metrics, {})
    evaluation = evaluation_of(result)
    return Measured(result, compute_metrics(evaluation) if result.complete else metrics, evaluation.client_metrics)


def evaluation_of(result: MethodResult) -> _Evaluation:
    """Return what the metrics of one method and seed are computed from."""
    by_client = {cell.client: cell for cell in result.client_results}
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

    def metrics_of(self, result: MethodResult) -> Mapping[str, float]:
        """Return the metrics of one of the results."""
        return next(measured.metrics for measured in self.measured if measured.result is result)

    @cached_property
    def results(self) -> DataFrame:
        """One row per seed and method: every metric, ``complete`` and ``problem``.

        The metrics of a method without the results of all clients are NaN: a mean over some clients cannot be compared
        with a mean over all.
        """
        names = [metric.name for metric in METRICS]
        rows = []
        for measured in self.measured:
            result = measured.result
            row: Row = {"seed": result.seed, "method": result.method, **measured.metrics}
            rows.append(row | {"complete": result.complete, "problem": result.problem})
        frame = DataFrame(rows, columns=["seed", "method", *names, "complete", "problem"])
        return _without_empty(frame, [metric.name for metric in METRICS if metric.optional])

    @cached_property
    def summary(self) -> DataFrame:
        """Mean and standard deviation (ddof 0) over the complete seeds, one row per method and metric, ``n`` seeds."""
        names = metric_columns(self.results)
        rows = []
        for method, of_method in group_by(self.measured, lambda measured: measured.result.method).items():
            complete = [measured.metrics for measured in of_method if measured.result.complete]
            for name in names if complete else ():
                values = [metrics[name] for metrics in complete if not math.isnan(metrics[name])]
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
        parts = [_client_columns(measured) for measured in self.measured]
        values = {column: list(chain.from_iterable(part.get(column, ()) for part in parts)) for column in columns}
        frame = DataFrame(values).astype(dict.fromkeys(INTEGERS, "Int64"))
        return _without_empty(frame, [metric.name for metric in CLIENT_METRICS if metric.optional])

    @cached_property
    def groups(self) -> DataFrame:
        """One row per seed, method, client, test set (``local`` or ``all``) and group of samples.

        ``accuracy`` in percent, NaN for a group without samples, and ``num_samples``. Empty if the data have no groups.
        """
        rows = [
            (r.seed, r.method, cell.client, where, group, figures[where], figures[f"num_{where}"])
            for r in self.method_results
            for cell in r.client_results
            for where in get_args(Where)
            for group, figures in (cell.groups or {}).items()
        ]
        columns = ["seed", "method", "client", "test_set", "group", "accuracy", "num_samples"]
        return DataFrame(rows, columns=columns).astype({"accuracy": float})

    @cached_property
    def curves(self) -> DataFrame:
        """One row per seed, method, client and epoch; epoch 0 is the global model."""
        return curves_of(self.method_results)

    @cached_property
    def mean_curves(self) -> DataFrame:
        """One row per seed, method and epoch: means over the clients, the columns of curves.csv.

        A client that diverged or has no training samples stays at the global model in every epoch, as it does in the
        matrix; hence the last epoch agrees with results.csv.
        """
        rows = []
        for result in self.method_results:
            staying = {cell.client for cell in result.client_results if cell.status in ("diverged", "no_train")}
            key = {"seed": result.seed, "method": result.method}
            rows += [key | row for row in _mean_epochs(curves_of([result]), staying)]
        return DataFrame(rows, columns=["seed", "method", *CURVE_COLUMNS])

    @cached_property
    def depth(self) -> DataFrame:
        """One row per seed, method and layer: its distortion, mean over the clients with status ok.

        A method is left out if it is not recorded for all of them.
        """
        rows = []
        for result in self.method_results:
            recorded = [cell.depth for cell in result.client_results if cell.status == "ok"]
            moved = [by_layer for by_layer in recorded if by_layer] if all(recorded) else []
            shared = [layer for layer in moved[0] if all(layer in by_layer for by_layer in moved)] if moved else []
            for depth, layer in enumerate(shared, 1):
                rows.append((result.seed, result.method, depth, layer, mean(by_layer[layer] for by_layer in moved)))
        return DataFrame(rows, columns=["seed", "method", "depth", "layer", "distortion_relative"])

    @cached_property
    def rounds(self) -> DataFrame:
        """One row per seed and round of federated training."""
        columns = ["round", "train_loss", "val_accuracy", "num_clients", "seconds"]
        rows = [{"seed": seed, **row} for seed, history in self.histories.items() for row in history]
        return DataFrame(rows, columns=["seed", *columns]).astype(dict.fromkeys(columns, float))


def curves_of(results: Sequence[MethodResult]) -> DataFrame:
    """Return the rows of the frame of curves for some results; see `Frames.curves`."""
    tables = [EntryTable.of([cell.epochs for cell in result.client_results]) for result in results]
    cells = [(result, cell) for result in results for cell in result.client_results]
    lengths = np.array([length for table in tables for length in table.lengths], dtype=int)
    cell_of_row = np.repeat(np.arange(len(cells)), lengths)
    columns: dict[str, Any] = {
        "seed": np.array([result.seed for result, _ in cells], dtype=int)[cell_of_row],
        "method": np.array([result.method for result, _ in cells], dtype=object)[cell_of_row],
        "client": np.array([cell.client for _, cell in cells], dtype=object)[cell_of_row],
    }
    filled = [table for table in tables if table.columns]
    for name in CURVE_COLUMNS:
        columns[name] = np.concatenate([table.column(name) for table in filled]) if filled else []
    return DataFrame(columns)


def _client_columns(measured: Measured) -> dict[str, list[Any]]:
    """Return the columns of the frame of clients for one method and seed."""
    result = measured.result
    by_client = {cell.client: cell for cell in result.client_results}
    cells = [by_client.get(client) for client in result.clients]
    missing = set(result.missing)
    columns = {name: [getattr(cell, name, None) for cell in cells] for name in (*COUNTS, *FIELDS)}
    absent = ("missing" if client in missing else "damaged" for client in result.clients)
    status = [cell.status if cell else reason for cell, reason in zip(cells, absent, strict=True)]
    return {
        "seed": [result.seed] * len(cells),
        "method": [result.method] * len(cells),
        "client": result.clients,
        "status": status,
        **columns,
        **{name: values.tolist() for name, values in measured.of_clients.items()},
    }


def _mean_epochs(curves: DataFrame, staying: set[str]) -> Iterator[Row]:
    """Yield the row of every epoch of one method and seed.

    Args:
        curves: its rows of the frame of curves.
        staying: the clients that end with the global model, epoch 0.
    """
    columns = {name: curves[name].to_numpy() for name in CURVE_COLUMNS}
    epochs, is_staying = columns["epoch"], curves["client"].isin(staying).to_numpy()
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        shown = np.where(is_staying, epochs == 0, of_epoch)
        evaluated = not np.isnan(columns["global_all"][of_epoch]).all()
        phases = Counter(phase if isinstance(phase, str) else "" for phase in columns["phase"][of_epoch])
        yield {
            "epoch": int(epoch),
            "phase": phases.most_common(1)[0][0],
            **{name: mean(columns[name][of_epoch]) for name in RATES},
            **{name: mean(columns[name][shown]) if evaluated else math.nan for name in ACCURACIES},
        }


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
    points = rows.assign(epoch=-1, distortion=rows["distortion_own"])
    if not ends:
        epochs = curves_of([result for result in frames.method_results if result.method == method and result.complete])
        epochs = epochs[epochs["epoch"] > 0].dropna(subset=["global_all", "distortion"])
        points = points if epochs.empty else epochs
    loss = points["seed"].map(before) - points["global_all"].astype(float)
    points = points[["seed", "client", "epoch", "distortion"]].assign(loss=loss)
    return points.astype({"distortion": float, "loss": float}).dropna()


def metric_columns(frame: DataFrame) -> list[str]:
    """Return the metrics that a frame of results has, in the order of the registry."""
    return [metric.name for metric in METRICS if metric.name in frame.columns]


def _without_empty(frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    return frame.drop(columns=[name for name in columns if frame[name].isna().all()])
