"""What of a run is done, missing or failed. Imports neither torch nor numpy, so that it answers at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.reporting.results import MethodResult, read_config, read_history, read_results
from lpft.runs import Run

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class GlobalStatus:
    """How far one seed's global model is.

    Args:
        seed: seed of the run.
        done: whether the finished model is there.
        rounds: rounds trained so far.
        planned: rounds in all; None if that is not known, or the model came from elsewhere.
    """

    seed: int
    done: bool
    rounds: int
    planned: int | None

    def __str__(self) -> str:
        """Return ``done (60 rounds)``, ``12/60 rounds`` or ``missing``."""
        if self.done:
            return f"done ({self.rounds} rounds)" if self.rounds else "done"
        if self.rounds:
            return f"{self.rounds}/{self.planned} rounds" if self.planned else f"{self.rounds} rounds"
        return "missing"


@dataclass(frozen=True)
class MethodStatus:
    """How many cells of one seed and method are there.

    Args:
        seed: seed of the run.
        method: the method's name.
        expected: number of cells there should be.
        done: usable cells.
        missing: clients without a cell.
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
            "points": [point.to_json() for point in self.points],
        }


def read_status(run: Run) -> RunStatus:
    """Look at what a run has on disk.

    Raises:
        FileNotFoundError: if the folder is no run.
    """
    check_is_run(run)
    config = read_config(run)
    sweep = config.get("sweep")
    page = run.root / "report.html"
    if run.points() or (isinstance(sweep, Mapping) and sweep):
        points = [read_status(point) for point in run.points()]
        planned = math.prod(len(values) for values in sweep.values()) if isinstance(sweep, Mapping) else len(points)
        name = str(config.get("name") or run.root.name)
        return RunStatus(run.root, name, [], [], page if page.is_file() else None, points=points, planned=planned)
    results = read_results(run)
    planned_seeds = [seed for seed in config.get("seeds") or [] if isinstance(seed, int)]
    grids = (config.get("tune") or {}).get("grids")
    return RunStatus(
        root=run.root,
        name=str(config.get("name") or run.root.name),
        models=[_global_status(run, seed, config) for seed in sorted({*run.seeds(), *planned_seeds})],
        methods=[_method_status(result) for result in results],
        report=page if page.is_file() else None,
        trials=[_method_status(result) for result in read_results(run.tuning)],
        tuned=(run.root / "tuning.csv").is_file() or not grids,
    )


def check_is_run(run: Run) -> None:
    """Raise FileNotFoundError if the folder of a run is not there or is something else."""
    if not run.config.is_file() and not run.seeds():
        raise FileNotFoundError(
            f"`{run.root}` is not the folder of a run: it has neither config.yaml nor seed_0."
            " HINT: give the folder named by `out` in the experiment's YAML."
        )


def print_status(status: RunStatus, as_json: bool = False) -> None:
    """Print the status, as a table or as JSON."""
    if as_json:
        print(json.dumps(status.to_json(), indent=1))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 80 + 18 * len(status.models)))
    console.print(render_sweep(status) if status.planned else render_status(status), crop=False)


def render_status(status: RunStatus) -> Group:
    """Return the status for `rich.console.Console.print`: one row per method, one column per seed."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=escape(f"{status.name}: {status.root}"))
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("")
    seeds = [model.seed for model in status.models]
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    table.add_row("global model", *(_colored(str(model), model.done) for model in status.models), end_section=True)
    for method in dict.fromkeys(part.method for part in status.methods):
        parts = {part.seed: part for part in status.methods if part.method == method}
        table.add_row(escape(method), *(_cells(parts[seed]) if seed in parts else "" for seed in seeds))
    for seed_row in _tuning_row(status, seeds):
        table.add_row(*seed_row)
    damaged = [f"{path}: {reason}" for part in status.methods for path, reason in part.damaged.items()]
    lines = [f"damaged  {line}" for line in damaged]
    lines.append(f"report   {status.report}" if status.report else "report   not written yet")
    return Group(table, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def render_sweep(status: RunStatus) -> Group:
    """Return the status of a sweep: one row per point."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=escape(f"{status.name}: {status.root}"))
    table.title_justify, table.title_style = "left", "bold"
    for column in ("point", "global models", "cells", "tuning", "report"):
        table.add_column(column, justify="left" if column == "point" else "right", overflow="fold")
    for point in status.points:
        models = sum(model.done for model in point.models)
        report = _colored("written", True) if point.report else "-"
        table.add_row(
            escape(point.root.name),
            _colored(f"{models}/{len(point.models)}", models == len(point.models)),
            _sum_of_cells(point.methods),
            (_sum_of_cells(point.trials) if point.trials else _colored("missing", False) if not point.tuned else "-"),
            report,
        )
    done = sum(point.complete for point in status.points)
    lines = [f"points   {done} of {status.planned} complete"]
    lines += [f"damaged  {len(p.damaged)} in {q.root}" for q in status.points for p in q.methods if p.damaged]
    lines.append(f"report   {status.report}" if status.report else "report   not written yet")
    return Group(table, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def _sum_of_cells(parts: list[MethodStatus]) -> str:
    done, expected = sum(part.done for part in parts), sum(part.expected for part in parts)
    notes = [
        f"{number} {name}"
        for name, number in (
            ("damaged", sum(len(part.damaged) for part in parts)),
            ("diverged", sum(part.diverged for part in parts)),
        )
        if number
    ]
    return _colored(", ".join([f"{done}/{expected}", *notes]), bool(parts) and all(part.complete for part in parts))


def _tuning_row(status: RunStatus, seeds: list[int]) -> list[list[str]]:
    """Return a row for the trials of tuning, none if there is no tuning."""
    if not status.trials and status.tuned:
        return []
    by_seed = {seed: [part for part in status.trials if part.seed == seed] for seed in seeds}
    number = len({part.method for part in status.trials})
    name = f"tuning, {number} trials" + ("" if status.tuned else ", nothing chosen yet")
    return [[name, *(_sum_of_cells(parts) if parts else "" for parts in by_seed.values())]]


def _cells(part: MethodStatus) -> str:
    notes = {
        "damaged": len(part.damaged),
        "diverged": part.diverged,
        "no_train": part.no_train,
        "no_test": part.no_test,
    }
    words = [f"{part.done}/{part.expected}", *(f"{number} {name}" for name, number in notes.items() if number)]
    return _colored(", ".join([*words, *(["mixed settings"] if part.mixed else [])]), part.complete)


def _colored(text: str, good: bool) -> str:
    return f"[green]{text}[/]" if good else f"[yellow]{text}[/]"


def _global_status(run: Run, seed: int, config: Mapping[str, Any]) -> GlobalStatus:
    federation = config.get("federation")
    federation = federation if isinstance(federation, Mapping) else {}
    rounds = federation.get("rounds") if not federation.get("init") else None
    history = read_history(run.global_file(seed, "history.csv"))
    return GlobalStatus(
        seed=seed,
        done=run.global_model(seed).is_file(),
        rounds=len(history),
        planned=rounds if isinstance(rounds, int) else None,
    )


def _method_status(result: MethodResult) -> MethodStatus:
    return MethodStatus(
        seed=result.seed,
        method=result.method,
        expected=len(result.clients),
        done=len(result.cells),
        missing=result.missing,
        damaged={str(damage.path): damage.reason for damage in result.damaged},
        diverged=result.count("diverged"),
        no_train=result.count("no_train"),
        no_test=result.count("no_test"),
        mixed=result.mixed,
    )
