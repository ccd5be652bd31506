"""What the processes of a run are working on: each keeps a small file, and removes it when it ends.

The file of a killed process is ignored once it has not been renewed for a while, or if the process belongs to this
machine and no longer exists. Only `lpft status` reads these files.
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
"""Seconds between checks for a change, and until the file is renewed in any case."""
LOST = 120.0
"""Seconds after which a file that was not renewed is ignored."""


@dataclass(frozen=True)
class Work:
    """What a process does at a time.

    Args:
        seed: seed of the run.
        part: ``global`` or a method.
        clients: the clients of the stack; empty for the global model.
    """

    seed: int
    part: str
    clients: list[str]


class Heartbeat:
    """Tells others what this process works on for a run.

    Its thread starts with the first work: start other processes before that.
    """

    def __init__(self, run: Run) -> None:
        self.path = run.working / f"{socket.gethostname()}-{os.getpid()}.json"
        self._work: list[Work] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def at(self, work: Iterable[Work]) -> None:
        """Set the work in progress."""
        self._work = list(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread and remove the file."""
        self._over.set()
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
                with contextlib.suppress(OSError):  # the work itself will tell of a full disk
                    write_atomically(self.path, json.dumps(content) + "\n")
            if self._over.wait(LOOK):
                return


def at_work(run: Run) -> list[Work]:
    """Return the work in progress, on any machine."""
    at_work = []
    for path in sorted(run.working.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it has ended meanwhile
            content = json.loads(path.read_text(encoding="utf-8"))
            if _is_alive(path, content["host"], content["pid"]):
                at_work += [Work(**work) for work in content["work"]]
    return at_work


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
