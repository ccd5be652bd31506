"""TensorBoard events: written while a run works (`LiveEvents`), and for good from its results (`write_events`).

One folder of events per seed and method, with the same tags on the same epoch axis for every method, and one per global
model. An open TensorBoard follows a folder's files in the order of their names, and a START record makes it forget the
points before it: so live files are named by time, and the final file, which replaces them, by a higher number.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

from lpft.evaluation.metrics import compute_metrics, shown_metrics
from lpft.reporting.analysis import Analysis
from lpft.reporting.english import flat, section
from lpft.reporting.frames import accuracy_matrix, evaluation_of, mean_curves_frame
from lpft.reporting.pairs import class_name
from lpft.reporting.results import MethodResult, read_method
from lpft.storage.atomic import replacing
from lpft.storage.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TAGS = {
    "train/loss": "train_loss",
    "local/accuracy": "local",
    "global/accuracy": "global_all",
    "worst/accuracy": "worst",
    "distortion": "distortion",
    "lr/head": "lr_head",
    "lr/body": "lr_body",
}
"""Tag of a method: column of curves.csv; the steps are epochs."""

GLOBAL_TAGS = {
    "federated/loss": "train_loss",
    "federated/val_accuracy": "val_accuracy",
    "federated/clients": "num_clients",
}
"""Tag of a global model: column of history.csv; the steps are rounds."""

LAYOUT = {
    "Accuracy": {
        "local and global": ["Multiline", ["^local/accuracy$", "^global/accuracy$"]],
        "worst": ["Multiline", ["^worst/accuracy$"]],
    },
    "Training": {
        "loss": ["Multiline", ["^train/loss$"]],
        "learning rates": ["Multiline", ["^lr/head$", "^lr/body$"]],
        "drift": ["Multiline", ["^distortion$"]],
    },
    "Global model, by round": {
        "loss": ["Multiline", ["^federated/loss$"]],
        "accuracy": ["Multiline", ["^federated/val_accuracy$"]],
    },
}
"""The charts of the CUSTOM SCALARS tab."""

END_OF_TRAINING = {"local": "local", "global_all": "global_all", "worst": "worst_row", "distortion": "distortion_own"}
"""Column of curves.csv: the metric that it ends with."""

PREFIX = "events.out.tfevents."
INTERVAL, SHARE = 5.0, 0.05
"""Live events of methods are renewed at most once in so many seconds, and take at most this share of the time."""

Scalars = Iterator[tuple[int, dict[str, float]]]
"""Step and value by tag; NaN and None are left out."""


def write_events(analysis: Analysis) -> None:
    """Write the final events of every seed and method that has results, and of every global model with a history."""
    settings = {method: method_settings(method, analysis.config) for method in analysis.methods}
    for result in analysis.method_results:
        if result.cells:
            cells = analysis.run.method_file(result.seed, result.method, "cells")
            summaries = list(method_summaries(result, settings))
            replace_events(cells.parent, summaries, _newest(cells.glob("*.json")))
    for seed, history in analysis.histories.items():
        if history:
            path = analysis.run.global_file(seed, "history.csv")
            replace_events(path.parent, [(step, _proto(v)) for step, v in global_scalars(history)], _newest([path]))


class LiveEvents:
    """Events of a run that is at work, for an open TensorBoard; `write_events` replaces them in the end.

    It may be pickled; each process then writes files of its own.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._writers: dict[Path, SummaryWriter] = {}
        self._num_rounds: dict[int, int] = {}
        self._waiting: dict[tuple[int, str], None] = {}
        self._next = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of an object that has written nothing yet."""
        return LiveEvents(self.run).__dict__

    def round(self, seed: int, history: Sequence[Any]) -> None:
        """Add the new rounds of a global model's history: rows of history.csv as dictionaries or dataclasses."""
        rows = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else row for row in history]
        folder = self.run.global_file(seed, "history.csv").parent
        with contextlib.suppress(OSError):  # training itself reports a full disk
            writer, is_new = self._writer(folder)
            start = 0 if is_new else self._num_rounds.get(seed, 0)
            _add_scalars(writer, global_scalars(rows[start:]))
            self._num_rounds[seed] = len(rows)

    def stack(self, seed: int, method: str) -> None:
        """Renew a method's scalars from the results on disk: now, or with a later stack if it was done just before."""
        self._waiting[seed, method] = None
        if time.monotonic() >= self._next:
            self._renew()

    def close(self) -> None:
        """Write what is waiting, and close the files."""
        self._renew()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _renew(self) -> None:
        start = time.monotonic()
        for seed, method in self._waiting:
            with contextlib.suppress(OSError):
                result = read_method(self.run, seed, method)
                if result.cells:
                    folder = self.run.method_file(seed, method, "cells").parent
                    writer, is_new = self._writer(folder)
                    if not is_new:
                        _forget(writer)
                    _add_scalars(writer, method_scalars(result))
        self._waiting.clear()
        end = time.monotonic()
        self._next = end + max(INTERVAL, (end - start) / SHARE)

    def _writer(self, folder: Path) -> tuple[SummaryWriter, bool]:
        """Return the writer of a folder, and whether its file is new; a report may have removed the last one."""
        writer = self._writers.get(folder)
        if writer is not None and Path(_file(writer).event_writer._file_name).exists():
            return writer, False
        from torch.utils.tensorboard import SummaryWriter

        if writer is not None:
            writer.close()
        self._writers[folder] = SummaryWriter(str(folder))
        _forget(self._writers[folder])
        return self._writers[folder], True


