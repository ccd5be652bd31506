"""`lpft status`, printed."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lpft.reporting.experiment import group_by
from lpft.reporting.status import Eta, MethodStatus, RunStatus
from lpft.runtime.progress import duration

MANY_ERRORS = 5
"""Maximum number of different errors that are printed."""


def print_table(status: RunStatus) -> None:
    """Print the status of a run or of a sweep."""
    console = Console()
    if not console.is_terminal:
        longest = max((len(point.root.name) for point in status.points), default=0)
        console = Console(width=max(console.width, 80 + 18 * len(status.models) + longest))
    console.print(render_sweep(status) if status.planned else render_status(status), crop=False)


def render_status(status: RunStatus) -> Group:
    """Return the status for `rich.console.Console.print`: one row per method, one column per seed."""
    if not status.models:
        begun = "nothing has begun; its jobs are waiting (squeue --me), or have failed at the start"
        return _with_lines(status, [f"{status.name}: {status.root}: {begun}"])
    table = _table(status)
    table.add_column("")
    seeds = [model.seed for model in status.models]
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    of_methods = {f"model of {escape(method)}": models for method, models in status.others.items()}
    for name, models in {"global model": status.models, **of_methods}.items():
        table.add_row(name, *(_colored(str(model), model.done) for model in models))
    table.add_section()
    for method in dict.fromkeys(part.method for part in status.methods):
        parts = {part.seed: part for part in status.methods if part.method == method}
        table.add_row(escape(method), *(_cells([parts[seed]], alone=True) if seed in parts else "" for seed in seeds))
    if status.trials or not status.tuned:
        number = len({trial.method for trial in status.trials})
        name = f"tuning, {number} trials" + ("" if status.tuned else ", nothing chosen yet")
        by_seed = [[trial for trial in status.trials if trial.seed == seed] for seed in seeds]
        table.add_row(name, *(_cells(trials) if trials else "" for trials in by_seed))
    damaged = [f"{path}: {reason}" for part in status.methods for path, reason in part.damaged.items()]
    return _with_lines(status, [f"damaged  {line}" for line in damaged], table)


def render_sweep(status: RunStatus) -> Group:
    """Return the status of a sweep: one row per point."""
    table = _table(status)
    for column in ("point", "global models", "cells", "tuning", "report"):
        table.add_column(column, justify="left" if column == "point" else "right", overflow="fold")
    for point in status.points:
        models = sum(model.done for model in point.models)
        untuned = "-" if point.tuned else _colored("missing", False)
        table.add_row(
            escape(point.root.name),
            _colored(f"{models}/{len(point.models)}", models == len(point.models)),
            _cells(point.methods),
            _cells(point.trials) if point.trials else untuned,
            _colored("written", True) if point.report else "-",
        )
    lines = [f"points   {sum(point.complete for point in status.points)} of {status.planned} complete"]
    lines += [f"damaged  {len(p.damaged)} in {q.root}" for q in status.points for p in q.methods if p.damaged]
    return _with_lines(status, lines, table)


def _table(status: RunStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=escape(f"{status.name}: {status.root}"))
    table.title_justify, table.title_style = "left", "bold"
    return table


def _cells(parts: list[MethodStatus], alone: bool = False) -> str:
    """Describe the client results of some methods by their numbers, in detail if there is only one (`alone`)."""
    counts = {
        "running": sum(len(part.running) for part in parts),
        "failed": sum(len(part.failed) for part in parts),
        "damaged": sum(len(part.damaged) for part in parts),
        "diverged": sum(part.diverged for part in parts),
    }
    if alone:
        counts |= {"no_train": parts[0].no_train, "no_test": parts[0].no_test}
    words = [f"{sum(part.done for part in parts)}/{sum(part.expected for part in parts)}"]
    words += [f"{number} {name}" for name, number in counts.items() if number]
    words += ["mixed settings"] if alone and parts[0].mixed else []
    words += ["other settings"] if any(part.outdated for part in parts) else []
    return _colored(", ".join(words), bool(parts) and all(part.complete for part in parts))


def _colored(text: str, good: bool) -> str:
    return f"[green]{text}[/]" if good else f"[yellow]{text}[/]"


def _with_lines(status: RunStatus, lines: list[str], *tables: Table) -> Group:
    """Append errors, the remaining time, and the path of the report."""
    by_text = group_by(status.errors, lambda error: error.error)
    for text, errors in list(by_text.items())[:MANY_ERRORS]:
        others = f" (and {len(errors) - 1} more)" if errors[1:] else ""
        lines += [f"error    {errors[0].where}{others}: {text}", f"         {errors[0].path}"]
    if len(by_text) > MANY_ERRORS:
        lines.append(f"         and {len(by_text) - MANY_ERRORS} other errors: see --json")
    if (status.models or status.points) and not status.complete:
        lines.append(f"left     {_left(status.eta)}")
    lines.append(f"report   {status.report or 'not written yet'}")
    return Group(*tables, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def _left(eta: Eta) -> str:
    """Describe the remaining time."""
    rounds, personalization, words = eta.seconds_of_rounds, eta.seconds_of_cells, []
    if rounds != 0:
        words.append("rounds " + ("unknown before the first is finished" if rounds is None else duration(rounds)))
    if personalization is None:
        words.append("personalization unknown before a client of a trained method is finished")
    elif personalization:
        processes = f"{eta.at_work} stacks at a time, as now" if eta.at_work > 1 else "one process"
        words.append(f"personalization {duration(personalization / max(1, eta.at_work))} with {processes}")
    return ", then ".join(words) or "only the choice of tuned settings, or damaged files"
