"""How many cores this process may use, and how it ends with its parent. Imports nothing heavy."""

from __future__ import annotations

import os
import threading
import time


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_with_parent(parent: int) -> None:
    """End this process as soon as its parent has ended, for whatever reason, so that no process keeps writing.

    Args:
        parent: the parent's process id, from the parent itself: it may have ended before this is called.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()
