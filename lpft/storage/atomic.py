"""Atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all: write a temporary file in the same folder, then rename it.

    If two processes write the same file at the same time, the file has the content of one of them.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename that file to `path` if the block ends without an error.

    Raises:
        OSError: if it cannot be written, with `path` as its filename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("r+b") as file:  # Windows cannot flush a file that is opened for reading only
                flush_to_disk(file.fileno())
            with contextlib.suppress(PermissionError):  # some file systems have one mode for all files
                temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name a file in errors that name none, as on a full disk, or only the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename).endswith(".tmp")):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def flush_to_disk(file: int) -> None:
    """Wait until a file is on the disk, where the file system supports it.

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
