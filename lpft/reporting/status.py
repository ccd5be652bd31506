"""The status of a run: done, running, failed and missing parts. Imports neither torch nor numpy, to answer quickly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lpft.reporting.experiment import is_reference, section
from lpft.reporting.job_errors import JobError, job_errors
from lpft.reporting.results import (
    History,
    MethodResult,
    check_is_run,
    read_config,
    read_history,
    read_results,
    seeds_of,
)
from lpft.runtime.heartbeat import work_in_progress
from lpft.storage.run import Run


@dataclass(frozen=True)
class GlobalStatus:
    """The status of the global model of one seed.

    Args:
        seed: seed of the run.
        done: whether the finished model exists.
        rounds: rounds trained so far.
        planned: total number of rounds; None if unknown, or if the model was pretrained.
        running: whether it is being trained.
        failed: the error message; empty without an error.
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
    """The status of the cells of one seed and method.

    Each cell counts once: as done, running, failed, missing or damaged.

    Args:
        seed: seed of the run.
        method: the method's name.
        expected: expected number of cells.
        done: number of usable cells.
        running: clients whose cells are being computed.
        failed: clients whose computation failed, with the reason.
        missing: clients without a result.
        damaged: files of cells that cannot be read, with the reason.
        diverged: done, but training diverged.
        no_train: done, but without training samples.
        no_test: done, but without test samples.
        mixed: whether the cells were computed with different settings.
        outdated: whether they were computed with other settings than those in config.yaml.
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
    outdated: bool = False

    @property
    def complete(self) -> bool:
        """Whether all expected cells are there and usable."""
        return self.expected > 0 and self.done == self.expected and not (self.damaged or self.mixed or self.outdated)


@dataclass(frozen=True)
class Pace:
    """Remaining steps of one kind, and the times of finished ones.

    Args:
        kind: steps of the same kind take about the same time: for example, a method's client results.
        left: number of remaining steps.
        seconds: seconds of each finished step.
        typical: whether steps of other kinds, none of which is finished, may take as long.
    """

    kind: str
    left: int
    seconds: Sequence[float]
    typical: bool = True


@dataclass(frozen=True)
class Eta:
    """The remaining time, estimated from finished steps.

    Args:
        rounds: rounds of federated training.
        cells: client results of personalization and tuning; their times are those of one process.
        at_work: number of stacks in progress, by as many processes.
    """

    rounds: tuple[Pace, ...] = ()
    cells: tuple[Pace, ...] = ()
    at_work: int = 0

    def __add__(self, other: Eta) -> Eta:
        """Return the estimate for both together."""
        return Eta(self.rounds + other.rounds, self.cells + other.cells, self.at_work + other.at_work)

    @property
    def seconds_of_rounds(self) -> float | None:
        """Seconds that the remaining rounds take; None if no round is finished."""
        return _seconds_of(self.rounds)

    @property
    def seconds_of_cells(self) -> float | None:
        """Seconds that the remaining client results take one process; None if unknown."""
        return _seconds_of(self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, with as many processes as work on stacks now, or one."""
        rounds, cells = self.seconds_of_rounds, self.seconds_of_cells
        return None if rounds is None or cells is None else rounds + cells / max(1, self.at_work)

    def to_json(self) -> dict[str, float | int | None]:
        """Return the numbers."""
        names = ("seconds_left", "seconds_of_rounds", "seconds_of_cells", "at_work")
        return {name: getattr(self, name) for name in names}


