"""Standard output and error: text that their encoding lacks, and readers that have left, as in ``lpft ... | head``."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

CLOSED = 141
"""Exit code of a command whose output nobody reads any more: 128 + SIGPIPE, as of other Unix tools."""


@contextmanager
def replacing_unencodable() -> Iterator[None]:
    """Let a stream write ``?`` for a character that its encoding lacks; flush all of them, and undo it, at the end.

    Raises:
        BrokenPipeError: if nobody reads a stream any more.
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
    """Send what cannot be written to the null device, so that Python does not fail again at its end.

    Returns:
        Whether nobody reads standard output or error any more.
    """
    streams = _streams()
    closed = [stream for stream in streams if _is_closed(stream)]
    for stream in closed or streams[:1]:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    return bool(closed)


def _is_closed(stream: TextIOWrapper) -> bool:
    """Return whether nobody reads a pipe any more."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except OSError:  # it is no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _streams() -> list[TextIOWrapper]:
    """Return standard output and error, unless they were replaced by something else, as in a notebook, or closed."""
    return [s for s in (sys.stdout, sys.stderr) if isinstance(s, TextIOWrapper) and not s.closed]
