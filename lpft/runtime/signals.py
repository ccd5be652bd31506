"""Signals: one asks to stop after the round or stack at hand, the others end the command at once.

Imported and installed before anything heavy, since a signal without a handler ends the process without a word.
Schedulers send the first, USR1, before a job's time limit; you can send it with ``kill -USR1``. It sets a flag. Ctrl-C
(INT), ``kill`` (TERM) and a closed terminal (HUP) raise `Interrupted` in the main thread. Whoever has started other
processes ends them with `lpft.runtime.processes.ending_children`.
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
ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Names of the signals that end a command at once, where the system has them."""

_requested = False
_made_progress = False
_heard: set[signal.Signals] = set()
_interrupted: Interrupted | None = None


class Stopped(Exception):
    """A stage was asked to stop, and has work left.

    Args:
        failures: what went wrong before, one text each.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("stopped by a signal")
        self.failures = failures


class Interrupted(KeyboardInterrupt):
    """A signal ends the command now.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        """Exit code, as of a program that the signal has ended: 130 for INT, 143 for TERM."""


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
def interruptible() -> Iterator[None]:
    """Let INT, TERM and HUP raise `Interrupted`, except where the caller has set them to be ignored, as nohup does."""
    global _interrupted
    _interrupted = None
    before = {number: signal.signal(number, _interrupt) for number in _ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:  # not ignored by now
                signal.signal(number, handler)


def die_of_interrupts() -> None:
    """Let INT, TERM and HUP end this process, a child of the command, at once; those that are ignored stay ignored."""
    for number in _ending():
        signal.signal(number, signal.SIG_DFL)


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
    """Ignore signals at the end: otherwise they would kill the interpreter while that shuts down."""
    if threading.current_thread() is threading.main_thread():
        for number in [*_heard, *(number for number in _ending() if signal.getsignal(number) is _interrupt)]:
            signal.signal(number, signal.SIG_IGN)


def stop_requested() -> bool:
    """Return whether the signal has arrived.

    Raises:
        Interrupted: if a signal should have ended this process, but came while Python ignores exceptions.
    """
    if _interrupted is not None:
        raise _interrupted
    return _requested


def note_progress() -> None:
    """Note that this process has ended a round or a stack."""
    global _made_progress
    _made_progress = True


def stop_before() -> bool:
    """Return whether to stop before the next seed or stage.

    A process always completes one round or stack first, or its job could be requeued forever.
    """
    return stop_requested() and _made_progress


def forget() -> None:
    """Forget that the signal arrived, and any progress."""
    global _requested, _made_progress
    _requested = _made_progress = False


def _ending() -> list[signal.Signals]:
    """Return the signals that end a command at once; none of those that are ignored, or outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [signal.Signals[name] for name in ENDING if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _request(number: int, _: FrameType | None) -> None:
    global _requested
    _requested = True
    for child in multiprocessing.active_children():  # it may have been sent to this process alone
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)


def _interrupt(number: int, _: FrameType | None) -> None:
    global _interrupted
    if _interrupted is None:  # a second one would only disturb the end
        _interrupted = Interrupted(number)
        raise _interrupted
