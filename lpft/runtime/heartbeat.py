"""Heartbeats: every process of a run keeps a small file with its current work, and removes it when it ends.

The file of a killed process is ignored if it has not been renewed for a while, or if the process was on this machine
and no longer exists. `lpft status` reads these files, and the check that settings do not change during a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run

LOOK, RENEW = 2.0, 20.0
"""Seconds between checks for new work, and after which the file is renewed in any case."""
LOST = 120.0
"""Seconds after which a file that was not renewed is ignored."""


@dataclass(frozen=True)
class Work:
    """The current work of a process.

    Args:
        seed: seed of the run.
        part: ``global`` or a method.
        clients: the clients of the stack; empty for the global model.
    """

    seed: int
    part: str
    clients: list[str]


class Heartbeat:
    """Writes the current work of this process to a file of the run.

    The first call of `set_work` starts a thread, so fork other processes before.
    """

    def __init__(self, run: Run) -> None:
        self.path = run.working / f"{socket.gethostname()}-{os.getpid()}.json"
        self._work: list[Work] = []
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def set_work(self, work: Iterable[Work]) -> None:
        """Set the current work."""
        self._work = list(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread and remove the file."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        written: list[Work] | None = None
        last = 0.0
        while True:
            now = time.monotonic()
            if self._work != written or now - last > RENEW:
                written, last = self._work, now
                content = {"host": socket.gethostname(), "pid": os.getpid(), "work": [asdict(work) for work in written]}
                with contextlib.suppress(OSError):  # the work itself reports a full disk
                    write_atomically(self.path, json.dumps(content) + "\n")
            if self._closed.wait(LOOK):
                return


def work_in_progress(run: Run) -> list[Work]:
    """Return the current work of all processes of a run, on any machine."""
    in_progress = []
    for path in sorted(run.working.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the process ended in the meantime
            content = json.loads(path.read_text(encoding="utf-8"))
            if _is_alive(path, content["host"], content["pid"]):
                in_progress += [Work(**work) for work in content["work"]]
    return in_progress


def _is_alive(path: Path, host: str, pid: int) -> bool:
    if abs(time.time() - path.stat().st_mtime) > LOST:
        return False
    if host == socket.gethostname() and os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
    return True
