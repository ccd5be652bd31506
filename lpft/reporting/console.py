"""The comparison of methods, printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lpft.reporting.findings import FEW, advice_line, advice_of, signature_lines, signatures_of
from lpft.reporting.judging import Judged
from lpft.reporting.results import MethodResult, methods_of, read_config
from lpft.reporting.sweeps import Point, grouped, short_keys, variants_of, word
from lpft.reporting.tables import result_rows, summary_rows
from lpft.reporting.words import settings_not_from_the_paper
from lpft.storage.client_result import STATUSES, ClientResult
from lpft.storage.run import Run

COLUMNS = (
    ("local", "Local", "{:.1f}"),
    ("global_all", "Global", "{:.1f}"),
    ("global_others", "others", "{:.1f}"),
    ("worst_row", "worst", "{:.1f}"),
    ("average3", "average3", "{:.1f}"),
    ("distortion_own", "distortion", "{:.2f}"),
)

HEADER = ("method", *(title for _, title, _ in COLUMNS), "hurt", "passes", "seconds", "n")
DISPENSABLE = ("others", "seconds", "average3", "passes", "hurt", "distortion")
"""What a narrow terminal does not show, first things first."""
WIDTH = 118
"""Columns of a file or pipe."""
KEPT = ("ft", "lpft", "none")
"""The methods that a narrow terminal shows of a sweep, the most important first."""
MANY_LINES = 16
"""So many lines of a verdict are printed."""


def print_comparison(
    run: Run,
    results: Sequence[MethodResult],
    page: Path | None = None,
    console: Console | None = None,
    judged: Sequence[Judged] = (),
) -> None:
    """Print the comparison table, what to know before trusting it, and where the page is.

    Args:
        run: the run.
        results: what `write_tables` or `read_results` returned.
        page: the report, if one was written.
        console: where to print; standard output by default, at least `WIDTH` columns wide if that is no terminal.
        judged: what the experiment's verdicts said.
    """
    console = _wide(console)
    console.print(_fitting_table(results, console, read_config(run)))
    for line in remarks(run, results):
        console.print(f"[yellow]![/] {escape(line)}", highlight=False, soft_wrap=True)
    if advice := advice_line(advice_of(results)):
        console.print(f"Advice by validation data: {advice}.", highlight=False)
    print_verdicts(judged, console)
    foreign = settings_not_from_the_paper(read_config(run), len({result.seed for result in results}))
    if foreign:
        console.print(
            f"{len(foreign)} settings not from the paper, listed in the report.", style="dim", highlight=False
        )
    if page is not None:
        console.print(f"Report: {escape(str(page))}", highlight=False, soft_wrap=True)


def print_sweep(
    points: Sequence[Point],
    missing: Sequence[str],
    judged: Sequence[Judged],
    page: Path | None = None,
    console: Console | None = None,
) -> None:
    """Print one line per point of a sweep, what its verdicts said, and where the page is.

    Args:
        points: those with results.
        missing: names of those without.
        judged: what the verdicts said.
        page: the report, if one was written.
        console: where to print; standard output by default, at least `WIDTH` columns wide if that is no terminal.
    """
    console = _wide(console)
    methods = list(dict.fromkeys(method for point in points for method in point.methods))
    order = sorted(methods, key=lambda method: KEPT.index(method) if method in KEPT else len(KEPT))
    for number in range(len(methods), 0, -1):
        shown = [method for method in methods if method in order[:number]]
        table = sweep_table(points, shown)
        table.caption, caption = None, table.caption
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            break
    table.caption = caption
    if len(shown) < len(methods):
        table.caption = f"{caption} {len(methods) - len(shown)} more methods are in the report."
    console.print(table)
    if missing:
        console.print(f"[yellow]![/] without results: {escape(', '.join(missing))}", highlight=False, soft_wrap=True)
    print_verdicts(judged, console)
    if page is not None:
        console.print(f"Report: {escape(str(page))}", highlight=False, soft_wrap=True)


def sweep_table(points: Sequence[Point], methods: Sequence[str]) -> Table:
    """Return one row per point: its values, and Local and Global of every method, mean over the seeds."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left", caption_style="dim")
    names = short_keys(dict.fromkeys(key for point in points for key in point.values))
    for name in names.values():
        table.add_column(escape(name), justify="right", no_wrap=True)
    for method in methods:
        table.add_column(escape(method), justify="right", overflow="fold", max_width=24)
    table.add_column("n", justify="right", no_wrap=True)
    for point in points:
        found = {(row["method"], row["metric"]): row["mean"] for row in summary_rows(point.rows)}
        pairs = [[found.get((method, metric)) for metric in ("local", "global_all")] for method in methods]
        entries = [" / ".join("-" if value is None else f"{value:.1f}" for value in pair) for pair in pairs]
        seeds = {row["seed"] for row in point.rows}
        table.add_row(*(escape(word(point.values.get(key))) for key in names), *entries, str(len(seeds)))
    table.caption = "Local / Global: accuracy in percent, mean over n seeds."
    return table


def print_verdicts(judged: Sequence[Judged], console: Console) -> None:
    """Print what an experiment's verdicts said; of long ones the beginning."""
    for each in judged:
        for number, line in enumerate(each.lines[:MANY_LINES]):
            start = "  " if number else f"[bold]Verdict {escape(each.name)}:[/] "
            console.print(start + escape(line), highlight=False, soft_wrap=not console.is_terminal)
        if len(each.lines) > MANY_LINES:
            console.print(f"  {len(each.lines) - MANY_LINES} more lines are in verdicts.csv.", highlight=False)


