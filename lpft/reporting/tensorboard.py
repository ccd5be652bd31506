"""TensorBoard events: written while a run works (`LiveEvents`), and for good from its results (`write_events`).

One folder of events per seed and method, with the same tags on the same epoch axis for every method, one per global
model, and one per method with the means over the seeds (``mean/METHOD``). An open TensorBoard follows a folder's files
in the order of their names, and a START record makes it forget the points before it: so live files are named by time,
and the final file, which replaces them, by a higher number.

Events are written as TensorBoard's protocol buffers: `SummaryWriter` would import torch, which takes two seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from lpft.evaluation.metrics import shown_metrics
from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import class_name, flat, section
from lpft.reporting.frames import Frames, Measured, accuracy_matrix, measure
from lpft.reporting.results import MethodResult, read_method
from lpft.storage.atomic import replacing
from lpft.storage.run import Run

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
        "local and global": ["^local/accuracy$", "^global/accuracy$"],
        "worst": ["^worst/accuracy$"],
    },
    "Training": {
        "loss": ["^train/loss$"],
        "learning rates": ["^lr/head$", "^lr/body$"],
        "distortion": ["^distortion$"],
    },
    "Global model, by round": {
        "loss": ["^federated/loss$"],
        "accuracy": ["^federated/val_accuracy$"],
    },
}
"""The charts of the CUSTOM SCALARS tab, with the tags of their lines."""

END_OF_TRAINING = {"local": "local", "global_all": "global_all", "worst": "worst_row", "distortion": "distortion_own"}
"""Column of curves.csv: the metric that it ends with."""

MEAN = "mean"
"""The folder of the means over the seeds."""

INTERVALS = ("local", "global_all")
"""The metrics whose intervals a method's means have."""

PREFIX = "events.out.tfevents."
INTERVAL, SHARE = 5.0, 0.05
"""Live events of methods are renewed at most once in so many seconds, and take at most this share of the time."""

Summaries = Iterable[tuple[int, Summary]]
"""Step and summary."""


def write_events(analysis: Analysis) -> None:
    """Write the final events of every seed and method that has results, and of every global model with a history."""
    from lpft.reporting.heatmap import binned, color_scale, heatmap_png

    config = analysis.experiment.config
    settings = {method: method_settings(method, config) for method in analysis.experiment.methods}
    matrices = [binned(accuracy_matrix(result)) for result in analysis.method_results]
    scale = color_scale(matrices)
    parts = zip(analysis.method_results, analysis.frames.measured, matrices, strict=True)
    for result, measured, matrix in parts:
        if result.cells:
            cells = analysis.run.method_file(result.seed, result.method, "cells")
            image = heatmap_png(matrix, result.clients, scale)
            summaries = [*_settings(result, settings[result.method]), *method_scalars(result, measured)]
            summaries.append((summaries[-1][0], _image("accuracy matrix", *image)))
            replace_events(cells.parent, summaries, _newest(cells.glob("*.json")))
    for method in analysis.experiment.complete_methods:
        own = [result for result in analysis.method_results if result.method == method and result.complete]
        newest = max(_newest(analysis.run.method_file(r.seed, method, "cells").glob("*.json")) for r in own)
        replace_events(analysis.run.root / MEAN / method, list(mean_scalars(analysis, method)), newest)
    for seed, history in analysis.histories.items():
        if history:
            path = analysis.run.global_file(seed, "history.csv")
            replace_events(path.parent, list(global_scalars(history)), _newest([path]))


