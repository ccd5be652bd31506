"""Commands in forked copies of this process, which has imported all that is heavy: to kill one costs little."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lpft.cli import main

FORK = multiprocessing.get_context("fork")


class Forked:
    """A command of lpft in a process, and a process group, of its own.

    Args:
        words: the command line.
        log: file for what it prints.
        before: called in that process before the command: what is to go wrong.
    """

    def __init__(self, *words: Any, log: Path, before: Callable[[], object] = lambda: None) -> None:
        log.touch()
        self.log = log
        self._process = FORK.Process(target=_command, args=([str(word) for word in words], log, before))
        self._process.start()
        self.pid = self._process.pid
        with contextlib.suppress(OSError):  # it does so itself, but who is first is not known
            os.setpgid(self.pid, self.pid)

    def code(self, seconds: float = 120) -> int | None:
        """Wait for its end; return the exit code, or None if it still runs after this time."""
        self._process.join(seconds)
        return self._process.exitcode

    def children(self) -> list[int]:
        """Return the process ids of its ranks or workers, the oldest first."""
        return sorted(pid for pid, fields in _stats() if int(fields[1]) == self.pid and fields[0] != "Z")

    def kill(self, everyone: bool) -> bool:
        """Send SIGKILL to the whole group, or to the main process alone; tell whether it was in time."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if everyone else os.kill)(self.pid, signal.SIGKILL)
        return self.code() == -signal.SIGKILL

    def send(self, number: int, everyone: bool = False) -> None:
        """Send a signal to the main process alone, or to the whole group."""
        (os.killpg if everyone else os.kill)(self.pid, number)

    def alive(self) -> bool:
        """Tell whether any process of the group is alive (zombies are not)."""
        return any(int(fields[2]) == self.pid and fields[0] != "Z" for _, fields in _stats())

    def said(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text()


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


def running(pid: int) -> bool:
    """Tell whether a process runs (zombies do not)."""
    return any(number == pid and fields[0] != "Z" for number, fields in _stats())


def without_privileges() -> None:
    """Let file permissions hold for this process, also if it is root's."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    header, nothing = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(ctypes.byref(header), ctypes.byref(nothing)) == 0


def _command(words: list[str], log: Path, before: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout = sys.stderr = os.fdopen(file, "a", buffering=1)
    logging.getLogger().handlers.clear()  # pytest's
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell, or nohup, may have started pytest without
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    torch.cuda._is_in_bad_fork = lambda: False  # to have asked for GPUs before a fork forbids the next one
    before()
    main(words)


def _stats() -> list[tuple[int, list[str]]]:
    """Return process id and state, parent, group of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found.append((int(path.parent.name), path.read_text().rpartition(")")[2].split()))
    return found
