"""Everything that is derived from the cells of a run, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lpft.reporting.console import print_comparison, print_sweep
from lpft.reporting.judging import Judged, judge, load_verdicts, write_verdicts
from lpft.reporting.results import MethodResult, log, read_config, read_results
from lpft.reporting.status import check_is_run
from lpft.reporting.sweeps import Point, points_in_order, read_point, write_sweep_csv
from lpft.reporting.tables import write_method_tables, write_run_tables
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run


def write_tables(run: Run) -> list[MethodResult]:
    """Rewrite the tables of a run from its cells: a fraction of a second, nothing heavy is imported.

    Returns:
        What was found, for every seed and method.

    Raises:
        FileNotFoundError: if the folder is no run, or has no cells yet.
    """
    results = results_on_disk(run)
    for result in results:
        if result.cells or result.damaged:
            write_method_tables(run, result)
    write_run_tables(run, results)
    write_sweep_csv(run, [read_point(run, results)])
    return results


def results_on_disk(run: Run) -> list[MethodResult]:
    """Read the cells of a run, log a warning for each damaged one, and refuse a folder without any.

    Raises:
        FileNotFoundError: if the folder is no run, or has no cells yet.
    """
    check_is_run(run)
    results = read_results(run)
    warn_of_damage(results)
    if not any(result.cells for result in results):
        raise FileNotFoundError(
            f"`{run.root}` holds no results of personalized clients."
            " HINT: `lpft run -c FILE` or `lpft personalize -c FILE` computes them."
        )
    return results


def warn_of_damage(results: Iterable[MethodResult]) -> None:
    """Log a warning for every damaged cell, naming the file."""
    for result in results:
        for damage in result.damaged:
            log.warning("%s is left out: %s; the next `lpft personalize` computes it again", damage.path, damage.reason)


@dataclass(frozen=True)
class Report:
    """What `write_report` wrote.

    Args:
        results: what was found, for every seed and method.
        page: report.html.
        figures: the SVG files.
        judged: what the experiment's verdicts said.
    """

    results: list[MethodResult]
    page: Path
    figures: list[Path]
    judged: list[Judged]


def write_report(run: Run, show: bool = False) -> Report:
    """Rewrite tables, figures, TensorBoard events, verdicts and pages of a run from its cells.

    The same cells give the same bytes, however often it is called.

    Args:
        run: the run.
        show: print the comparison, too.

    Returns:
        What was found and written.

    Raises:
        FileNotFoundError: if the folder is no run, or has no cells yet.
        ValueError: if the experiment names a verdict that cannot be imported.
    """
    config = read_config(run)
    verdicts = load_verdicts(config)
    results = write_tables(run)
    from lpft.reporting.figures import draw_figures  # matplotlib and TensorBoard take half a second
    from lpft.reporting.page import make_page, to_html, to_markdown
    from lpft.reporting.sweep_figures import draw_variants
    from lpft.reporting.tensorboard import write_events

    point = read_point(run, results)
    swept = draw_variants(point)
    svgs = {name: svg for name, (*_, svg) in swept.items()} | draw_figures(results, config)
    figures = write_figures(run, svgs)
    write_events(run, results, config)
    judged = judge(verdicts, [point])
    write_verdicts(run, judged)
    captions = {name: (title, text) for name, (title, text, _) in swept.items()}
    page = make_page(run, results, config, svgs, judged, captions)
    write_atomically(run.root / "report.html", to_html(page))
    write_atomically(run.root / "report.md", to_markdown(page))
    report = Report(results=results, page=run.root / "report.html", figures=figures, judged=judged)
    if show:
        print_comparison(run, results, page=report.page, judged=judged)
    return report


def write_sweep_report(run: Run, show: bool = False) -> list[Point]:
    """Rewrite the reports of all points of a sweep, and the table, verdicts and page that compare them.

    Args:
        run: the run that has the points.
        show: print one line per point, too.

    Returns:
        The points that have results.

    Raises:
        FileNotFoundError: if no point has cells yet.
        ValueError: if the experiment names a verdict that cannot be imported.
    """
    config = read_config(run)
    verdicts = load_verdicts(config)
    points, missing = [], []
    for each in points_in_order(run):
        try:
            points.append(read_point(each, write_report(each).results))
        except FileNotFoundError:
            missing.append(each.root.name)
    if not points:
        raise FileNotFoundError(
            f"`{run.root}` is a sweep of which no point has results."
            " HINT: `lpft run -c FILE` or `lpft personalize -c FILE` computes them."
        )
    write_sweep_csv(run, points)
    judged = judge(verdicts, points)
    write_verdicts(run, judged)
    from lpft.reporting.sweep_figures import draw_points
    from lpft.reporting.sweep_page import make_sweep_page, sweep_to_html, sweep_to_markdown

    figures = draw_points(points)
    write_figures(run, {name: svg for name, (*_, svg) in figures.items()})
    page = make_sweep_page(run, points, missing, config, judged, figures)
    write_atomically(run.root / "report.html", sweep_to_html(page))
    write_atomically(run.root / "report.md", sweep_to_markdown(page))
    if show:
        print_sweep(points, missing, judged, page=run.root / "report.html")
    return points


def write_figures(run: Run, svgs: Mapping[str, str]) -> list[Path]:
    """Write the figures to RUN/figures, and take away those that this run no longer has."""
    from lpft.reporting.page import CAPTIONS
    from lpft.reporting.sweep_figures import is_ours

    folder = run.root / "figures"
    for name, svg in svgs.items():
        write_atomically(folder / f"{name}.svg", svg)
    for path in folder.glob("*.svg"):
        if (path.stem in CAPTIONS or is_ours(path.stem)) and path.stem not in svgs:
            path.unlink(missing_ok=True)
    return [folder / f"{name}.svg" for name in svgs]
