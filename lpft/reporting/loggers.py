"""Loggers of the ecosystem: every part of a run as a run of MLflow, of Weights & Biases, of any Lightning logger.

They cannot forget what they were given, so they get a point once nothing can change it: a round when it is over, a
method's curve when its last client is done. What they have is noted beside the results, and so is the id of the run
that they write to; a later process goes on there.
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
"""In the folder of a part: what each logger has of it."""

SHARE, LATEST = 0.05, 5.0
"""A slow logger gets points together, so that logging takes this share of the time, but after so many seconds."""

WAIT = 60.0
"""Seconds to wait for another process that logs the same part."""


class LoggerSource(Protocol):
    """Opens a logger for every part of a run.

    Args:
        name: what messages call it.
        key: tells it from other loggers, over processes.
        continues: whether a part's run is continued by its id; another logger starts it anew when it is opened again.
        shared: whether it is one logger for all parts, whose names then stand before the tags.
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
        """Return a Lightning logger for a part of an experiment, or for the run of this id."""

    def without_secrets(self, text: str) -> str:
        """Return a message without what the logger's settings keep secret."""


@dataclass(frozen=True)
class Record:
    """What a logger has of a part.

    Args:
        run_id: of the run that it was written to.
        settings: hash of the hyperparameters.
        points: hash of every step.
        pictures: hash of each image by tag.
    """

    run_id: str | None = None
    settings: str = ""
    points: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)

    def fits(self, log: Log) -> bool:
        """Return whether all earlier points are unchanged; there may be new ones."""
        if not self.points:
            return True
        common = _hashes(log.scalars)[: len(self.points)]
        complete = log.growing or len(common) == len(self.points)
        return complete and list(self.points[: len(common)]) == common and self.settings == _hash(dict(log.settings))

    def covers(self, log: Log) -> bool:
        """Return whether there are no new points."""
        return self.fits(log) and len(self.points) >= len(log.scalars) and not self.new_pictures(log)

    def new_pictures(self, log: Log) -> dict[str, Picture]:
        """Return the images that were not written, or look different now."""
        return {tag: image for tag, image in log.pictures.items() if self.pictures.get(tag) != _hash(image.png.hex())}

    def after(self, log: Log, run_id: str | None) -> Record:
        """Return the record once all of a log is written."""
        pictures = {**self.pictures, **{tag: _hash(image.png.hex()) for tag, image in log.pictures.items()}}
        return Record(run_id, _hash(dict(log.settings)), _hashes(log.scalars), pictures)


