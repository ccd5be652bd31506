"""The temporary folder of an entry of the array cache: one process builds it, and renames it when it is complete."""

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
    """A build has stopped, and its partial result is kept: the same command continues it."""


def publish(folder: Path, entry: Path, is_complete: Callable[[Path], bool]) -> None:
    """Rename a finished folder to the entry, unless another process has published a complete entry meanwhile."""
    if entry.exists() and not is_complete(entry):
        damaged = _temporary(entry)
        with suppress(FileNotFoundError):
            entry.rename(damaged)
            remove(damaged)
    try:
        folder.rename(entry)
    except OSError as error:
        if not is_complete(entry):
            raise ValueError(f"The cache entry {entry} cannot be replaced. HINT: delete it.") from error
        remove(folder)


@contextmanager
def partial_folder(entry: Path, is_complete: Callable[[Path], bool]) -> Iterator[Path | None]:
    """Give this process exclusive use of the entry's temporary folder; None if a complete entry exists meanwhile."""
    folder = entry.parent / f".{entry.name}.partial"
    with clear_errors(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(entry.parent)
        lock = _locked(entry)
    if lock is None:  # a file system without locks: a folder with a unique name
        folder = _temporary(entry)
    try:
        if lock is not None and is_complete(entry):
            yield None
        else:
            folder.mkdir(exist_ok=True)
            yield folder
    finally:
        if lock is not None:
            lock.release()


def _locked(entry: Path) -> filelock.BaseFileLock | None:
    """Lock an entry, waiting for a process that builds it; None if the file system has no locks."""
    path = entry.parent / f".{entry.name}.lock"
    try:
        return acquire(path, timeout=0)
    except filelock.Timeout:
        log.warning("Another process is preparing %s: waiting for it.", entry.name)
        return acquire(path)


def _temporary(entry: Path) -> Path:
    return entry.parent / f".{entry.name}.{uuid4().hex}.tmp"


def remove(path: Path) -> None:
    """Remove a folder with its content, or a file, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove folders of killed builds that have not changed for a week."""
    for folder in (*cache_dir.glob(".*.tmp"), *cache_dir.glob(".*.partial")):
        with suppress(OSError):  # another process removes it
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > 7 * 24 * 3600:
                remove(folder)


@contextmanager
def clear_errors(cache_dir: Path) -> Iterator[None]:
    """Turn an OSError of the block into a message that the cache is not writable."""
    try:
        yield
    except OSError as error:
        raise Interrupted(
            f"The array cache {cache_dir} cannot be written: {error.strerror or error}."
            " HINT: choose another folder with `--data.cache_dir` or the environment variable LPFT_CACHE."
        ) from error