class LiveEvents:
    """Events of a run that is at work, for an open TensorBoard; `write_events` replaces them in the end.

    It may be pickled; each process then writes files of its own.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._writers: dict[Path, EventFileWriter] = {}
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
            is_new = self._open(folder)
            start = 0 if is_new else self._num_rounds.get(seed, 0)
            self._add(folder, global_scalars(rows[start:]))
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
                folder = self.run.method_file(seed, method, "cells").parent
                if result.cells:
                    if not self._open(folder):
                        self._writers[folder].add_event(_forget(time.time()))
                    self._add(folder, method_scalars(result))
        self._waiting.clear()
        end = time.monotonic()
        self._next = end + max(INTERVAL, (end - start) / SHARE)

    def _open(self, folder: Path) -> bool:
        """Open a file in a folder; return whether it is new: a report may have removed the last one."""
        writer = self._writers.get(folder)
        if writer is not None and Path(writer._file_name).exists():
            return False
        if writer is not None:
            writer.close()
        self._writers[folder] = EventFileWriter(str(folder))
        self._writers[folder].add_event(_forget(time.time()))
        return True

    def _add(self, folder: Path, summaries: Summaries) -> None:
        for step, summary in summaries:
            self._writers[folder].add_event(_event(step, summary, time.time()))
        self._writers[folder].flush()


def method_scalars(result: MethodResult, measured: Measured | None = None) -> Summaries:
    """Yield the curves of a method, and at their end its metrics if it is complete; at least one summary."""
    curves = Frames([result]).mean_curves.to_dict("records") or [{"epoch": 0}]
    metrics = (measured or measure(result)).metrics
    for column, name in END_OF_TRAINING.items():
        if not _is_number(curves[-1].get(column)):  # the matrix, if the last epoch was not evaluated while training
            curves[-1][column] = metrics.get(name)
    for row in curves:
        yield from _scalars(int(row["epoch"]), {tag: row.get(column) for tag, column in TAGS.items()})
    final = {f"final/{metric.name}": metrics.get(metric.name) for metric in shown_metrics()}
    yield from _scalars(int(curves[-1]["epoch"]), final)


def mean_scalars(analysis: Analysis, method: str) -> Summaries:
    """Yield a method's curves as means over its complete seeds, at their end the page's figures; no hyperparameters.

    An epoch is left out where not every seed has the value. ``final/NAME`` is the mean of a metric, and
    ``interval/NAME`` half of its 95% interval over clients and seeds, if there is one.
    """
    results = [result for result in analysis.method_results if result.method == method and result.complete]
    by_seed = [dict(_by_step(method_scalars(result))) for result in results]
    last = 0
    for step in sorted(set.intersection(*map(set, by_seed))):
        rows = [of_seed[step] for of_seed in by_seed]
        common = [tag for tag in rows[0] if tag in TAGS and all(tag in row for row in rows)]
        yield from _scalars(step, {tag: sum(row[tag] for row in rows) / len(rows) for tag in common})
        last = step
    estimates = {name: found for (m, name), found in analysis.certainty.estimates.items() if m == method}
    summary = analysis.frames.summary
    means = summary[summary["method"] == method].set_index("metric")["mean"]
    final = {f"final/{metric.name}": means.get(metric.name) for metric in shown_metrics()}
    yield from _scalars(last, final | {f"interval/{name}": estimates[name].margin for name in INTERVALS})


def _by_step(summaries: Summaries) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the values of every step by tag."""
    found: dict[int, dict[str, float]] = {}
    for step, summary in summaries:
        found.setdefault(step, {}).update({value.tag: value.simple_value for value in summary.value})
    yield from found.items()


def global_scalars(history: Sequence[Mapping[str, float | None]]) -> Summaries:
    """Yield loss, validation accuracy and number of clients of every round of federated training."""
    for row in history:
        if (number := row.get("round")) is not None:
            yield from _scalars(int(number), {tag: row.get(column) for tag, column in GLOBAL_TAGS.items()})


