"""What of a run is done, at work, failed or missing. Imports neither torch nor numpy, so that it answers at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lpft.reporting.eta import Eta, Pace
from lpft.reporting.job_errors import JobError, job_errors
from lpft.reporting.results import MethodResult, check_is_run, is_reference, read_config, read_history, read_results
from lpft.runtime.heartbeat import at_work
from lpft.storage.run import Run


@dataclass(frozen=True)
class GlobalStatus:
    """How far one seed's global model is.

    Args:
        seed: seed of the run.
        done: whether the finished model is there.
        rounds: rounds trained so far.
        planned: rounds in all; None if that is not known, or the model came from elsewhere.
        running: whether it is trained just now.
        failed: what went wrong with it; empty if nothing did.
    """

    seed: int
    done: bool
    rounds: int
    planned: int | None
    running: bool = False
    failed: str = ""

    def __str__(self) -> str:
        """Return ``done (60 rounds)``, ``12/60 rounds, running``, ``failed`` or ``missing``."""
        if self.done:
            return f"done ({self.rounds} rounds)" if self.rounds else "done"
        words = [f"{self.rounds}/{self.planned} rounds" if self.planned else f"{self.rounds} rounds"]
        words = [*(words if self.rounds else []), *(["running"] if self.running else ["failed"] if self.failed else [])]
        return ", ".join(words) or "missing"


@dataclass(frozen=True)
class MethodStatus:
    """How many cells of one seed and method are there.

    Each cell counts once: as done, running, failed, missing or damaged.

    Args:
        seed: seed of the run.
        method: the method's name.
        expected: number of cells there should be.
        done: usable cells.
        running: clients whose cells are worked on just now.
        failed: clients for which it went wrong, with the reason.
        missing: clients for which nothing was done yet.
        damaged: files of cells that cannot be used, with the reason.
        diverged: done, but training diverged.
        no_train: done, but without training samples.
        no_test: done, but without test samples.
        mixed: whether the cells were computed with different settings.
    """

    seed: int
    method: str
    expected: int
    done: int
    running: list[str]
    failed: dict[str, str]
    missing: list[str]
    damaged: dict[str, str]
    diverged: int
    no_train: int
    no_test: int
    mixed: bool

    @property
    def complete(self) -> bool:
        """Whether all expected cells are there and usable."""
        return self.expected > 0 and self.done == self.expected and not self.damaged and not self.mixed


@dataclass(frozen=True)
class RunStatus:
    """What of a run is done.

    Args:
        root: folder of the run.
        name: of the experiment.
        models: the global model of every seed.
        methods: every seed and method, in order.
        report: the page, if it was written.
        trials: the trials of tuning, every seed and trial.
        tuned: whether tuning has chosen, as tuning.csv tells; true if nothing is tuned.
        points: of a sweep, which has no models and methods of its own.
        planned: how many points a sweep has.
        errors: what went wrong and was not made good yet.
        eta: how long the rest takes.
    """

    root: Path
    name: str
    models: list[GlobalStatus]
    methods: list[MethodStatus]
    report: Path | None
    trials: list[MethodStatus] = field(default_factory=list)
    tuned: bool = True
    points: list[RunStatus] = field(default_factory=list)
    planned: int = 0
    errors: list[JobError] = field(default_factory=list)
    eta: Eta = field(default_factory=Eta)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do but perhaps the report."""
        if self.planned:
            return len(self.points) >= self.planned and all(point.complete for point in self.points)
        parts = [*self.methods, *(() if self.tuned else self.trials)]
        return bool(self.methods) and self.tuned and all(p.complete for p in parts) and all(m.done for m in self.models)

    def to_json(self) -> dict[str, Any]:
        """Return everything as what `json.dumps` takes."""
        parts = {
            name: [{**asdict(part), "complete": part.complete} for part in getattr(self, name)]
            for name in ("methods", "trials")
        }
        return {
            **{name: getattr(self, name) for name in ("name", "tuned", "planned", "complete")},
            "root": str(self.root),
            "report": None if self.report is None else str(self.report),
            "models": [asdict(model) for model in self.models],
            **parts,
            "errors": [asdict(error) for error in self.errors],
            "outlook": self.eta.to_json(),
            "points": [point.to_json() for point in self.points],
        }


def read_status(run: Run) -> RunStatus:
    """Look at what a run has on disk.

    Raises:
        FileNotFoundError: if the folder is no run.
    """
    if run.logs.is_dir() and not run.config.is_file() and not run.seeds():
        return RunStatus(run.root, run.root.name, [], [], None, errors=job_errors(run))  # its first job waits
    status = _read_status(run)
    if status.complete:
        return status
    known = [error.error for error in status.errors]
    return replace(status, errors=[*status.errors, *job_errors(run, known)])


