"""Logging during a run, for TensorBoard and the experiment's loggers."""

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
"""Minimum time between updates of methods' logs, in seconds, and maximum share of the time for logging."""


class LiveLogs:
    """Writes the logs during a run; the final report writes all of them again.

    It can be pickled; each process then writes its own files.

    Args:
        run: the run.
        writers: writers in addition to TensorBoard's.
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
        """Update a method's scalars from the results on disk: now, or later if the last update was recent."""
        self._waiting[seed, method] = None
        if time.monotonic() >= self._next:
            self._update()

    def close(self) -> None:
        """Write pending updates, and close the files."""
        self._update()
        for writer in self.writers:
            writer.close()

    def _update(self) -> None:
        start = time.monotonic()
        for seed, method in self._waiting:
            with contextlib.suppress(OSError):  # if the disk is full, training reports it
                result = read_method(self.run, seed, method)
                if result.client_results:
                    log = method_log(self.run, result)
                    for writer in self.writers:
                        writer.write(log)
        self._waiting.clear()
        end = time.monotonic()
        self._next = end + max(INTERVAL, (end - start) / SHARE)


def log_histories(run: Run, seeds: Iterable[int], writers: Sequence[Writer]) -> None:
    """Log the histories on disk of federated training, for writers that miss rounds trained by other processes.

    Args:
        run: the run.
        seeds: seeds of the global models.
        writers: the writers.
    """
    for seed in seeds if writers else ():
        if history := read_history(run.global_file(seed, "history.csv")):
            for writer in writers:
                writer.write(global_log(run, seed, history))
    for writer in writers:
        writer.close()
