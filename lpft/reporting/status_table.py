"""`lpft status`, printed."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lpft.reporting.eta import Eta
from lpft.reporting.job_errors import JobError
from lpft.reporting.status import MethodStatus, RunStatus
from lpft.runtime.progress import duration


def print_table(status: RunStatus) -> None:
    """Print the status of a run or of a sweep."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 80 + 18 * len(status.models)))
    console.print(render_sweep(status) if status.planned else render_status(status), crop=False)


def render_status(status: RunStatus) -> Group:
    """Return the status for `rich.console.Console.print`: one row per method, one column per seed."""
    title = f"{status.name}: {status.root}"
    if not status.models:
        begun = f"{title}: nothing has begun; its jobs are waiting (squeue --me), or have failed at the start"
        return Group(*(Text(line, no_wrap=True, overflow="ignore") for line in [begun, *_last_lines(status)]))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=escape(title))
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
    lines += _last_lines(status)
    return Group(table, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def render_sweep(status: RunStatus) -> Group:
    """Return the status of a sweep: one row per point."""
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
    lines += _last_lines(status)
    return Group(table, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def _last_lines(status: RunStatus, most: int = 5) -> list[str]:
    """Return the errors, how long the rest takes, and where the report is."""
    lines = []
    same: dict[str, list[JobError]] = {}
    for error in status.errors:
        same.setdefault(error.error, []).append(error)
    for text, errors in list(same.items())[:most]:
        others = f" (and {len(errors) - 1} more)" if errors[1:] else ""
        lines += [f"error    {errors[0].where}{others}: {text}", f"         {errors[0].path}"]
    if len(same) > most:
        lines.append(f"         and {len(same) - most} other errors: see --json")
    if status.models or status.points:
        lines += [] if status.complete else [f"left     {_left(status.eta)}"]
    lines.append(f"report   {status.report}" if status.report else "report   not written yet")
    return lines


def _left(eta: Eta) -> str:
    """Describe how long the rest takes."""
    rounds, cells, words = eta.seconds_of_rounds, eta.seconds_of_cells, []
    if rounds != 0:
        words.append("rounds " + ("unknown before the first is finished" if rounds is None else duration(rounds)))
    if cells is None:
        words.append("cells unknown before the first of a trained method is finished")
    elif cells and eta.at_work > 1:
        words.append(f"cells {duration(cells / eta.at_work)} with {eta.at_work} stacks at a time, as now")
    elif cells:
        words.append(f"cells {duration(cells)} with one process")
    return ", then ".join(words) or "nothing but tuning's choice or damaged files"


def _sum_of_cells(parts: list[MethodStatus]) -> str:
    done, expected = sum(part.done for part in parts), sum(part.expected for part in parts)
    notes = [
        f"{number} {name}"
        for name, number in (
            ("running", sum(len(part.running) for part in parts)),
            ("failed", sum(len(part.failed) for part in parts)),
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
        "running": len(part.running),
        "failed": len(part.failed),
        "damaged": len(part.damaged),
        "diverged": part.diverged,
        "no_train": part.no_train,
        "no_test": part.no_test,
    }
    words = [f"{part.done}/{part.expected}", *(f"{number} {name}" for name, number in notes.items() if number)]
    return _colored(", ".join([*words, *(["mixed settings"] if part.mixed else [])]), part.complete)


def _colored(text: str, good: bool) -> str:
    return f"[green]{text}[/]" if good else f"[yellow]{text}[/]"