class LoggerWriter:
    """Gives the logs of a run to one logger, which must never harm the run: after a failure it gets nothing more.

    One part is open at a time, as some loggers allow no more. It may be pickled; each process opens the logger for
    itself.

    Args:
        source: opens the logger.
        records: what it has already, by folder, of a logger that is not opened here.

    Attributes:
        failed: whether it gets nothing more.
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
        """Return the state of an object that has written nothing yet."""
        return {**LoggerWriter(self.source).__dict__, "_pid": self._pid, "failed": self.failed}

    def check(self, folder: Path) -> None:
        """Open the logger for a part, and write nothing; raise what its class raises."""
        self.source.open(*place(folder))

    def write(self, log: Log) -> None:
        """Add what is new and settled of a part: at once, or later where the logger is slow."""
        elsewhere = self.source.shared and os.getpid() != self._pid  # that process would not see it
        if log.settled and not self.failed and not elsewhere and launched_rank() == 0:
            self._waiting[log.folder] = log
            if time.monotonic() >= self._next:
                self._flush()

    def close(self) -> None:
        """Write what is waiting, and end the run that is open."""
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
                "%s has failed and gets nothing more (%s). Results are not affected;"
                " `lpft report RUN --loggers ...` gives it later what it lacks.", self.source.name, shortened(reason),
            )  # fmt: skip

    def _send(self, log: Log) -> None:
        log = replace(log, scalars=_finite(log.scalars))
        with contextlib.nullcontext() if self.source.shared else _locked(log.folder):
            record = self._record(log.folder)
            if record.covers(log):
                return
            if not record.fits(log):  # results were replaced, and what was logged cannot be
                self._close()
                record = Record()
            was_open = self._is_open(log.folder)
            try:
                self._add(log, record)
            except Exception:
                if record.run_id is None or was_open:
                    raise
                self._opened = None  # the run may have been deleted there: begin a new one
                self._add(log, Record())

    def _add(self, log: Log, record: Record) -> None:
        """Write what is not in the record, and note it."""
        experiment, part = place(log.folder)
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
        self._note(log.folder, record.after(log, run_id))

    def _is_open(self, folder: Path) -> bool:
        return self._opened is not None and self._opened[0] in (None, folder)

    def _close(self) -> None:
        """End the run that is open; a logger that is shared stays open for the next part."""
        if self._opened is None:
            return
        folder, logger = self._opened
        logger.finalize("success")
        if folder is not None:
            self._opened = None
            experiment = getattr(logger, "experiment", None)
            finish = getattr(experiment, "finish", None) or getattr(experiment, "end", None)
            if callable(finish):  # of Weights & Biases, of Comet
                finish()

    def _record(self, folder: Path) -> Record:
        if not self.source.continues:
            return self._records.get(folder, Record())
        try:
            return Record(**_read_records(folder).get(self.source.key, {}))
        except TypeError:  # edited, or of another version
            return Record()

    def _note(self, folder: Path, record: Record) -> None:
        if not self.source.continues:
            self._records[folder] = record
            return
        records = {**_read_records(folder), self.source.key: asdict(record)}
        write_atomically(folder / RECORDS, json.dumps(records, indent=1) + "\n")


def place(folder: Path) -> tuple[str, str]:
    """Return the name of the experiment and of the part that a folder is of, as TensorBoard shows them.

    >>> place(Path("/runs/digits/points/shift=0.5/seed_0/lpft"))
    ('digits', 'points/shift=0.5/seed_0/lpft')
    """
    run, names = folder.resolve().parents[1], folder.resolve().parts[-2:]
    while run.parent.name in ("points", "references"):
        run, names = run.parents[1], (*run.parts[-2:], *names)
    return run.name, "/".join(names)


def log_picture(logger: Any, tag: str, picture: Picture, step: int, run_id: str | None) -> None:
    """Give an image to a logger that takes images: by its own ``log_image``, as Lightning has it, or its experiment's.

    Args:
        logger: the logger.
        tag: of the image.
        picture: the image.
        step: of the image.
        run_id: of the run that is open.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(picture.png))
    if hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[image], step=step)
        return
    log_image = getattr(getattr(logger, "experiment", None), "log_image", None)
    if callable(log_image):  # of MLflow's client, which wants to know the run, or of Comet
        words: dict[str, Any] = {"run_id": run_id, "image": image, "artifact_file": f"{tag}.png"}
        words |= {"image_data": image, "name": tag}
        if "artifact_file" not in inspect.signature(log_image).parameters:
            words["step"] = step
        log_image(**{key: words[key] for key in words if key in inspect.signature(log_image).parameters})


def shortened(text: str, most: int = 300) -> str:
    """Return a message as one line of limited length."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}..."


@contextlib.contextmanager
def _as_first_rank() -> Iterator[None]:
    """Let Lightning's loggers write, which do nothing where the environment once said that this is another rank."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    known: Any = rank_zero_only
    rank, known.rank = getattr(known, "rank", 0), 0
    try:
        yield
    finally:
        known.rank = rank


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Do not let Lightning's loggers say that an experiment is new, or that a file is written anew."""
    lightnings = logging.getLogger("lightning.pytorch.loggers")
    level = lightnings.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        lightnings.setLevel(logging.ERROR)
        try:
            yield
        finally:
            lightnings.setLevel(level)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time log a part: the last two shards of a method may both find it complete."""
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
    kept = [(step, {tag: value for tag, value in values.items() if math.isfinite(value)}) for step, values in scalars]
    return [(step, values) for step, values in kept if values]


def _hashes(scalars: Scalars) -> list[str]:
    return [_hash(point) for point in scalars]


def _hash(content: Any) -> str:
    """Hash what JSON can hold to 16 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
