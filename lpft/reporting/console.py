"""The comparison of methods, printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lpft.evaluation.metrics import Metric, shown_metrics
from lpft.reporting import english
from lpft.reporting.analysis import Analysis
from lpft.reporting.sweeps import grouped, short_keys, word
from lpft.storage.client_result import STATUSES

if TYPE_CHECKING:
    from pandas import DataFrame

    from lpft.reporting.judging import Judged

WIDTH = 118
"""Columns of a file or pipe."""
MANY_LINES = 16
"""So many lines of a verdict are printed."""
IN_SWEEP = ("local", "global_all")
"""The metrics that the table of a sweep shows."""


def print_comparison(
    analysis: Analysis, page: Path | None = None, console: Console | None = None, judged: Sequence[Judged] = ()
) -> None:
    """Print the comparison of methods, what to know before trusting it, recommendations, and where the page is.

    Args:
        analysis: of the run.
        page: the report, if one was written.
        console: where to print; standard output by default, at least `WIDTH` columns wide if that is not a terminal.
        judged: the experiment's verdicts.
    """
    console = _wide(console)
    console.print(_fitting_table(analysis, console))
    for line in remarks(analysis):
        console.print(f"[yellow]![/] {escape(line)}", highlight=False, soft_wrap=True)
    if line := english.recommendation_line(analysis.client_recommendations):
        console.print(f"Recommended by validation data: {line}.", highlight=False)
    print_verdicts(judged, console)
    if page is not None:
        console.print(f"Report: {escape(str(page))}", highlight=False, soft_wrap=True)


def print_sweep(
    points: Sequence[Analysis],
    missing: Sequence[str],
    judged: Sequence[Judged] = (),
    page: Path | None = None,
    console: Console | None = None,
) -> None:
    """Print one line per point of a sweep, its verdicts, and where the page is.

    Args:
        points: those with results.
        missing: names of those without.
        judged: the experiment's verdicts.
        page: the report, if one was written.
        console: where to print; standard output by default, at least `WIDTH` columns wide if that is not a terminal.
    """
    console = _wide(console)
    methods = list(dict.fromkeys(method for point in points for method in point.complete_methods))
    first = [name for point in points[:1] for pair in point.pairs for name in reversed(pair)]
    first += [point.reference for point in points[:1] if point.reference]
    order = sorted(methods, key=lambda method: first.index(method) if method in first else len(first))
    for number in range(len(methods), 0, -1):
        shown = [method for method in methods if method in order[:number]]
        table = sweep_table(points, shown)
        if _fits(table, console):
            break
    if len(shown) < len(methods):
        table.caption = f"{table.caption} {len(methods) - len(shown)} more methods are in the report."
    console.print(table)
    if missing:
        console.print(f"[yellow]![/] without results: {escape(', '.join(missing))}", highlight=False, soft_wrap=True)
    print_verdicts(judged, console)
    if page is not None:
        console.print(f"Report: {escape(str(page))}", highlight=False, soft_wrap=True)


def sweep_table(points: Sequence[Analysis], methods: Sequence[str]) -> Table:
    """Return one row per point: its values, and Local and Global of every method, mean over the seeds."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left", caption_style="dim")
    names = short_keys(list(dict.fromkeys(key for point in points for key in point.values)))
    for name in names.values():
        table.add_column(escape(name), justify="right", no_wrap=True)
    for method in methods:
        table.add_column(escape(method), justify="right", overflow="fold", max_width=24)
    table.add_column("n", justify="right", no_wrap=True)
    for point in points:
        means = point.summary.set_index(["method", "metric"])["mean"]
        pairs = [[means.get((method, metric), float("nan")) for metric in IN_SWEEP] for method in methods]
        entries = [" / ".join("-" if pd.isna(value) else f"{value:.1f}" for value in pair) for pair in pairs]
        num_seeds = point.results[point.results["complete"]]["seed"].nunique()
        table.add_row(*(escape(word(point.values.get(key))) for key in names), *entries, str(num_seeds))
    table.caption = "Local / Global: accuracy in percent, mean over n seeds."
    return table


def print_verdicts(judged: Sequence[Judged], console: Console) -> None:
    """Print an experiment's verdicts; of long ones the beginning."""
    for verdict in judged:
        for number, line in enumerate(verdict.lines[:MANY_LINES]):
            start = "  " if number else f"[bold]Verdict {escape(verdict.name)}:[/] "
            console.print(start + escape(line), highlight=False, soft_wrap=not console.is_terminal)
        if len(verdict.lines) > MANY_LINES:
            console.print(f"  {len(verdict.lines) - MANY_LINES} more lines are in verdicts.csv.", highlight=False)


