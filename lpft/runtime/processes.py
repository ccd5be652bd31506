"""How many cores this process may use, and how it starts others, ends them, and ends with its parent.

Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

StartMethod = Literal["fork", "spawn"]
"""How processes are started: as copies of this one, or anew."""


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, a container's CPU quota included.

    Args:
        root: where ``proc`` and ``sys`` are, on Linux.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def start_method(device: str) -> StartMethod:
    """Return how other processes are started: ``LPFT_START_METHOD``, otherwise what is safe on this system.

    A fork takes milliseconds instead of seconds, but only Linux's libraries survive it, and only without CUDA.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        ValueError: if `LPFT_START_METHOD` names none that this system has.
    """
    methods = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]
    wanted = os.environ.get("LPFT_START_METHOD")
    if wanted and wanted not in methods:
        raise ValueError(f"`LPFT_START_METHOD={wanted}` does not exist here. HINT: {' or '.join(methods)}.")
    safe = "fork" if sys.platform == "linux" and "fork" in methods and device == "cpu" else "spawn"
    return cast(StartMethod, wanted or safe)


@contextlib.contextmanager
def ending_children() -> Iterator[None]:
    """Start processes in this block: an error, or Ctrl-C, that leaves it ends them at once."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise


def refuse_missing_guard(function: str) -> None:
    """Raise RuntimeError in a process that is being started anew, and for that runs the user's script once more."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            f"`lpft.{function}` is called whenever this script is imported, also by the processes that it starts."
            " HINT: call it below `if __name__ == '__main__':`."
        )


def is_interactive() -> bool:
    """Return whether this is a notebook or a Python prompt, whose definitions a process that is started anew lacks."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def leave_with_parent(parent: int) -> None:
    """End this process as soon as its parent has ended, for whatever reason, so that no process keeps writing.

    Args:
        parent: the parent's process id, from the parent itself: it may have ended before this is called.
    """

    def watch() -> None:
        original = multiprocessing.parent_process()
        if sys.platform == "win32" and original is not None:  # there, a parent's number stays the same after its end
            original.join()
        else:
            while os.getppid() == parent:
                time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's control groups, in cores: of version 2, then of version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            for folder in _up(root / "sys/fs/cgroup", group):
                yield from _ratio(*_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _up(root / "sys/fs/cgroup" / controllers, group) + _up(root / "sys/fs/cgroup/cpu", group):
                yield from _ratio(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))


def _up(mount: Path, group: str) -> list[Path]:
    """Return the folders of a group and of all above it; in a container, the group's own name may not be visible."""
    place = mount / group.strip("/")
    return [folder for folder in (place, *place.parents) if folder.is_relative_to(mount)]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _ratio(*words: str) -> Iterator[float]:
    """Yield quota / period, unless there is no limit: ``max`` or -1."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(float, words)
        if quota > 0:
            yield quota / period
