"""Logs of a run that is at work: for an open TensorBoard, and for the experiment's loggers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from lpft.reporting.logs import Writer, global_log, method_log
from lpft.reporting.results import read_history, read_method
from lpft.reporting.tensorboard import EventStream
from lpft.storage.run import Run

INTERVAL, SHARE = 5.0, 0.05
"""The logs of methods are renewed at most once in so many seconds, and take at most this share of the time."""


class LiveLogs:
    """Logs a run while it works; the report finally writes all logs again.

    It can be pickled; each process then writes its own files.

    Args:
        run: the run.
        writers: who writes, besides TensorBoard.
    """

    def __init__(self, run: Run, writers: Sequence[Writer] = ()) -> None:
        self.run = run
        self.writers: list[Writer] = [EventStream(), *writers]
        self._waiting: dict[tuple[int, str], None] = {}
        self._next = 0.0

    def round(self, seed: int, history: Sequence[Any]) -> None:
        """Log the new rounds of a global model's history: rows of history.csv as dictionaries or dataclasses."""
        rows = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else row for row in history]
        log = replace(global_log(self.run, seed, rows), growing=True)
        for writer in self.writers:
            writer.write(log)

    def stack(self, seed: int, method: str) -> None:
        """Renew a method's scalars from the results on disk: now, or with a later stack if it was done just before."""
        self._waiting[seed, method] = None
        if time.monotonic() >= self._next:
            self._renew()

    def close(self) -> None:
        """Write what is waiting, and close the files."""
        self._renew()
        for writer in self.writers:
            writer.close()

    def _renew(self) -> None:
        start = time.monotonic()
        for seed, method in self._waiting:
            with contextlib.suppress(OSError):  # training itself reports a full disk
                result = read_method(self.run, seed, method)
                if result.client_results:
                    log = method_log(self.run, result)
                    for writer in self.writers:
                        writer.write(log)
        self._waiting.clear()
        end = time.monotonic()
        self._next = end + max(INTERVAL, (end - start) / SHARE)


def log_histories(run: Run, seeds: Iterable[int], writers: Sequence[Writer]) -> None:
    """Log what is on disk of federated training, for writers that have missed rounds: other processes have done them.

    Args:
        run: the run.
        seeds: those of the global models.
        writers: who writes.
    """
    for seed in seeds if writers else ():
        if history := read_history(run.global_file(seed, "history.csv")):
            for writer in writers:
                writer.write(global_log(run, seed, history))
    for writer in writers:
        writer.close()