def _seconds_of(paces: Sequence[Pace]) -> float | None:
    """Return the seconds for all remaining steps; a kind without finished steps counts as the slowest other kind."""
    finished: dict[str, list[float]] = {}
    for pace in paces:
        finished.setdefault(pace.kind, []).extend(pace.seconds)
    means = {kind: fmean(seconds) for kind, seconds in finished.items() if seconds}
    slowest = max((means[pace.kind] for pace in paces if pace.kind in means and pace.typical), default=None)
    total = 0.0
    for pace in paces:
        mean = means.get(pace.kind, slowest)
        if pace.left and mean is None:
            return None
        total += pace.left * (mean or 0.0)
    return total


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Args:
        root: folder of the run.
        name: name of the experiment.
        report: the report page, if it exists.
        models: the global model of every seed.
        others: by method, the models of methods that train their own in this way, such as on pooled data.
        methods: every seed and method, in order.
        trials: the trials of tuning, every seed and trial.
        tuned: whether tuning has chosen, that is, tuning.csv exists; true if nothing is tuned.
        points: the points of a sweep, which has no models and methods of its own.
        planned: planned number of points of a sweep.
        errors: errors that are not fixed yet.
        eta: the remaining time.
    """

    root: Path
    name: str
    report: Path | None = None
    models: list[GlobalStatus] = field(default_factory=list)
    others: dict[str, list[GlobalStatus]] = field(default_factory=dict)
    methods: list[MethodStatus] = field(default_factory=list)
    trials: list[MethodStatus] = field(default_factory=list)
    tuned: bool = True
    points: list[RunStatus] = field(default_factory=list)
    planned: int = 0
    errors: list[JobError] = field(default_factory=list)
    eta: Eta = field(default_factory=Eta)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do, except perhaps the report."""
        if self.planned:
            return len(self.points) >= self.planned and all(point.complete for point in self.points)
        parts = [*self.methods, *(() if self.tuned else self.trials)]
        return bool(self.methods) and self.tuned and all(p.complete for p in parts) and all(m.done for m in self.models)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        parts = {
            name: [{**asdict(part), "complete": part.complete} for part in getattr(self, name)]
            for name in ("methods", "trials")
        }
        return {
            **{name: getattr(self, name) for name in ("name", "tuned", "planned", "complete")},
            "root": str(self.root),
            "report": None if self.report is None else str(self.report),
            "models": [asdict(model) for model in self.models],
            "others": {name: [asdict(model) for model in models] for name, models in self.others.items()},
            **parts,
            "errors": [asdict(error) for error in self.errors],
            "outlook": self.eta.to_json(),
            "points": [point.to_json() for point in self.points],
        }


def print_status(status: RunStatus, as_json: bool = False) -> None:
    """Print the status, as a table or as JSON."""
    if as_json:
        print(json.dumps(status.to_json(), indent=1))
    else:
        from lpft.reporting.status_table import print_table

        print_table(status)


def read_status(run: Run) -> RunStatus:
    """Read the status of a run from its files.

    Raises:
        FileNotFoundError: if the folder is not a run.
    """
    if run.logs.is_dir() and not run.config.is_file() and not run.seeds():
        return RunStatus(run.root, run.root.name, errors=job_errors(run))  # its first job waits
    status = _read_status(run)
    if status.complete:
        return status
    reported = [error.error for error in status.errors]
    return replace(status, errors=[*status.errors, *job_errors(run, reported)])


