"""Signals: USR1 asks to stop after the current round or stack; INT, TERM and HUP end the command at once.

The handlers are installed before slow imports, since a signal without a handler kills the process silently. Schedulers
send USR1 before a job's time limit; you can send it with ``kill -USR1``. It sets a flag. Ctrl-C (INT), ``kill`` (TERM)
and a closed terminal (HUP) raise `Interrupted` in the main thread. Code that starts processes kills them with
`lpft.runtime.processes.ending_children`.
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
"""Exit code of a command that a signal asked to stop: finished work is kept, and the same command continues."""
ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Names of the signals that end a command at once; not every system has all of them."""

_requested = False
_made_progress = False
_heard: set[signal.Signals] = set()
_interrupted: Interrupted | None = None


class Stopped(Exception):
    """A signal asked a stage to stop, and work is left.

    Args:
        failures: earlier failures, one message each.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("stopped by a signal")
        self.failures = failures


class Interrupted(KeyboardInterrupt):
    """A signal ends the command at once.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        """Exit code, as for a program killed by the signal: 130 for INT, 143 for TERM."""


def listen() -> None:
    """Install the handler of the stop signal in `LPFT_STOP_SIGNAL`: USR1 (the default), USR2, or ``none``.

    Raises:
        ValueError: if the signal does not exist or cannot be handled.
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
            f"`LPFT_STOP_SIGNAL={name}` is not a signal that a program can handle. HINT: USR1, USR2, or none."
        ) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let INT, TERM and HUP raise `Interrupted`, except those that are ignored, as under nohup."""
    global _interrupted
    _interrupted = None
    before = {number: signal.signal(number, _interrupt) for number in _ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:  # not ignored in the meantime
                signal.signal(number, handler)


def restore_default_handlers() -> None:
    """Let INT, TERM and HUP kill this child process of the command; those that are ignored stay ignored."""
    for number in _ending():
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Handle the stop signal during the block, and restore its handler afterwards; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    reset()
    listen()
    try:
        yield
    finally:
        for number in _heard:
            signal.signal(number, handlers[number])


def ignore() -> None:
    """Ignore all handled signals from now on, since they could kill the interpreter while it shuts down."""
    if threading.current_thread() is threading.main_thread():
        for number in [*_heard, *(number for number in _ending() if signal.getsignal(number) is _interrupt)]:
            signal.signal(number, signal.SIG_IGN)


def stop_requested() -> bool:
    """Return whether the stop signal has arrived.

    Raises:
        Interrupted: if a signal should have ended this process but arrived while Python ignored exceptions.
    """
    if _interrupted is not None:
        raise _interrupted
    return _requested


def note_progress() -> None:
    """Record that this process finished a round or a stack."""
    global _made_progress
    _made_progress = True


def stop_before() -> bool:
    """Return whether to stop before the next seed or stage.

    A process always finishes at least one round or stack; otherwise its job could be requeued forever.
    """
    return stop_requested() and _made_progress


def reset() -> None:
    """Reset the flags of the stop signal and of progress."""
    global _requested, _made_progress
    _requested = _made_progress = False


def _ending() -> list[signal.Signals]:
    """Return the signals that end a command at once, except ignored ones; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [signal.Signals[name] for name in ENDING if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _request(number: int, _: FrameType | None) -> None:
    global _requested
    _requested = True
    for child in multiprocessing.active_children():  # the signal may have been sent to this process only
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)


def _interrupt(number: int, _: FrameType | None) -> None:
    global _interrupted
    if _interrupted is None:  # a second exception would only disturb the cleanup
        _interrupted = Interrupted(number)
        raise _interrupted
