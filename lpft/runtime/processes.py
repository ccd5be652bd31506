"""Available cores, and how processes are started, killed, and ended with their parent.

The module imports only the standard library.
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
"""How processes are started, see `multiprocessing.set_start_method`."""


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, limited by the CPU quota of a container.

    Args:
        root: parent folder of ``proc`` and ``sys`` on Linux.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def start_method(device: str) -> StartMethod:
    """Return the start method of processes: ``LPFT_START_METHOD``, or the fastest one that is safe on this system.

    A fork takes milliseconds instead of seconds, but is safe only on Linux, and without CUDA and autograd's threads.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        ValueError: if `LPFT_START_METHOD` is not a start method of this system.
    """
    methods = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]
    requested = os.environ.get("LPFT_START_METHOD")
    if requested and requested not in methods:
        raise ValueError(
            f"`LPFT_START_METHOD={requested}` is not available on this system. HINT: {' or '.join(methods)}."
        )
    can_fork = sys.platform == "linux" and "fork" in methods and device == "cpu" and not _has_autograd_threads()
    safe = "fork" if can_fork else "spawn"
    return cast(StartMethod, requested or safe)


def _has_autograd_threads() -> bool:
    """Return whether PyTorch has started its threads for backward passes, after which forked processes cannot train.

    On the CPU it has none, except after packages for other devices were imported, as by `torch.export`.
    """
    names = set()
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # the thread has ended
            names.add(path.read_text(encoding="utf-8", errors="replace"))
    return any(name.startswith("pt_autograd") for name in names)


@contextlib.contextmanager
def ending_children() -> Iterator[None]:
    """Kill all processes that were started in the block if an exception, such as Ctrl-C, leaves it."""
    earlier = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for process in set(multiprocessing.active_children()) - earlier:
            process.kill()
        raise


def refuse_missing_guard(function: str) -> None:
    """Raise RuntimeError in a spawned process that is still importing the user's script."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            f"`lpft.{function}` is called when this script is imported, which every spawned process does."
            " HINT: call it below `if __name__ == '__main__':`."
        )


def is_interactive() -> bool:
    """Return whether this is a notebook or a Python prompt, whose definitions spawned processes cannot import."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def leave_with_parent(parent: int) -> None:
    """Exit this process as soon as its parent has ended for any reason, so that no orphan keeps writing.

    Args:
        parent: process id of the parent, passed by the parent: it may have ended before this call.
    """

    def watch() -> None:
        original = multiprocessing.parent_process()
        if sys.platform == "win32" and original is not None:  # Windows keeps the id of a parent that has ended
            original.join()
        else:
            while os.getppid() == parent:
                time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's control groups (cgroup v1 and v2), in cores."""
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
    """Return the folders of a group and its ancestors; in a container, that of the group itself may not exist."""
    lowest = mount / group.strip("/")
    return [folder for folder in (lowest, *lowest.parents) if folder.is_relative_to(mount)]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _ratio(*words: str) -> Iterator[float]:
    """Yield quota / period; nothing if there is no limit (``max`` or -1)."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(float, words)
        if quota > 0:
            yield quota / period
