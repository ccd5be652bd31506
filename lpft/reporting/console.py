"""Prints the comparison of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lpft.evaluation.metric import Metric
from lpft.evaluation.metrics import metric_named, shown_metrics
from lpft.reporting import sentences
from lpft.reporting.analysis import Analysis, swept_keys
from lpft.reporting.experiment import grouped, measure_word, short_keys, word
from lpft.reporting.formatting import listed, mean_text
from lpft.reporting.held_out import HEADER as HELD_OUT_HEADER
from lpft.reporting.held_out import NEW, held_out_rows
from lpft.reporting.references import IN_PROCESS, reference_rows
from lpft.storage.client_result import STATUSES

if TYPE_CHECKING:
    from lpft.reporting.verdicts import NamedVerdict

WIDTH = 118
"""Columns of a file or pipe."""
MANY_LINES = 16
"""Maximum number of printed lines of a verdict, and of incomplete methods in a sweep."""
WITH_VERDICT = ("local", "global_all")
"""The metrics that have a column with the verdict."""
IN_SWEEP = ("local", "global_all")
"""The metrics that the table of a sweep shows."""


def print_comparison(
    analysis: Analysis, page: Path | None = None, console: Console | None = None, verdicts: Sequence[NamedVerdict] = ()
) -> None:
    """Print the comparison of methods with diagnostics, recommendations and the path of the report.

    Args:
        analysis: of the run.
        page: the report, if one was written.
        console: where to print; standard output by default, at least `WIDTH` columns wide if that is not a terminal.
        verdicts: the experiment's verdicts.
    """
    console = _wide(console)
    dispensable = sorted((metric for metric in shown_metrics() if metric.rank < 9), key=lambda metric: metric.rank)
    names = [*(metric.name for metric in dispensable), *(f"verdict {name}" for name in reversed(WITH_VERDICT))]
    left_out = (names[:number] for number in range(len(names) + 1))
    console.print(_first_that_fits(console, (comparison_table(analysis, names) for names in left_out)))
    if len(analysis.held_out):
        console.print(held_out_table(analysis))
    _warn(console, [*incomplete(analysis), *sentences.diagnostic_lines(analysis.diagnostics), *exceptions(analysis)])
    if line := sentences.recommendation_line(analysis.recommendations):
        console.print(f"Recommended by validation data: {line}.", highlight=False)
    _print_end(console, verdicts, page)


def print_sweep(
    points: Sequence[Analysis],
    missing: Sequence[str],
    verdicts: Sequence[NamedVerdict] = (),
    page: Path | None = None,
    console: Console | None = None,
) -> None:
    """Print one line per point of a sweep, the verdicts and the path of the report.

    Args:
        points: points with results.
        missing: names of points without results.
        verdicts: the experiment's verdicts.
        page: the report, if one was written.
        console: where to print; standard output by default, at least `WIDTH` columns wide if that is not a terminal.
    """
    console = _wide(console)
    methods = list(dict.fromkeys(method for point in points for method in point.experiment.complete_methods))
    important = [name for point in points[:1] for pair in point.experiment.pairs for name in reversed(pair)]
    important += [point.experiment.reference for point in points[:1] if point.experiment.reference]
    ranked = sorted(methods, key=lambda method: important.index(method) if method in important else len(important))
    numbers = range(max(1, len(methods)), 0, -1)
    selections = ([method for method in methods if method in ranked[:number]] for number in numbers)
    console.print(_first_that_fits(console, (sweep_table(points, shown, len(methods)) for shown in selections)))
    _warn(console, [f"without results: {', '.join(missing)}"] if missing else [])
    lines = [f"{label}: {line}" for label, line in incomplete_points(points)]
    more = [f"{len(lines) - MANY_LINES} more remarks are in the report"] if len(lines) > MANY_LINES else []
    _warn(console, [*lines[:MANY_LINES], *more])
    _print_end(console, verdicts, page)


def comparison_table(analysis: Analysis, leave_out: Sequence[str] = ()) -> Table:
    """Return one row per method: its means with 95% intervals, and verdicts.

    Variants of a method are grouped under its name.

    Args:
        analysis: of the run.
        leave_out: names of metrics to leave out; ``verdict NAME`` is the verdict about a metric.
    """
    metrics = [metric for metric in shown_metrics() if metric.name not in leave_out]
    with_verdict = [name for name in WITH_VERDICT if f"verdict {name}" not in leave_out]
    table = _new_table()
    table.add_column("method", overflow="fold", max_width=24)
    for title in comparison_header(analysis, metrics, with_verdict):
        table.add_column(escape(title), justify="right", no_wrap=True)
    rows, variants = comparison_rows(analysis, metrics, with_verdict), analysis.experiment.variants
    groups = grouped(list(rows), variants)
    for number, (family, members) in enumerate(groups, 1):
        if family:
            table.add_row(f"[bold]{escape(family)}[/]")
        for method in members:
            name = f"  {variants[method].label}" if family else method
            ends_group = method == members[-1] and number < len(groups)
            table.add_row(escape(name), *rows[method], end_section=ends_group)
    config = analysis.experiment.config
    notes = (percent_note(config), sentences.interval_note(analysis.certainty), in_process_note(config))
    table.caption = " ".join(filter(None, notes))
    if leave_out:
        titles = [metric.title for metric in shown_metrics() if metric.name in leave_out]
        titles += ["verdicts"] if len(with_verdict) < len(WITH_VERDICT) else []
        table.caption += f" A wider terminal also shows {', '.join(titles)}."
    return table


def percent_note(*configs: Mapping[str, Any]) -> str:
    """Name the metric of the percentages.

    >>> percent_note({"evaluation": {"metric": "balanced_accuracy"}})
    'Balanced accuracy in percent.'
    """
    return f"{sentences.capital(measure_word(*configs))} in percent."


def in_process_note(config: Mapping[str, Any]) -> str:
    """Name the rows that were trained during federated training instead of from its final model; empty without any.

    >>> in_process_note({"methods": {"own": {"class_path": "lpft.methods.federated.Ditto"}}})
    'Trained in the process, in a federation of its own: own.'
    """
    names = [name for name, kind in reference_rows(config).items() if kind == IN_PROCESS]
    whose = "its" if len(names) == 1 else "their"
    return f"Trained in the process, in a federation of {whose} own: {', '.join(names)}." if names else ""


def comparison_header(
    analysis: Analysis, metrics: Sequence[Metric] | None = None, with_verdict: Sequence[str] = WITH_VERDICT
) -> list[str]:
    """Return the titles of `comparison_rows`."""
    reference, titles = analysis.certainty.main_reference, []
    for metric in metrics or shown_metrics():
        titles += [metric.title, *([f"{metric.title} vs {reference}"] if metric.name in with_verdict else [])]
    return [*titles, "n"]


def comparison_rows(
    analysis: Analysis, metrics: Sequence[Metric] | None = None, with_verdict: Sequence[str] = WITH_VERDICT
) -> dict[str, list[str]]:
    """Return for every method that is complete for at least one seed its metrics and verdicts as text, and n.

    Args:
        analysis: of the run.
        metrics: the columns; by default all that are shown.
        with_verdict: names of the metrics with a verdict.
    """
    rows, results, certainty = {}, analysis.frames.results, analysis.certainty
    for method, summary in analysis.frames.summary.groupby("method", sort=False):
        method, means = str(method), summary.set_index("metric")["mean"]
        entries = []
        for metric in metrics or shown_metrics():
            entries.append(mean_text(metric, means[metric.name], certainty.estimates[method, metric.name]))
            if metric.name in with_verdict:
                comparison = certainty.comparisons.get((method, certainty.main_reference, metric.name))
                entries.append(comparison.verdict if comparison else "-")
        rows[method] = [*entries, str(results.loc[results["method"] == method, "complete"].sum())]
    return rows


def sweep_table(points: Sequence[Analysis], methods: Sequence[str], num_methods: int) -> Table:
    """Return one row per point: its values, and Local above Global of some of its methods, with 95% intervals."""
    table = _new_table()
    table.show_lines = True
    names = short_keys(swept_keys(points))
    for name in names.values():
        table.add_column(escape(name), justify="right", no_wrap=True)
    for method in methods:
        table.add_column(escape(method), justify="right", overflow="fold", max_width=24)
    table.add_column("n", justify="right", no_wrap=True)
    for point in points:
        values = [escape(word(point.experiment.values.get(key))) for key in names]
        by_metric = [mean_entries(point, methods, metric_named(name)) for name in IN_SWEEP]
        table.add_row(*values, *map("\n".join, zip(*by_metric, strict=True)), num_seeds(point))
    measure = measure_word(*(point.experiment.config for point in points))
    table.caption = (
        f"Local above Global: {measure} in percent, mean ± half of its 95% interval over clients and n seeds."
    )
    if len(methods) < num_methods:
        table.caption += f" {num_methods - len(methods)} more methods are in the report."
    return table


def mean_entries(point: Analysis, methods: Iterable[str], metric: Metric) -> list[str]:
    """Return a metric of every method at a point of a sweep, with its 95% interval."""
    estimates = [point.certainty.estimates.get((method, metric.name)) for method in methods]
    return [mean_text(metric, estimate.mean, estimate) if estimate else "-" for estimate in estimates]


def num_seeds(point: Analysis) -> str:
    """Return the number of seeds for which a method is complete, for a table."""
    return str(point.frames.results.loc[point.frames.results["complete"], "seed"].nunique())


def held_out_table(analysis: Analysis) -> Table:
    """Return the means over clients that took part in federated training, and over new ones."""
    table = _new_table()
    for number, title in enumerate(HELD_OUT_HEADER):
        table.add_column(title, justify="left" if number < 2 else "right", overflow="fold")
    for method, entries in held_out_rows(analysis.held_out):
        table.add_row(*map(escape, (method, *entries)), end_section=entries[0] == NEW)
    table.caption = f'"{NEW}": clients that were held out from federated training.'
    return table


def incomplete(analysis: Analysis) -> list[str]:
    """List the methods and seeds that have no row in the table, one line per reason."""
    results = analysis.frames.results
    methods_of: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for (method, problem), rows in results[~results["complete"]].groupby(["method", "problem"], sort=False):
        methods_of.setdefault((tuple(rows["seed"]), str(problem)), []).append(str(method))
    return [
        f"left out: {', '.join(methods)}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {problem}"
        for (seeds, problem), methods in methods_of.items()
    ]


def incomplete_points(points: Sequence[Analysis]) -> list[tuple[str, str]]:
    """List the same of all points of a sweep, each line with the values of its point."""
    return [(point.experiment.label, line) for point in points for line in incomplete(point)]


def exceptions(analysis: Analysis) -> list[str]:
    """List the clients whose status is not ok, once per status, that do not train on every class, or have no metric."""
    clients = analysis.frames.clients
    lines = []
    for status in STATUSES:
        rows = clients[clients["status"] == status]
        if status != "ok" and len(rows):
            pairs = len(rows[["seed", "method"]].drop_duplicates())
            meaning = sentences.render("statuses", status)
            names = listed(rows["client"].unique())
            lines.append(f"{status}: {names} ({meaning}; for {pairs} pairs of method and seed)")
    num_trained = clients["num_train_classes"]
    few_classes = clients[(num_trained > 0) & (num_trained < clients["num_classes"])]
    if len(few_classes):
        names, classes = few_classes["client"].unique(), few_classes["num_classes"].iloc[0]
        share = f"{len(names)} of {len(analysis.experiment.client_names)} clients"
        lines.append(f"few classes: {listed(names)} ({share} do not train on all {classes} classes)")
    undefined = clients.loc[(clients["status"] == "ok") & clients["local"].isna(), "client"].unique()
    if len(undefined):
        measure = measure_word(analysis.experiment.config)
        share = f"{len(undefined)} of {len(analysis.experiment.client_names)} clients"
        reason = f"{share} have test samples of a single class; excluded from means over test sets"
        lines.append(f"{measure} is undefined: {listed(undefined)} ({reason})")
    return lines


def _warn(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"[yellow]![/] {escape(line)}", highlight=False, soft_wrap=True)


def _print_end(console: Console, verdicts: Sequence[NamedVerdict], page: Path | None) -> None:
    """Print the verdicts, at most `MANY_LINES` lines of each, and the path of the report."""
    for verdict in verdicts:
        for number, line in enumerate(verdict.lines[:MANY_LINES]):
            start = "  " if number else f"[bold]Verdict {escape(verdict.name)}:[/] "
            console.print(start + escape(line), highlight=False, soft_wrap=not console.is_terminal)
        if len(verdict.lines) > MANY_LINES:
            console.print(f"  {len(verdict.lines) - MANY_LINES} more lines are in verdicts.csv.", highlight=False)
    if page is not None:
        console.print(f"Report: {escape(str(page))}", highlight=False, soft_wrap=True)


def _new_table() -> Table:
    """Return an empty table in the style of all printed comparisons."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left", caption_style="dim")


def _wide(console: Console | None) -> Console:
    """Return the console to print to; files and pipes are wide enough for every column."""
    console = console or Console()
    return console if console.is_terminal else Console(file=console.file, width=max(console.width, WIDTH))


def _first_that_fits(console: Console, tables: Iterable[Table]) -> Table:
    """Return the first table that fits the width, or the last one; captions wrap."""
    for table in tables:
        table.caption, caption = None, table.caption
        width = console.measure(table, options=console.options.update(width=1000)).maximum
        table.caption = caption
        if width <= console.width:
            break
    return table