def _read_status(run: Run) -> RunStatus:
    """Read everything but the logs of jobs."""
    check_is_run(run)
    config, page = read_config(run), run.root / "report.html"
    status = RunStatus(run.root, str(config.get("name") or run.root.name), page if page.is_file() else None)
    swept = section(config, "sweep")
    if run.points() or swept:
        points = [_read_status(point) for point in run.points()]
        return replace(
            status,
            points=points,
            planned=math.prod(map(len, swept.values())) if swept else len(points),
            errors=[
                replace(error, where=f"{point.root.name}, {error.where}") for point in points for error in point.errors
            ],
            eta=sum((point.eta for point in points), Eta()),
        )
    federation = section(config, "federation")
    rounds = None if federation.get("init") else federation.get("rounds")
    planned = rounds if isinstance(rounds, int) else None
    activity, tuning = _Activity(run), _Activity(run.tuning)
    references = {reference.root.name: _Activity(reference) for reference in run.references()}
    begun = {work.seed for work in activity.work} | {failure.seed for failure in activity.failures}
    seeds = {*seeds_of(run, config), *begun.intersection(section(config, "tune").get("seeds") or [])}
    histories = {seed: activity.history(seed) for seed in sorted(seeds)}
    models = [activity.model(seed, history, planned) for seed, history in histories.items()]
    others = {name: [r.model(seed, r.history(seed), None) for seed in histories] for name, r in references.items()}
    results, of_trials = read_results(run, brief=True), read_results(run.tuning, brief=True)
    methods = [activity.method(result) for result in results]
    trials = [tuning.method(result) for result in of_trials]
    return replace(
        status,
        models=models,
        others=others,
        methods=methods,
        trials=trials,
        tuned=(run.root / "tuning.csv").is_file() or not section(config, "tune", "grids"),
        errors=[
            *activity.errors(models, methods),
            *tuning.errors([], trials),
            *(error for name, of_name in others.items() for error in references[name].errors(of_name, [])),
        ],
        eta=Eta(
            rounds=tuple(_pace_of_rounds(model, histories[model.seed]) for model in models),
            cells=tuple(_pace_of_cells(result, config) for result in [*results, *of_trials]),
            at_work=sum(work.part != "global" for work in [*activity.work, *tuning.work]),
        ),
    )


class _Activity:
    """The work in progress in a run's folder, and its last failures."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.work = work_in_progress(run)
        self.failures = list(run.failures())

    def running(self, seed: int, part: str) -> set[str]:
        """Return the clients that are being computed; for a global model, one without a name."""
        return {c for work in self.work if (work.seed, work.part) == (seed, part) for c in work.clients or [""]}

    def failed(self, seed: int, part: str) -> dict[str, str]:
        """Return the failed clients with the reason; for a global model, one without a name."""
        failures = [failure for failure in self.failures if (failure.seed, failure.part) == (seed, part)]
        return {client: failure.error for failure in failures for client in failure.clients or [""]}

    def history(self, seed: int) -> History:
        return read_history(self.run.global_file(seed, "history.csv"))

    def model(self, seed: int, history: History, planned: int | None) -> GlobalStatus:
        running = bool(self.running(seed, "global"))
        done = self.run.global_model(seed).is_file() and not running  # `--overwrite` trains it again
        failed = "" if done or running else self.failed(seed, "global").get("", "")
        return GlobalStatus(seed, done, len(history), planned, running, failed)

    def method(self, result: MethodResult) -> MethodStatus:
        running, failed = self.running(result.seed, result.method), self.failed(result.seed, result.method)
        return MethodStatus(
            seed=result.seed,
            method=result.method,
            expected=len(result.clients),
            done=len(result.client_results),
            running=[client for client in result.missing if client in running],
            failed={c: failed[c] for c in result.missing if c in failed and c not in running},
            missing=[client for client in result.missing if client not in running and client not in failed],
            damaged={str(damage.path): damage.reason for damage in result.damaged},
            diverged=result.count("diverged"),
            no_train=result.count("no_train"),
            no_test=result.count("no_test"),
            mixed=result.mixed,
            outdated=result.outdated,
        )

    def errors(self, models: list[GlobalStatus], methods: list[MethodStatus]) -> list[JobError]:
        """Return the failures that still count."""
        failed = {(model.seed, "global") for model in models if model.failed}
        failed |= {(part.seed, part.method) for part in methods if part.failed}
        return [JobError(str(f), f.error, str(f.path)) for f in self.failures if (f.seed, f.part) in failed]


def _pace_of_cells(result: MethodResult, config: Mapping[str, Any]) -> Pace:
    usable = not (result.mixed or result.outdated)
    left = len(result.clients) - (len(result.client_results) if usable else 0)
    seconds = [cell.seconds for cell in result.client_results]
    return Pace(result.method, left, seconds, typical=not is_reference(result.method, config))


def _pace_of_rounds(model: GlobalStatus, history: History) -> Pace:
    left = 0 if model.done or model.planned is None else max(0, model.planned - model.rounds)
    return Pace("round", left, [seconds for row in history if (seconds := row.get("seconds")) is not None])
