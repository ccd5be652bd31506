"""Progress of a long task: a bar on a terminal, otherwise one line per event."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """Shows the finished steps of a task, the speed and the estimated time left.

    Args:
        title: name of the task, such as ``federate seed 0``.
        total: number of steps.
        unit: name of one step, such as ``round``.
        shown: whether to show anything; False on all ranks but the first.
        done: number of steps finished by an earlier process.
        counted: unit of the speed.
        lines: maximum number of lines if the output is not a terminal; by default one per call.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        shown: bool = True,
        done: int = 0,
        counted: str = "clients",
        lines: int | None = None,
    ) -> None:
        self.title, self.total, self.unit, self.shown, self.done = title, total, unit, shown, done
        self.counted, self.lines = counted, lines
        self.count = 0
        self.first = done
        self.began = time.perf_counter()
        self._bar: Progress | None = None

    def __enter__(self) -> Steps:
        console = Console(stderr=True)
        if self.shown and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, text="")
        return self

    def start_at(self, done: int) -> None:
        """Set the number of steps finished by an earlier process."""
        self.done = self.first = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def advance(self, text: str, count: int, steps: int = 1) -> None:
        """Report finished steps.

        Args:
            text: short result of the steps.
            count: number of clients (or of what `counted` names) in these steps.
            steps: number of steps.
        """
        before = self.done
        self.done += steps
        self.count += count
        seconds = max(time.perf_counter() - self.began, 1e-9)
        speed = f"{self.count / seconds:.1f} {self.counted}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=f"{speed}  {text}")
        elif self.shown and (self.lines is None or self._lines_until(self.done) > self._lines_until(before)):
            left = seconds / (self.done - self.first) * (self.total - self.done)
            line = f"{self.title}: {self.unit} {self.done}/{self.total}  {text}  {speed}  {duration(left)} left"
            print(line, file=sys.stderr, flush=True)

    def _lines_until(self, done: int) -> int:
        return done * (self.lines or 0) // self.total

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Return a duration as ``h:mm:ss`` or ``m:ss``."""
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