def method_settings(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings with dotted names, for the HPARAMS tab.

    >>> method_settings("lpft", {"methods": {"lpft": {"class_path": "a.LPFT", "init_args": {"lp_epochs": 5}}}})
    {'method': 'lpft', 'class': 'LPFT', 'lp_epochs': 5}
    """
    settings = section(config, "methods", method)
    named = {"class": class_name(settings)} if "class_path" in settings else {}
    values = dict(flat(section(settings, "init_args")))
    plain = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in values.items()}
    return {"method": method, **named, **plain}


def replace_events(folder: Path, summaries: Sequence[tuple[int, Summary]], walltime: float) -> None:
    """Replace the event files of a folder by one, unless that holds the same events already.

    Args:
        folder: where the file goes.
        summaries: step and summary of every event.
        walltime: of the results, in seconds since 1970; all events get it.
    """
    content = b"".join(
        str(step).encode() + summary.SerializeToString(deterministic=True) for step, summary in summaries
    )
    digest = hashlib.sha256(content).hexdigest()[:16]
    old = sorted(folder.glob(f"{PREFIX}*"))
    if [path.name.rpartition(".")[2] for path in old] == [digest]:
        return
    number = 1 + max((_number(path) for path in old), default=0)
    events = [Event(wall_time=walltime, file_version="brain.Event:2"), _forget(walltime)]
    events += [_event(step, summary, walltime) for step, summary in summaries]
    with replacing(folder / f"{PREFIX}{number:010d}.{digest}") as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    for path in old:
        path.unlink(missing_ok=True)


def _number(path: Path) -> int:
    number = path.name.removeprefix(PREFIX).partition(".")[0]
    return int(number) if number.isdigit() else 0


def _newest(files: Iterable[Path]) -> float:
    return max((file.stat().st_mtime for file in files), default=0.0)


# Protocol buffers


def _event(step: int, summary: Summary, walltime: float) -> Event:

    return Event(step=step, summary=summary, wall_time=walltime)


def _forget(walltime: float) -> Event:
    """Return what makes a reader forget the points of this folder that it has read."""
    return Event(session_log=SessionLog(status=SessionLog.START), wall_time=walltime)


def _scalars(step: int, values: Mapping[str, Any]) -> Iterator[tuple[int, Summary]]:
    """Yield a summary of the values that are numbers, if there are any."""
    numbers = {tag: float(value) for tag, value in values.items() if _is_number(value)}
    if numbers:
        yield step, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()])


def _is_number(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _image(tag: str, png: bytes, width: int, height: int) -> Summary:
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _settings(result: MethodResult, settings: Mapping[str, Any]) -> Iterator[tuple[int, Summary]]:
    """Yield what the HPARAMS tab needs, and the layout of the CUSTOM SCALARS tab.

    The columns of HPARAMS are not said: TensorBoard would take those of one run for all that lie below its folder.
    """
    start = SessionStartInfo()
    for name, value in {**settings, "seed": result.seed}.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    yield 0, _plugin(hparams.SESSION_START_INFO_TAG, session_start_info=start)
    if result.complete:
        end = SessionEndInfo(status=api_pb2.Status.Value("STATUS_SUCCESS"))
        yield 0, _plugin(hparams.SESSION_END_INFO_TAG, session_end_info=end)
    categories = [
        {"title": title, "chart": [{"title": name, "multiline": {"tag": tags}} for name, tags in charts.items()]}
        for title, charts in LAYOUT.items()
    ]
    layout = layout_pb2.Layout(category=categories).SerializeToString()
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout], tensor_shape={})
    yield 0, _tagged(custom_scalars.CONFIG_SUMMARY_TAG, custom_scalars.PLUGIN_NAME, tensor=tensor)


def _plugin(tag: str, **data: Any) -> Summary:
    """Return a record of the HPARAMS tab; settings are sorted, so that equal records are equal."""
    content = HParamsPluginData(version=hparams.PLUGIN_DATA_VERSION, **data).SerializeToString(deterministic=True)
    return _tagged(tag, hparams.PLUGIN_NAME, content)


def _tagged(tag: str, plugin: str, content: bytes = b"", **value: Any) -> Summary:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, **value)])