def _wide(console: Console | None) -> Console:
    """Return where to print: a file or pipe has room for every column."""
    console = console or Console()
    return console if console.is_terminal else Console(file=console.file, width=max(console.width, WIDTH))


def comparison_table(
    results: Sequence[MethodResult], leave_out: Sequence[str] = (), config: Mapping[str, Any] | None = None
) -> Table:
    """Return one row per method: mean and standard deviation over the seeds where it is complete.

    Args:
        results: what was found on disk.
        leave_out: columns of `HEADER` to do without.
        config: the resolved experiment; variants of a method stand together under its name.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left", caption_style="dim")
    shown = [number for number, title in enumerate(HEADER) if title not in leave_out]
    for number in shown:
        if number == 0:
            table.add_column(HEADER[number], overflow="fold", max_width=24)
        else:
            table.add_column(HEADER[number], justify="right", no_wrap=True)
    rows, variants = dict(comparison_rows(results)), variants_of(config or {})
    groups = grouped(rows, variants)
    for place, (family, members) in enumerate(groups):
        if family:
            table.add_row(f"[bold]{escape(family)}[/]")
        for method in members:
            name = f"  {variants[method].label}" if family else method
            last = method == members[-1] and place < len(groups) - 1
            table.add_row(*([escape(name), *rows[method]][number] for number in shown), end_section=last)
    several = any(entries[-1] != "1" for entries in rows.values())
    table.caption = "Accuracy in percent" + (", mean ± std over n seeds." if several else ".")
    if leave_out:
        table.caption += f" A wider terminal also shows {', '.join(leave_out)}."
    return table


def _fitting_table(results: Sequence[MethodResult], console: Console, config: Mapping[str, Any]) -> Table:
    """Leave out columns until the table fits the terminal."""
    for number in range(len(DISPENSABLE) + 1):
        table = comparison_table(results, DISPENSABLE[:number], config)
        table.caption, caption = None, table.caption
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            break
    table.caption = caption
    return table


def comparison_rows(results: Sequence[MethodResult]) -> list[tuple[str, list[str]]]:
    """Return name and entries (see `HEADER`) of every method that is complete for at least one seed."""
    rows = summary_rows(result_rows(results), methods_of(results))
    methods = dict.fromkeys(row["method"] for row in rows)
    by_method = {method: {row["metric"]: row for row in rows if row["method"] == method} for method in methods}
    return [(method, _entries(summary)) for method, summary in by_method.items()]


def remarks(run: Run, results: Sequence[MethodResult]) -> list[str]:
    """Say what keeps the comparison from being complete or fair: one line per matter, none if all is well."""
    return [*incomplete(results), *signature_lines(signatures_of(run, results)), *exceptions(results)]


def incomplete(results: Iterable[MethodResult]) -> list[str]:
    """Name every method and seed that has no row in the table, with the reason."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if not result.complete:
            seeds.setdefault((result.method, result.problem), []).append(str(result.seed))
    return [f"left out: {method}, {_seeds(which)}: {problem}" for (method, problem), which in seeds.items()]


def _seeds(which: Sequence[str]) -> str:
    return f"seed{'s' if len(which) > 1 else ''} {', '.join(which)}"


def exceptions(results: Iterable[MethodResult]) -> list[str]:
    """Name the clients whose status is not ok, once per status, and those that do not train on every class."""
    results = list(results)
    return [*_not_ok(results), *_few_classes([cell for result in results for cell in result.cells])]


def _few_classes(cells: Iterable[ClientResult]) -> list[str]:
    few = [cell for cell in cells if 0 < (cell.num_train_classes or 0) < (cell.num_classes or 0)]
    if not few:
        return []
    clients = list(dict.fromkeys(cell.client for cell in few))
    share = f"{len(clients)} of {len(few[0].clients)} clients do not train on all {few[0].num_classes} classes"
    return [f"few classes: {_some(clients)} ({share})"]


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:FEW]) + (", ..." if len(every) > FEW else "")


def _not_ok(results: Iterable[MethodResult]) -> list[str]:
    meaning = {
        "diverged": "training diverged; the global model stands in",
        "no_train": "no training samples; the global model stands in",
        "no_test": "no test samples; in no mean over test sets",
    }
    where: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for cell in result.cells:
            if cell.status != "ok":
                where.setdefault((cell.status, cell.client), []).append(f"{result.method}/{result.seed}")
    lines = []
    for status in STATUSES:
        clients = {client: places for (found, client), places in where.items() if found == status}
        if clients:
            places = len({place for places in clients.values() for place in places})
            lines.append(f"{status}: {_some(clients)} ({meaning[status]}; in {places} of the method-seed pairs)")
    return lines


def count(value: float) -> str:
    """Write a large count in few characters.

    >>> count(950), count(12_345), count(6_780_000)
    ('950', '12.3k', '6.78M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def mean_and_std(summary: Mapping[str, Any], form: str, std_form: str = "") -> str:
    """Write a row of summary.csv as ``91.2 ± 0.9``; the deviation only if there are several seeds.

    >>> mean_and_std({"mean": 91.17, "std": 0.9, "n": 3}, "{:.1f}")
    '91.2 ± 0.9'
    """
    if summary["mean"] is None:
        return "-"
    mean = form.format(summary["mean"])
    return f"{mean} ± {(std_form or form).format(summary['std'])}" if summary["n"] > 1 else mean


def _entries(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    figures = [mean_and_std(summary[name], form) for name, _, form in COLUMNS]
    hurt = summary["hurt_share"]["mean"]
    cost = [count(summary[name]["mean"]) for name in ("train_passes", "seconds")]
    return [*figures, "-" if hurt is None else f"{hurt:.0%}", *cost, str(summary["train_passes"]["n"])]
