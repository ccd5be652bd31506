"""Standard output and error: characters that cannot be encoded, and closed pipes, as in ``lpft ... | head``."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

CLOSED = 141
"""Exit code of a command whose output is a closed pipe: 128 + SIGPIPE, as for other Unix tools."""


@contextmanager
def replacing_unencodable() -> Iterator[None]:
    """Write ``?`` for characters that cannot be encoded; at the end, flush the streams and restore their settings.

    Raises:
        BrokenPipeError: if a stream is a closed pipe.
    """
    streams = _streams()
    errors = [stream.errors for stream in streams]
    for stream in streams:
        if stream.errors in ("strict", "surrogateescape"):  # the second in the C locale
            stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, before in zip(streams, errors, strict=True):
            stream.reconfigure(errors=before)  # it flushes


def discard_output() -> bool:
    """Redirect streams that cannot be written to the null device, so that flushing them at exit does not fail.

    Returns:
        Whether standard output or error is a closed pipe.
    """
    streams = _streams()
    closed = [stream for stream in streams if _is_closed(stream)]
    for stream in closed or streams[:1]:
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, stream.fileno())
        os.close(null_device)
    return bool(closed)


def _is_closed(stream: TextIOWrapper) -> bool:
    """Return whether a stream is a pipe whose reader has closed it."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except OSError:  # not a file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _streams() -> list[TextIOWrapper]:
    """Return standard output and error, except those that are closed or replaced, as in a notebook."""
    return [s for s in (sys.stdout, sys.stderr) if isinstance(s, TextIOWrapper) and not s.closed]
