"""TensorBoard events: written during a run (`EventStream`), and finally from its results (`EventFiles`).

Each part of a run has its folder of events, see `lpft.reporting.logs`. TensorBoard reads the files of a folder in the
order of their names, and a START record makes it discard all previous points. So files written during a run are named
by time, and the final file, which replaces them, by a higher number.

Events are written with TensorBoard's protocol buffers, because `SummaryWriter` imports torch, which takes two seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
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

from lpft.reporting.logs import MEAN, Log, Picture, Scalars
from lpft.storage.atomic import replacing
from lpft.storage.run import Run

LAYOUT = {
    "Test sets": {
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
"""Charts of the CUSTOM SCALARS tab, with the tags of their lines."""

PREFIX = "events.out.tfevents."


class EventFiles:
    """Writes the final events of a run: one file per part, which replaces those of `EventStream`."""

    def write(self, log: Log) -> None:
        """Write the events of a part, unless its file already contains them."""
        summaries = [*_settings(log), *_summaries(log.scalars)]
        summaries += [(summaries[-1][0], _image(tag, picture)) for tag, picture in log.pictures.items()]
        replace_events(log.folder, summaries, log.walltime)

    def close(self) -> None:
        """Do nothing: each file is complete."""


class EventStream:
    """Writes events during a run, without settings and images.

    It can be pickled; each process then writes its own files.
    """

    def __init__(self) -> None:
        self._writers: dict[Path, EventFileWriter] = {}
        self._written: dict[Path, Scalars] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a writer that has not written anything."""
        return EventStream().__dict__

    def write(self, log: Log) -> None:
        """Write the new points of a part; if points have changed, let readers discard all and write all again."""
        with contextlib.suppress(OSError):  # if the disk is full, training reports it
            writer = self._open(log.folder)
            written = self._written.get(log.folder, [])
            if log.scalars[: len(written)] != written:
                writer.add_event(_discard(time.time()))
                written = []
            for step, summary in _summaries(log.scalars[len(written) :]):
                writer.add_event(_event(step, summary, time.time()))
            writer.flush()
            self._written[log.folder] = log.scalars

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._written.clear()

    def _open(self, folder: Path) -> EventFileWriter:
        """Return the writer of a folder's file, or of a new file if a report has removed the last one."""
        writer = self._writers.get(folder)
        if writer is None or not Path(writer._file_name).exists():
            if writer is not None:
                writer.close()
            writer = self._writers[folder] = EventFileWriter(str(folder))
            writer.add_event(_discard(time.time()))
            self._written.pop(folder, None)
        return writer


def replace_events(folder: Path, summaries: Sequence[tuple[int, Summary]], walltime: float) -> None:
    """Replace the event files of a folder by one, unless it already contains the same events.

    Args:
        folder: the folder.
        summaries: steps with summaries.
        walltime: time of all events, in seconds since 1970.
    """
    content = b"".join(
        str(step).encode() + summary.SerializeToString(deterministic=True) for step, summary in summaries
    )
    digest = hashlib.sha256(content).hexdigest()[:16]
    old = sorted(folder.glob(f"{PREFIX}*"))
    if [path.name.rpartition(".")[2] for path in old] == [digest]:
        return
    number = 1 + max((_number(path) for path in old), default=0)
    events = [Event(wall_time=walltime, file_version="brain.Event:2"), _discard(walltime)]
    events += [_event(step, summary, walltime) for step, summary in summaries]
    with replacing(folder / f"{PREFIX}{number:010d}.{digest}") as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    for path in old:
        path.unlink(missing_ok=True)


def remove_other_events(run: Run, folders: Collection[Path]) -> None:
    """Remove the events of methods and means outside some folders, such as means of seeds that are not complete now."""
    for pattern in ("seed_*/*", f"{MEAN}/*"):
        for path in run.root.glob(f"{pattern}/{PREFIX}*"):
            if path.parent not in folders and path.parent.name != "global":
                path.unlink(missing_ok=True)


def _number(path: Path) -> int:
    number = path.name.removeprefix(PREFIX).partition(".")[0]
    return int(number) if number.isdigit() else 0


# Protocol buffers


def _event(step: int, summary: Summary, walltime: float) -> Event:
    return Event(step=step, summary=summary, wall_time=walltime)


def _discard(walltime: float) -> Event:
    """Return an event that makes readers discard all previous points of the folder."""
    return Event(session_log=SessionLog(status=SessionLog.START), wall_time=walltime)


def _summaries(scalars: Scalars) -> Iterator[tuple[int, Summary]]:
    for step, values in scalars:
        yield step, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _image(tag: str, picture: Picture) -> Summary:
    image = Summary.Image(height=picture.height, width=picture.width, colorspace=3, encoded_image_string=picture.png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _settings(log: Log) -> Iterator[tuple[int, Summary]]:
    """Yield records of the HPARAMS tab, and the layout of the CUSTOM SCALARS tab, for a part with settings.

    Columns of HPARAMS are not defined, because TensorBoard applies those of one run to all runs in subfolders.
    """
    if not log.settings:
        return
    start = SessionStartInfo()
    for name, value in log.settings.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    yield 0, _plugin(hparams.SESSION_START_INFO_TAG, session_start_info=start)
    if log.settled:
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
    """Return a record of the HPARAMS tab, with sorted settings, so that equal settings have equal bytes."""
    content = HParamsPluginData(version=hparams.PLUGIN_DATA_VERSION, **data).SerializeToString(deterministic=True)
    return _tagged(tag, hparams.PLUGIN_NAME, content)


def _tagged(tag: str, plugin: str, content: bytes = b"", **value: Any) -> Summary:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, **value)])
