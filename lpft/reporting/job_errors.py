"""Errors in the logs of a run's Slurm jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lpft.storage.run import Run

STAGES = ("federate", "tune", "personalize", "report")
"""Stages of slurm/submit.sh; a job's log is lpft-STAGE-JOB.log or lpft-STAGE-JOB_TASK.log."""
TAIL_BYTES, TAIL_LINES = 20_000, 10
BAD = re.compile(
    r"^(?!\s).*\b(error|killed|cancelled|not found|no such file)\b"
    r"|^lpft \w+: |^lpft: .*(failed|HINT)|^[\w.]+(Error|Exception)\b",
    re.IGNORECASE,
)
EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
HARMLESS = re.compile(
    r"^error    |DUE TO JOB REQUEUE|Exited with exit code|continues later|stopped by a signal|is finished is kept"
    r"|^lpft \w+: reading "
)
LIFE = re.compile(r"lpft: life \d+ of job")
"""The first line that the batch scripts write: a requeued job continues in the same log."""


@dataclass(frozen=True)
class JobError:
    """An error that is not fixed yet.

    Args:
        where: the seed and method, or the job.
        error: its last line.
        path: the file with all of it.
    """

    where: str
    error: str
    path: str


def job_errors(run: Run, reported: Iterable[str] = ()) -> list[JobError]:
    """Return the errors that end the logs of every stage's last job, unless an earlier stage was repeated after it.

    Args:
        run: the run.
        reported: errors that are reported elsewhere.
    """
    jobs: dict[str, dict[int, list[Path]]] = {stage: {} for stage in STAGES}
    for path in sorted(run.logs.glob("lpft-*-*.log")):
        match = re.fullmatch(r"lpft-(\w+)-(\d+)(_\d+)?", path.stem)
        if match and match[1] in jobs:
            jobs[match[1]].setdefault(int(match[2]), []).append(path)
    reported, newest, errors = list(reported), 0, []
    for stage in STAGES:
        last = max(jobs[stage], default=0)
        for path in jobs[stage][last] if last > newest else ():
            line = _error_line(path, reported)
            errors += [JobError(path.stem, line, str(path))] if line else []
        newest = max(newest, last)
    return errors


def _error_line(path: Path, reported: list[str]) -> str | None:
    """Return the line at the end of a job's last life that names the error, if there is one.

    It is the last exception; otherwise the first bad line, since others follow from it: after Slurm's log says that a
    task was killed, it says that the others were ended.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    begins = max((number for number, line in enumerate(lines) if LIFE.match(line)), default=0)
    bad = [
        line
        for line in lines[begins:][-TAIL_LINES:]
        if BAD.search(line) and not HARMLESS.search(line) and not any(error in line for error in reported)
    ]
    exceptions = [line for line in bad if EXCEPTION.match(line)]
    return next(iter(exceptions[-1:] or bad), None)
