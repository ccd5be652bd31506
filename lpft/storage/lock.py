"""Locks between processes."""

from __future__ import annotations

import os
from pathlib import Path

import filelock


def acquire(path: Path, timeout: float = -1) -> filelock.BaseFileLock | None:
    """Lock a file, which is made if it is not there; None where the file system has no locks.

    Args:
        path: the file.
        timeout: seconds to wait for another process that has locked it; negative: as long as it takes.

    Raises:
        filelock.Timeout: (an OSError) if it is still locked then.
        OSError: if its folder cannot be written to.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        raise
    except (NotImplementedError, OSError):
        if not os.access(path.parent, os.W_OK):
            raise
        return None
    return lock
