"""The folder in which an entry of the array cache is built: one process at a time, and renamed when it is whole."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import filelock

from lpft.storage.lock import acquire

log = logging.getLogger("lpft")


class Interrupted(ValueError):
    """A build has ended, but what it has done is worth keeping: the same command continues from there."""


def publish(folder: Path, entry: Path, is_whole: Callable[[Path], bool]) -> None:
    """Rename a finished folder to its place, unless another process put a whole entry there meanwhile."""
    if entry.exists() and not is_whole(entry):
        damaged = _temporary(entry)
        with suppress(FileNotFoundError):
            entry.rename(damaged)
            remove(damaged)
    try:
        folder.rename(entry)
    except OSError as error:
        if not is_whole(entry):
            raise ValueError(f"The cache entry {entry} cannot be replaced. HINT: delete it.") from error
        remove(folder)


@contextmanager
def partial_folder(entry: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path | None]:
    """Give the folder in which an entry is built, to this process alone; None if there is a whole entry meanwhile."""
    folder = entry.parent / f".{entry.name}.partial"
    with clear_errors(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(entry.parent)
        lock = _locked(entry)
    if lock is None:  # a file system without locks: a folder that no other process knows
        folder = _temporary(entry)
    try:
        if lock is not None and is_whole(entry):
            yield None
        else:
            folder.mkdir(exist_ok=True)
            yield folder
    finally:
        if lock is not None:
            lock.release()


def _locked(entry: Path) -> filelock.BaseFileLock | None:
    """Lock an entry, waiting for a process that builds it; None where there are no locks."""
    path = entry.parent / f".{entry.name}.lock"
    try:
        return acquire(path, timeout=0)
    except filelock.Timeout:
        log.warning("Another process is preparing %s: waiting for it.", entry.name)
        return acquire(path)


def _temporary(entry: Path) -> Path:
    return entry.parent / f".{entry.name}.{uuid4().hex}.tmp"


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or a file, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove what killed builds have left, if nothing was written there for a week."""
    for folder in (*cache_dir.glob(".*.tmp"), *cache_dir.glob(".*.partial")):
        with suppress(OSError):  # another process removes it
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > 7 * 24 * 3600:
                remove(folder)


@contextmanager
def clear_errors(cache_dir: Path) -> Iterator[None]:
    """Say that the cache cannot be written where the block raises an OSError."""
    try:
        yield
    except OSError as error:
        raise Interrupted(
            f"The array cache {cache_dir} cannot be written: {error.strerror or error}."
            " HINT: choose another folder with `--data.cache_dir` or the environment variable LPFT_CACHE."
        ) from error
