"""Everything that is derived from the cells of a run, in one call."""

from __future__ import annotations

from collections.abc import Iterable

from lpft.reporting.results import MethodResult, log, read_results
from lpft.reporting.status import check_is_run
from lpft.reporting.tables import write_method_tables, write_run_tables
from lpft.runs import Run


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
