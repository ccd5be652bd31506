"""What went wrong in a run and was not made good yet: failures that were noted, and the last words of jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
    r"^error    |DUE TO JOB REQUEUE|Exited with exit code|goes on later|stopped by a signal|is finished is kept"
)

LIFE = re.compile(r"lpft: life \d+ of job")
"""What the batch scripts write first: a job that is requeued goes on in the same log."""


@dataclass(frozen=True)
class Mishap:
    """Something that went wrong.

    Args:
        where: what it happened to.
        error: what it was, in a line.
        path: file that says more.
    """

    where: str
    error: str
    path: str


def job_mishaps(run: Run, known: Iterable[str] = ()) -> list[Mishap]:
    """Return the last bad lines of the logs of every stage's last job, unless a stage before was done again after it.

    Args:
        run: the run.
        known: errors that are told elsewhere.
    """
    jobs: dict[str, dict[int, list[Path]]] = {stage: {} for stage in STAGES}
    for path in sorted(run.logs.glob("lpft-*-*.log")):
        found = re.fullmatch(r"lpft-(\w+)-(\d+)(_\d+)?", path.stem)
        if found and found[1] in jobs:
            jobs[found[1]].setdefault(int(found[2]), []).append(path)
    known, before, logs = list(known), 0, []
    for stage in STAGES:
        last = max(jobs[stage], default=0)
        if last > before:
            logs += jobs[stage][last]
            before = last
    return [Mishap(path.stem, line, str(path)) for path in logs for line in _last_words(path, known)]


def _last_words(path: Path, known: list[str]) -> Iterator[str]:
    """Yield the line among the last ones of a job's last life that says best what went wrong, if there is one.

    It is the last exception; otherwise the first bad line, since others follow from it: where Slurm's log says that a
    task was killed, it says next that it has ended the others.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    begins = max((number for number, line in enumerate(lines) if LIFE.match(line)), default=0)
    bad = [
        line
        for line in lines[begins:][-TAIL_LINES:]
        if BAD.search(line) and not HARMLESS.search(line) and not any(error in line for error in known)
    ]
    exceptions = [line for line in bad if EXCEPTION.match(line)]
    yield from exceptions[-1:] or bad[:1]
