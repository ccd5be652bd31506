"""TensorBoard event files, written from the cells: nothing is logged while training.

One file per seed and method, with the same tags on the same epoch axis for every method, and one per global model. A
file is replaced as a whole, and only if its content has changed: its name carries a hash of the content.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from lpft.reporting.heatmap import heatmap_png
from lpft.reporting.results import MethodResult, methods_of, read_history
from lpft.reporting.tables import accuracy_matrix, curve_rows, figures
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
"""Tag of the event file: column of curves.csv."""

GLOBAL_TAGS = {
    "federated/loss": "train_loss",
    "federated/val_accuracy": "val_accuracy",
    "federated/clients": "num_clients",
}
"""Tag of the event file: column of history.csv. None of them is a method's, whose steps are epochs, not rounds."""

FINAL = ("local", "global_all", "global_others", "worst_row", "average3", "distortion_own", "hurt_share")
PREFIX = "events.out.tfevents."
FILE_VERSION = "brain.Event:2"


def write_events(run: Run, results: Sequence[MethodResult], config: Mapping[str, Any]) -> None:
    """Write the event files of every seed and method that has cells, and of every global model with a history."""
    settings = {method: method_settings(method, config) for method in methods_of(results)}
    for result in results:
        if result.cells:
            cells = run.method_file(result.seed, result.method, "cells")
            events = list(method_events(result, settings))
            replace_events(cells.parent, events, time=_newest(cells.glob("*.json")))
    for seed in sorted({result.seed for result in results}):
        history = run.global_file(seed, "history.csv")
        if rows := read_history(history):
            replace_events(history.parent, list(global_events(rows)), time=_newest([history]))