def comparison_table(analysis: Analysis, leave_out: Sequence[str] = ()) -> Table:
    """Return one row per method: mean and standard deviation over the seeds where it is complete.

    Variants of a method are grouped under its name.

    Args:
        analysis: of the run.
        leave_out: names of metrics to leave out.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left", caption_style="dim")
    metrics = [metric for metric in shown_metrics() if metric.name not in leave_out]
    table.add_column("method", overflow="fold", max_width=24)
    for title in (*(metric.title for metric in metrics), "n"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = comparison_rows(analysis, metrics)
    groups = grouped(list(rows), analysis.variants)
    for place, (family, members) in enumerate(groups):
        if family:
            table.add_row(f"[bold]{escape(family)}[/]")
        for method in members:
            name = f"  {analysis.variants[method].label}" if family else method
            last = method == members[-1] and place < len(groups) - 1
            table.add_row(escape(name), *rows[method], end_section=last)
    several = any(entries[-1] != "1" for entries in rows.values())
    table.caption = "Accuracy in percent" + (", mean ± std over n seeds." if several else ".")
    if leave_out:
        titles = [metric.title for metric in shown_metrics() if metric.name in leave_out]
        table.caption += f" A wider terminal also shows {', '.join(titles)}."
    return table


def comparison_rows(analysis: Analysis, metrics: Sequence[Metric] | None = None) -> dict[str, list[str]]:
    """Return for every method that is complete for at least one seed its metrics as text, and the number of seeds.

    Args:
        analysis: of the run.
        metrics: the columns; by default all that are shown.
    """
    rows = {}
    for method, summary in analysis.summary.groupby("method", sort=False):
        entries = summary.set_index("metric")
        texts = [m.text(*entries.loc[m.name, ["mean", "std", "n"]]) for m in metrics or shown_metrics()]
        of_method = analysis.results[analysis.results["method"] == method]
        rows[str(method)] = [*texts, str(int(of_method["complete"].sum()))]
    return rows


def remarks(analysis: Analysis) -> list[str]:
    """List what keeps the comparison from being complete or fair: one line each, none if all is well."""
    return [*incomplete(analysis), *english.diagnostic_lines(analysis.diagnostics), *exceptions(analysis)]


def incomplete(analysis: Analysis) -> list[str]:
    """List every method and seeds that have no row in the table, with the reason."""
    left_out = analysis.results[~analysis.results["complete"]]
    lines = []
    for (method, problem), rows in left_out.groupby(["method", "problem"], sort=False):
        seeds = ", ".join(map(str, rows["seed"]))
        lines.append(f"left out: {method}, seed{'s' if len(rows) > 1 else ''} {seeds}: {problem}")
    return lines


def exceptions(analysis: Analysis) -> list[str]:
    """List the clients whose status is not ok, once per status, and those that do not train on every class."""
    clients = analysis.clients
    lines = []
    for status in STATUSES:
        rows = clients[clients["status"] == status]
        if status != "ok" and len(rows):
            pairs = len(rows[["seed", "method"]].drop_duplicates())
            meaning = english.say("statuses", status)
            names = english.listed(_unique(rows))
            lines.append(f"{status}: {names} ({meaning}; for {pairs} pairs of method and seed)")
    few = clients[(clients["num_train_classes"] > 0) & (clients["num_train_classes"] < clients["num_classes"])]
    if len(few):
        share = f"{few['client'].nunique()} of {len(analysis.client_names)} clients"
        classes = few["num_classes"].iloc[0]
        lines.append(f"few classes: {english.listed(_unique(few))} ({share} do not train on all {classes} classes)")
    return lines


def _unique(rows: DataFrame) -> Iterable[str]:
    return [str(client) for client in rows["client"].unique()]


def _wide(console: Console | None) -> Console:
    """Return where to print: a file or pipe has room for every column."""
    console = console or Console()
    return console if console.is_terminal else Console(file=console.file, width=max(console.width, WIDTH))


def _fitting_table(analysis: Analysis, console: Console) -> Table:
    """Leave out metrics of low rank until the table fits the terminal."""
    dispensable = sorted((metric for metric in shown_metrics() if metric.rank < 9), key=lambda metric: metric.rank)
    for number in range(len(dispensable) + 1):
        table = comparison_table(analysis, [metric.name for metric in dispensable[:number]])
        if _fits(table, console):
            break
    return table


def _fits(table: Table, console: Console) -> bool:
    """Tell whether a table fits the width; captions wrap."""
    table.caption, caption = None, table.caption
    fits = console.measure(table, options=console.options.update(width=1000)).maximum <= console.width
    table.caption = caption
    return fits