def method_summaries(result: MethodResult, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[int, Any]]:
    """Yield step and summary of everything that TensorBoard shows of one method with one seed.

    Args:
        result: of the method.
        settings: of every method of the run, see `method_settings`.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard.summary import custom_scalars, hparams

    from lpft.reporting.heatmap import heatmap_png

    metrics = {f"final/{metric.name}": 0.0 for metric in shown_metrics()}
    examples: dict[str, list[Any]] = {}
    for of_method in (*settings.values(), {"seed": result.seed}):
        for name, value in of_method.items():
            examples.setdefault(name, []).append(value)
    experiment, *_ = hparams({name: _example(values) for name, values in examples.items()}, metrics)
    _, start, end = hparams({**settings[result.method], "seed": result.seed}, metrics)
    yield from ((0, _in_order(summary)) for summary in (experiment, start, *([end] if result.complete else [])))
    yield 0, custom_scalars(LAYOUT)
    step = 0
    for step, values in method_scalars(result):
        yield step, _proto(values)
    png, width, height = heatmap_png(accuracy_matrix(result), result.clients)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    yield step, Summary(value=[Summary.Value(tag="accuracy matrix", image=image)])


def method_scalars(result: MethodResult) -> Scalars:
    """Yield the curves of a method, and at their end its metrics if it is complete."""
    curves = mean_curves_frame([result])
    metrics = compute_metrics(evaluation_of(result)) if result.complete else {}
    last = int(curves["epoch"].max()) if len(curves) else 0
    rows = curves.to_dict("records") or DataFrame([{"epoch": 0}]).to_dict("records")
    for row in rows:
        if row["epoch"] == last:  # the matrix, if the last epoch was not evaluated while training
            for column, name in END_OF_TRAINING.items():
                if not _is_number(row.get(column)):
                    row[column] = metrics.get(name)
        yield from _scalars(int(row["epoch"]), {tag: row.get(column) for tag, column in TAGS.items()})
    yield from _scalars(last, {f"final/{metric.name}": metrics.get(metric.name) for metric in shown_metrics()})


def global_scalars(history: Sequence[Mapping[str, float | None]]) -> Scalars:
    """Yield loss, validation accuracy and number of clients of every round of federated training."""
    for row in history:
        if (number := row.get("round")) is not None:
            yield from _scalars(int(number), {tag: row.get(column) for tag, column in GLOBAL_TAGS.items()})


def method_settings(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings with dotted names, for the HPARAMS tab.

    >>> method_settings("lpft", {"methods": {"lpft": {"class_path": "a.LPFT", "init_args": {"lp_epochs": 5}}}})
    {'method': 'lpft', 'class': 'LPFT', 'lp_epochs': 5}
    """
    settings = section(section(config, "methods"), method)
    named = {"class": class_name(settings)} if "class_path" in settings else {}
    values = dict(flat(section(settings, "init_args")))
    plain = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in values.items()}
    return {"method": method, **named, **plain}


def replace_events(folder: Path, summaries: Sequence[tuple[int, Any]], walltime: float) -> None:
    """Replace the event files of a folder by one, unless that holds the same events already.

    Args:
        folder: where the file goes.
        summaries: step and summary of every event.
        walltime: of the results, in seconds since 1970; all events get it.
    """
    from torch.utils.tensorboard import SummaryWriter

    content = b"".join(
        str(step).encode() + summary.SerializeToString(deterministic=True) for step, summary in summaries
    )
    digest = hashlib.sha256(content).hexdigest()[:16]
    old = sorted(folder.glob(f"{PREFIX}*"))
    if [path.name.rpartition(".")[2] for path in old] == [digest]:
        return
    number = 1 + max((_number(path) for path in old), default=0)
    with tempfile.TemporaryDirectory() as temporary_folder, SummaryWriter(temporary_folder) as writer:
        _forget(writer, walltime)
        for step, summary in summaries:
            _file(writer).add_summary(summary, step, walltime)
        writer.flush()
        with replacing(folder / f"{PREFIX}{number:010d}.{digest}") as temporary:
            shutil.copyfile(next(Path(temporary_folder).iterdir()), temporary)
    for path in old:
        path.unlink(missing_ok=True)


def _forget(writer: SummaryWriter, walltime: float | None = None) -> None:
    """Make a reader forget the points of this folder that it has read."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    _file(writer).add_event(Event(session_log=SessionLog(status=SessionLog.START)), 0, walltime)


def _add_scalars(writer: SummaryWriter, scalars: Scalars) -> None:
    for step, values in scalars:
        _file(writer).add_summary(_proto(values), step)
    writer.flush()


def _file(writer: SummaryWriter) -> Any:
    """Return the file of a writer, which takes events as they are."""
    return writer._get_file_writer()


def _proto(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _scalars(step: int, values: Mapping[str, Any]) -> Scalars:
    numbers = {tag: float(value) for tag, value in values.items() if _is_number(value)}
    if numbers:
        yield step, numbers


def _is_number(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _in_order(summary: Any) -> Any:
    """Sort the settings in a record of the HPARAMS tab, which are in random order, so that equal records are equal."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for value in summary.value:
        data = value.metadata.plugin_data
        data.content = HParamsPluginData.FromString(data.content).SerializeToString(deterministic=True)
    return summary


def _example(values: Sequence[Any]) -> Any:
    """Return a value of the type that all values have; text if they differ."""
    if all(isinstance(value, bool) for value in values):
        return values[0]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return values[0] if numbers else str(values[0])


def _number(path: Path) -> int:
    number = path.name.removeprefix(PREFIX).partition(".")[0]
    return int(number) if number.isdigit() else 0


def _newest(files: Any) -> float:
    return max((file.stat().st_mtime for file in files), default=0.0)