def method_events(result: MethodResult, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[Event]:
    """Yield everything TensorBoard shows of one seed and method.

    Args:
        result: the cells.
        settings: of every method of the run, as `method_settings` gives them.
    """
    rows = curve_rows(result)
    final = figures(result) if result.complete else {}
    end = rows[-1]["epoch"] if rows else 0
    yield from _plugin_events(result, settings, final)
    yield _event(0, _layout_value())
    for row in _with_final(rows, end, final):
        yield from _scalars(row["epoch"], {tag: row.get(column) for tag, column in TAGS.items()})
    yield from _scalars(end, {f"final/{name}": final.get(name) for name in FINAL})
    yield _event(end, _matrix_image(result))


def global_events(history: Iterable[Mapping[str, float | None]]) -> Iterator[Event]:
    """Yield loss, validation accuracy and number of clients per round of federated training."""
    for row in history:
        if (number := row.get("round")) is not None:
            yield from _scalars(int(number), {tag: row.get(column) for tag, column in GLOBAL_TAGS.items()})


def replace_events(folder: Path, events: Sequence[Event], time: float) -> None:
    """Put an event file in place of the one in a folder, unless that has the same events already.

    Args:
        folder: where the file goes.
        events: what it holds, without times.
        time: of the results, in seconds since 1970; all events get it.
    """
    digest = hashlib.sha256(b"".join(event.SerializeToString(deterministic=True) for event in events)).hexdigest()[:16]
    old = sorted(folder.glob(f"{PREFIX}*"))
    if [path.name.rpartition(".")[2] for path in old] == [digest]:
        return
    number = 1 + max((_number(path) for path in old), default=0)  # a running TensorBoard goes on to the next name
    with replacing(folder / f"{PREFIX}{number:010d}.{digest}") as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        start = Event(step=0, session_log=SessionLog(status=SessionLog.START))  # a reader forgets the old file's points
        for event in (Event(file_version=FILE_VERSION), start, *events):
            timed = Event(wall_time=time)
            timed.MergeFrom(event)
            writer.write(timed.SerializeToString(deterministic=True))
    for path in old:
        path.unlink(missing_ok=True)


def method_settings(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings with dotted names, for the hyper-parameter table.

    >>> method_settings("lpft", {"methods": {"lpft": {"class_path": "a.LPFT", "init_args": {"lp_epochs": 5}}}})
    {'method': 'lpft', 'class': 'LPFT', 'lp_epochs': 5}
    """
    settings = (config.get("methods") or {}).get(method)
    settings = settings if isinstance(settings, Mapping) else {}
    named = {"class": str(settings["class_path"]).rpartition(".")[2]} if "class_path" in settings else {}
    return {"method": method, **named, **dict(_flat(settings.get("init_args") or {}))}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _with_final(rows: Sequence[Mapping[str, Any]], end: int, final: Mapping[str, float]) -> Iterator[Mapping[str, Any]]:
    """Give the last epoch the figures of the matrix if it was not evaluated while training."""
    matrix = {"local": "local", "global_all": "global_all", "worst": "worst_row", "distortion": "distortion_own"}
    known = {column: final.get(name) for column, name in matrix.items()}
    for row in rows or [{"epoch": end}]:
        missing = {column: value for column, value in known.items() if row.get(column) is None}
        yield {**row, **missing} if row["epoch"] == end else row


def _plugin_events(
    result: MethodResult, settings: Mapping[str, Mapping[str, Any]], final: Mapping[str, float]
) -> Iterator[Event]:
    """Yield the three records of the hyper-parameter table; the first is the same for every method."""
    data = plugin_data_pb2.HParamsPluginData
    own = {**settings[result.method], "seed": result.seed}
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in own.items():
        _set(start.hparams[name], value)
    status = api_pb2.STATUS_SUCCESS if final else api_pb2.STATUS_RUNNING
    records = {
        hparams.EXPERIMENT_TAG: data(experiment=_experiment([*settings.values(), {"seed": result.seed}])),
        hparams.SESSION_START_INFO_TAG: data(session_start_info=start),
        hparams.SESSION_END_INFO_TAG: data(session_end_info=plugin_data_pb2.SessionEndInfo(status=status)),
    }
    for tag, content in records.items():
        content.version = hparams.PLUGIN_DATA_VERSION
        metadata = SummaryMetadata()
        metadata.plugin_data.plugin_name = hparams.PLUGIN_NAME
        metadata.plugin_data.content = content.SerializeToString(deterministic=True)
        yield _event(0, Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR))


def _experiment(settings: Iterable[Mapping[str, Any]]) -> api_pb2.Experiment:
    examples: dict[str, list[Any]] = {}
    for named in settings:
        for name, value in named.items():
            examples.setdefault(name, []).append(value)
    return api_pb2.Experiment(
        hparam_infos=[api_pb2.HParamInfo(name=name, type=_type(values)) for name, values in examples.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"final/{name}")) for name in FINAL],
    )


def _type(values: Sequence[Any]) -> Any:
    if all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return api_pb2.DATA_TYPE_FLOAT64 if numbers else api_pb2.DATA_TYPE_STRING


def _set(target: Any, value: Any) -> None:
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    else:
        target.string_value = str(value)


def _layout_value() -> Summary.Value:
    """Return the charts of the custom-scalars tab: local and global accuracy in one picture."""
    charts = {
        "Accuracy": {
            "local and global": ["^local/accuracy$", "^global/accuracy$"],
            "worst": ["^worst/accuracy$"],
        },
        "Training": {"loss": ["^train/loss$"], "learning rates": ["^lr/head$", "^lr/body$"], "drift": ["^distortion$"]},
        "Global model, by round": {"loss": ["^federated/loss$"], "accuracy": ["^federated/val_accuracy$"]},
    }
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=title,
                chart=[
                    layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=tags))
                    for name, tags in content.items()
                ],
            )
            for title, content in charts.items()
        ]
    )
    metadata = SummaryMetadata()
    metadata.plugin_data.plugin_name = custom_scalar.PLUGIN_NAME
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    return Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)


def _matrix_image(result: MethodResult) -> Summary.Value:
    png, width, height = heatmap_png(accuracy_matrix(result), result.clients)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary.Value(tag="accuracy matrix", image=image)


def _scalars(step: int, values: Mapping[str, float | None]) -> Iterator[Event]:
    known = {tag: value for tag, value in values.items() if value is not None and not math.isnan(value)}
    if known:
        yield _event(step, *(Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()))


def _event(step: int, *values: Summary.Value) -> Event:
    return Event(step=step, summary=Summary(value=values))


def _number(path: Path) -> int:
    number = path.name.removeprefix(PREFIX).partition(".")[0]
    return int(number) if number.isdigit() else 0


def _newest(files: Iterable[Path]) -> float:
    return max((file.stat().st_mtime for file in files), default=0.0)
