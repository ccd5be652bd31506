"""Writing the report of a run or a sweep: everything that is derived from its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lpft.reporting.analysis import Analysis, Sweep, analyze_results, analyze_sweep
from lpft.reporting.tables import write_all_tables, write_sweep_table, write_verdicts
from lpft.reporting.verdicts import NamedVerdict, apply_verdicts, load_verdicts
from lpft.storage.run import Run

if TYPE_CHECKING:
    from lpft.reporting.logs import Writer


@dataclass(frozen=True)
class Report:
    """A written report.

    Args:
        analysis: analysis of the run.
        page: path of report.html.
        figures: paths of the SVG files.
        verdicts: verdicts of the experiment.
    """

    analysis: Analysis
    page: Path
    figures: list[Path]
    verdicts: list[NamedVerdict]


def write_any_report(folder: Run | str | Path, writers: Sequence[Writer] = (), show: bool = False) -> None:
    """Write the report of a run or of a sweep; see `write_report` and `write_sweep_report`."""
    run = folder if isinstance(folder, Run) else Run(folder)
    run.remove_leftovers()
    try:
        if run.points():
            write_sweep_report(run, writers, show)
        else:
            write_report(run, writers, show)
    finally:
        for writer in writers:
            writer.close()


def write_tables(run: Run) -> Analysis:
    """Rewrite the tables of a run from its results, without slow imports.

    Raises:
        FileNotFoundError: if the folder is not a run, or has no results yet.
    """
    analysis = analyze_results(run)
    write_all_tables(analysis)
    return analysis


def write_report(run: Run, writers: Sequence[Writer] = (), show: bool = False) -> Report:
    """Rewrite tables, figures, TensorBoard events, verdicts and pages of a run from its results.

    Equal results give equal bytes.

    Args:
        run: the run.
        writers: writers of logs in addition to TensorBoard.
        show: whether to print the comparison.

    Raises:
        FileNotFoundError: if the folder is not a run, or has no results yet.
        ValueError: if the experiment names a verdict that cannot be imported.
    """
    report = _report(analyze_results(run), writers)
    if show:
        from lpft.reporting.console import print_comparison

        print_comparison(report.analysis, page=report.page, verdicts=report.verdicts)
    return report


def _report(analysis: Analysis, writers: Sequence[Writer]) -> Report:
    from lpft.reporting.drawing import write_figures  # matplotlib takes half a second
    from lpft.reporting.figures import drawings
    from lpft.reporting.logs import final_logs
    from lpft.reporting.page import write_page
    from lpft.reporting.tensorboard import EventFiles, remove_other_events

    functions = load_verdicts(analysis.experiment.config)
    write_all_tables(analysis)
    figures = drawings(analysis)
    paths = write_figures(analysis.run, figures)
    folders = set()
    for log in final_logs(analysis):
        folders.add(log.folder)
        for writer in (EventFiles(), *writers):
            writer.write(log)
    remove_other_events(analysis.run, folders)
    verdicts = apply_verdicts(functions, [analysis])
    write_verdicts(analysis.run, verdicts)
    return Report(analysis, write_page(analysis, figures.values(), verdicts), paths, verdicts)


def write_sweep_report(run: Run, writers: Sequence[Writer] = (), show: bool = False) -> Sweep:
    """Rewrite the reports of all points of a sweep, and the table, verdicts and page that compare them.

    Args:
        run: the run that contains the points.
        writers: writers of logs in addition to TensorBoard.
        show: whether to print one line per point.

    Raises:
        FileNotFoundError: if no point has results yet.
        ValueError: if the experiment names a verdict that cannot be imported.
    """
    from lpft.reporting.drawing import write_figures  # matplotlib takes half a second
    from lpft.reporting.page import write_sweep_page
    from lpft.reporting.sweep_figures import point_drawings

    sweep = analyze_sweep(run)
    functions = load_verdicts(sweep.config)
    for point in sweep.points:
        _report(point, writers)
    write_sweep_table(run, sweep.points)
    verdicts = apply_verdicts(functions, sweep.points)
    write_verdicts(run, verdicts)
    figures = point_drawings(sweep.points)
    write_figures(run, figures)
    page = write_sweep_page(sweep, figures.values(), verdicts)
    if show:
        from lpft.reporting.console import print_sweep

        print_sweep(sweep.points, sweep.missing, verdicts, page=page)
    return sweep