def _read_status(run: Run) -> RunStatus:
    """Look at all but the logs of jobs."""
    check_is_run(run)
    config = read_config(run)
    sweep = config.get("sweep")
    page = run.root / "report.html"
    if run.points() or (isinstance(sweep, Mapping) and sweep):
        points = [_read_status(point) for point in run.points()]
        planned = math.prod(len(values) for values in sweep.values()) if isinstance(sweep, Mapping) else len(points)
        return RunStatus(
            root=run.root,
            name=str(config.get("name") or run.root.name),
            models=[],
            methods=[],
            report=page if page.is_file() else None,
            points=points,
            planned=planned,
            errors=[error for point in points for error in point.errors],
            eta=sum((point.eta for point in points), Eta()),
        )
    planned_seeds = [seed for seed in config.get("seeds") or [] if isinstance(seed, int)]
    grids = (config.get("tune") or {}).get("grids")
    here, tuning = _Now(run), _Now(run.tuning)
    results, trials = read_results(run), read_results(run.tuning)
    models = [_global_status(here, seed, config) for seed in sorted({*run.seeds(), *planned_seeds})]
    methods = [_method_status(here, result) for result in results]
    of_trials = [_method_status(tuning, result) for result in trials]
    return RunStatus(
        root=run.root,
        name=str(config.get("name") or run.root.name),
        models=models,
        methods=methods,
        report=page if page.is_file() else None,
        trials=of_trials,
        tuned=(run.root / "tuning.csv").is_file() or not grids,
        errors=[*here.errors_of(models, methods), *tuning.errors_of([], of_trials)],
        eta=Eta(
            tuple(_pace_of_rounds(run, model) for model in models),
            tuple(_pace_of_cells(result, config) for result in [*results, *trials]),
            sum(work.part != "global" for work in [*here.work, *tuning.work]),
        ),
    )


class _Now:
    """What is worked on just now, and what has failed last."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.work = at_work(run)
        self.failures = list(run.failures())

    def running(self, seed: int, part: str) -> set[str]:
        """Return the clients that are worked on; for a global model one without a name."""
        return {c for work in self.work if (work.seed, work.part) == (seed, part) for c in work.clients or [""]}

    def failed(self, seed: int, part: str) -> dict[str, str]:
        """Return the clients for which it went wrong, with the reason; for a global model one without a name."""
        mine = [failure for failure in self.failures if (failure.seed, failure.part) == (seed, part)]
        return {client: failure.error for failure in mine for client in failure.clients or [""]}

    def errors_of(self, models: list[GlobalStatus], methods: list[MethodStatus]) -> list[JobError]:
        """Return the failures that still count."""
        failed = {(model.seed, "global") for model in models if model.failed}
        failed |= {(part.seed, part.method) for part in methods if part.failed}
        return [
            JobError(str(failure), failure.error, str(failure.path))
            for failure in self.failures
            if (failure.seed, failure.part) in failed
        ]


def print_status(status: RunStatus, as_json: bool = False) -> None:
    """Print the status, as a table or as JSON."""
    if as_json:
        print(json.dumps(status.to_json(), indent=1))
    else:
        from lpft.reporting.status_table import print_table

        print_table(status)


def _global_status(now: _Now, seed: int, config: Mapping[str, Any]) -> GlobalStatus:
    run = now.run
    federation = config.get("federation")
    federation = federation if isinstance(federation, Mapping) else {}
    rounds = federation.get("rounds") if not federation.get("init") else None
    history = read_history(run.global_file(seed, "history.csv"))
    done, running = run.global_model(seed).is_file(), bool(now.running(seed, "global"))
    return GlobalStatus(
        seed=seed,
        done=done,
        rounds=len(history),
        planned=rounds if isinstance(rounds, int) else None,
        running=running and not done,
        failed="" if done or running else now.failed(seed, "global").get("", ""),
    )


def _pace_of_rounds(run: Run, model: GlobalStatus) -> Pace:
    history = read_history(run.global_file(model.seed, "history.csv"))
    seconds = [row["seconds"] for row in history if row.get("seconds") is not None]
    left = 0 if model.done or model.planned is None else max(0, model.planned - model.rounds)
    return Pace("round", left, [second for second in seconds if second is not None])


def _pace_of_cells(result: MethodResult, config: Mapping[str, Any]) -> Pace:
    left = len(result.clients) - len(result.cells)
    seconds = [cell.seconds for cell in result.cells]
    return Pace(result.method, left, seconds, typical=not is_reference(result.method, config))


def _method_status(now: _Now, result: MethodResult) -> MethodStatus:
    running = now.running(result.seed, result.method)
    failed = now.failed(result.seed, result.method)
    return MethodStatus(
        seed=result.seed,
        method=result.method,
        expected=len(result.clients),
        done=len(result.cells),
        running=[client for client in result.missing if client in running],
        failed={c: failed[c] for c in result.missing if c in failed and c not in running},
        missing=[client for client in result.missing if client not in running and client not in failed],
        damaged={str(damage.path): damage.reason for damage in result.damaged},
        diverged=result.count("diverged"),
        no_train=result.count("no_train"),
        no_test=result.count("no_test"),
        mixed=result.mixed,
    )
