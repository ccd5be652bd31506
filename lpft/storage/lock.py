"""Locks between processes."""

from __future__ import annotations

import os
from pathlib import Path

import filelock


def acquire(path: Path, timeout: float = -1) -> filelock.BaseFileLock | None:
    """Lock a file, which is created if it does not exist; return None if the file system does not support locks.

    Args:
        path: the file.
        timeout: seconds to wait while another process holds the lock; negative for no limit.

    Raises:
        filelock.Timeout: (an OSError) if another process still holds the lock after the timeout.
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
