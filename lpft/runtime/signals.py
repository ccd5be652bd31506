"""A signal that asks to stop: it sets a flag, and the work ends after the current round or stack.

Imported and installed before anything heavy, since a signal without a handler ends the process. Schedulers send one
before a job's time limit; you can send one with ``kill -USR1``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOPPED = 75
"""Exit code of a command that was asked to stop: finished work is kept, and the same command continues."""

_requested = False
_made_progress = False
_heard: set[signal.Signals] = set()


class Stopped(Exception):
    """A stage was asked to stop, and has work left.

    Args:
        failures: what went wrong before, one text each.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("stopped by a signal")
        self.failures = failures


def listen() -> None:
    """Let the signal that `LPFT_STOP_SIGNAL` names set the flag: USR1 (the default), USR2, or ``none``.

    Raises:
        ValueError: if there is no such signal.
    """
    name = os.environ.get("LPFT_STOP_SIGNAL", "USR1").upper().removeprefix("SIG")
    if name == "NONE" or os.name == "nt" or threading.current_thread() is not threading.main_thread():
        return
    try:
        number = signal.Signals[f"SIG{name}"]
        signal.signal(number, _request)
        _heard.add(number)
    except (KeyError, OSError) as error:  # no such signal, or KILL
        raise ValueError(
            f"`LPFT_STOP_SIGNAL={name}` is no signal that a program can listen to. HINT: USR1, USR2, or none."
        ) from error


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Listen for the signal while the block runs, and restore its handler afterwards. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    forget()
    listen()
    try:
        yield
    finally:
        for number in _heard:
            signal.signal(number, handlers[number])


def ignore() -> None:
    """Ignore the signal at the end: otherwise it would kill the interpreter while that shuts down."""
    for number in _heard:
        signal.signal(number, signal.SIG_IGN)


def stop_requested() -> bool:
    """Return whether the signal has arrived."""
    return _requested


def note_progress() -> None:
    """Note that this process has ended a round or a stack."""
    global _made_progress
    _made_progress = True


def stop_before() -> bool:
    """Return whether to stop before the next seed or stage.

    A process always completes one round or stack first, or its job could be requeued forever.
    """
    return _requested and _made_progress


def forget() -> None:
    """Forget that the signal arrived, and any progress."""
    global _requested, _made_progress
    _requested = _made_progress = False


def _request(number: int, _: FrameType | None) -> None:
    global _requested
    _requested = True
    for child in multiprocessing.active_children():  # it may have been sent to this process alone
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)
