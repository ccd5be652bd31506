"""Atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all: to a temporary name in the same folder, which is then renamed.

    If two processes write the same file at once, one wins.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as written:  # Windows flushes no file that is open for reading only
            flush_to_disk(written.fileno())
        with contextlib.suppress(PermissionError):  # some file systems have one mode for all files
            temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flush_to_disk(file: int) -> None:
    """Wait until a file is on the disk, on file systems that can tell.

    Args:
        file: descriptor of a file that is open for writing.

    Raises:
        OSError: if the disk is full or broken.
    """
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
