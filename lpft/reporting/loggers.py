"""Logging to MLflow, Weights & Biases or any other Lightning logger: each part of a run is a run of the logger.

These loggers cannot remove points, so a point is logged once it is final: a round when it has ended, the curve of a
method when its last client is complete. Hashes of the logged points and the id of the logger's run are stored next to
the results, so that a later process continues this run.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lpft.reporting.logs import Log, Picture, Scalars, by_step
from lpft.runtime.launcher import launched_rank
from lpft.storage.atomic import write_atomically
from lpft.storage.lock import acquire

log = logging.getLogger("lpft")

RECORDS = "loggers.json"
"""File in the folder of a part: the `Record` of each logger."""

SHARE, LATEST = 0.05, 5.0
"""Points for a slow logger are collected, to limit logging to this share of the time, for at most so many seconds."""

WAIT = 60.0
"""Seconds to wait for another process that logs the same part."""


class LoggerSource(Protocol):
    """Opens a logger for every part of a run.

    Args:
        name: name in messages.
        key: identifies the logger in all processes.
        continues: whether the run of a part can be continued by its id; otherwise, opening it again starts a new run.
        shared: whether all parts share one logger; tags then start with the name of the part.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def key(self) -> str: ...  # noqa: D102

    @property
    def continues(self) -> bool: ...  # noqa: D102

    @property
    def shared(self) -> bool: ...  # noqa: D102

    def open(self, experiment: str, part: str, run_id: str | None = None) -> Any:
        """Return a Lightning logger for a part of an experiment; with ``run_id``, one that continues this run."""

    def without_secrets(self, text: str) -> str:
        """Return a message without the secrets in the logger's settings."""


@dataclass(frozen=True)
class Record:
    """Everything that was logged for a part.

    Args:
        run_id: id of the logger's run.
        settings: hash of the hyperparameters.
        points: hashes of the steps.
        pictures: hashes of the images by tag.
    """

    run_id: str | None = None
    settings: str = ""
    points: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)

    def fits(self, log: Log) -> bool:
        """Return whether all logged points are unchanged; there may be new ones."""
        if not self.points:
            return True
        common = _hashes(log.scalars)[: len(self.points)]
        complete = log.growing or len(common) == len(self.points)
        return complete and list(self.points[: len(common)]) == common and self.settings == _hash(dict(log.settings))

    def covers(self, log: Log) -> bool:
        """Return whether there are no new points."""
        return self.fits(log) and len(self.points) >= len(log.scalars) and not self.new_pictures(log)

    def new_pictures(self, log: Log) -> dict[str, Picture]:
        """Return the images that were not logged or have changed."""
        return {tag: image for tag, image in log.pictures.items() if self.pictures.get(tag) != _hash(image.png.hex())}

    def after(self, log: Log, run_id: str | None) -> Record:
        """Return the record after a log was written completely."""
        pictures = {**self.pictures, **{tag: _hash(image.png.hex()) for tag, image in log.pictures.items()}}
        return Record(run_id, _hash(dict(log.settings)), _hashes(log.scalars), pictures)


class LoggerWriter:
    """Writes the logs of a run to one logger. A failure of the logger does not affect the run: logging to it stops.

    Only one part is open at a time, because some loggers do not support more. A pickled writer opens the logger again
    in its process.

    Args:
        source: opens the logger.
        records: records by folder, for loggers that cannot be continued by an id.

    Attributes:
        failed: whether the logger has failed.
    """

    def __init__(self, source: LoggerSource, records: dict[Path, Record] | None = None) -> None:
        self.source = source
        self._records = {} if records is None else records
        self._pid = os.getpid()
        self.failed = False
        self._waiting: dict[Path, Log] = {}
        self._opened: tuple[Path | None, Any] | None = None
        self._next = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a writer that has not written anything."""
        return {**LoggerWriter(self.source).__dict__, "_pid": self._pid, "failed": self.failed}

    def check(self, folder: Path) -> None:
        """Open the logger for a part without writing; exceptions of its class are raised."""
        self.source.open(*experiment_and_part(folder))

    def write(self, log: Log) -> None:
        """Write the new final points of a part: immediately, or later if the logger is slow."""
        is_copy = self.source.shared and os.getpid() != self._pid  # the first process would not see these points
        if log.settled and not self.failed and not is_copy and launched_rank() == 0:
            self._waiting[log.folder] = log
            if time.monotonic() >= self._next:
                self._flush()

    def close(self) -> None:
        """Write collected points, and close the open run."""
        self._flush()
        self._guarded(self._close)

    def _flush(self) -> None:
        start = time.monotonic()
        for part in self._waiting.values():
            self._guarded(lambda part=part: self._send(part))  # type: ignore[misc]
        self._waiting.clear()
        end = time.monotonic()
        self._next = end + min((end - start) / SHARE, LATEST)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Call the logger; if it raises an exception, the run continues without this logger."""
        if self.failed:
            return
        try:
            with _quiet(), _as_first_rank():
                action()
        except Exception as error:
            self.failed, self._opened = True, None
            reason = self.source.without_secrets(f"{type(error).__name__}: {error}")
            log.warning(
                "%s failed, so nothing more is logged to it (%s). Results are not affected;"
                " `lpft report RUN --loggers ...` adds the missing points later.", self.source.name, shortened(reason),
            )  # fmt: skip

    def _send(self, log: Log) -> None:
        log = replace(log, scalars=_finite(log.scalars))
        with contextlib.nullcontext() if self.source.shared else _locked(log.folder):
            record = self._record(log.folder)
            if record.covers(log):
                return
            if not record.fits(log):  # results were replaced, but logged points cannot be
                self._close()
                record = Record()
            was_open = self._is_open(log.folder)
            try:
                self._add(log, record)
            except Exception:
                if record.run_id is None or was_open:
                    raise
                self._opened = None  # the run may have been deleted on the server: start a new one
                self._add(log, Record())

    def _add(self, log: Log, record: Record) -> None:
        """Write everything that is missing in the record, and update the record."""
        experiment, part = experiment_and_part(log.folder)
        if self._opened is None or not self._is_open(log.folder):
            self._close()
            if not self.source.continues and not self.source.shared:
                record = Record()
            opened = self.source.open(experiment, part, record.run_id)
            self._opened = (None if self.source.shared else log.folder, opened)
        logger = self._opened[1]
        prefix = f"{part}/" if self.source.shared else ""
        if log.settings and not record.points:
            logger.log_hyperparams({prefix + name: value for name, value in log.settings.items()})
        for step, values in by_step(log.scalars[len(record.points) :]):
            logger.log_metrics({prefix + tag: value for tag, value in values.items()}, step=step)
        run_id = str(logger.version) if self.source.continues else None
        for tag, picture in record.new_pictures(log).items():
            log_picture(logger, prefix + tag, picture, log.scalars[-1][0], run_id)
        logger.save()
        self._update_record(log.folder, record.after(log, run_id))

    def _is_open(self, folder: Path) -> bool:
        return self._opened is not None and self._opened[0] in (None, folder)

    def _close(self) -> None:
        """Close the open run; a shared logger stays open for the next part."""
        if self._opened is None:
            return
        folder, logger = self._opened
        logger.finalize("success")
        if folder is not None:
            self._opened = None
            experiment = getattr(logger, "experiment", None)
            finish = getattr(experiment, "finish", None) or getattr(experiment, "end", None)
            if callable(finish):  # Weights & Biases, Comet
                finish()

    def _record(self, folder: Path) -> Record:
        if not self.source.continues:
            return self._records.get(folder, Record())
        try:
            return Record(**_read_records(folder).get(self.source.key, {}))
        except TypeError:  # edited, or from another version
            return Record()

    def _update_record(self, folder: Path, record: Record) -> None:
        if not self.source.continues:
            self._records[folder] = record
            return
        records = {**_read_records(folder), self.source.key: asdict(record)}
        write_atomically(folder / RECORDS, json.dumps(records, indent=1) + "\n")


def experiment_and_part(folder: Path) -> tuple[str, str]:
    """Return the names of the experiment and of the part to which a folder belongs, as shown by TensorBoard.

    >>> experiment_and_part(Path("/runs/digits/points/shift=0.5/seed_0/lpft"))
    ('digits', 'points/shift=0.5/seed_0/lpft')
    """
    run, names = folder.resolve().parents[1], folder.resolve().parts[-2:]
    while run.parent.name in ("points", "references"):
        run, names = run.parents[1], (*run.parts[-2:], *names)
    return run.name, "/".join(names)


def log_picture(logger: Any, tag: str, picture: Picture, step: int, run_id: str | None) -> None:
    """Log an image with the logger's ``log_image`` or that of its experiment, if one of them exists.

    Args:
        logger: the logger.
        tag: tag of the image.
        picture: the image.
        step: step of the image.
        run_id: id of the open run.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(picture.png))
    if hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[image], step=step)
        return
    log_image = getattr(getattr(logger, "experiment", None), "log_image", None)
    if callable(log_image):  # MLflow's client, which needs the id of the run, or Comet
        accepted = inspect.signature(log_image).parameters
        arguments: dict[str, Any] = {"run_id": run_id, "image": image, "artifact_file": f"{tag}.png"}
        arguments |= {"image_data": image, "name": tag}
        if "artifact_file" not in accepted:
            arguments["step"] = step
        log_image(**{name: value for name, value in arguments.items() if name in accepted})


def shortened(text: str, most: int = 300) -> str:
    """Return a message as one line of limited length."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}..."


@contextlib.contextmanager
def _as_first_rank() -> Iterator[None]:
    """Let Lightning's loggers write in this process, even if the environment named another rank at import."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    function: Any = rank_zero_only
    rank, function.rank = getattr(function, "rank", 0), 0
    try:
        yield
    finally:
        function.rank = rank


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of Lightning's loggers about new experiments and overwritten files."""
    logger = logging.getLogger("lightning.pytorch.loggers")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Allow one process at a time to log a part: the last two shards of a method may both see it complete."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire(folder / ".loggers.lock", WAIT)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _read_records(folder: Path) -> dict[str, Any]:
    try:
        records = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def _finite(scalars: Scalars) -> Scalars:
    finite = [(step, {tag: value for tag, value in values.items() if math.isfinite(value)}) for step, values in scalars]
    return [(step, values) for step, values in finite if values]


def _hashes(scalars: Scalars) -> list[str]:
    return [_hash(point) for point in scalars]


def _hash(content: Any) -> str:
    """Return the hash of a JSON value, 16 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
