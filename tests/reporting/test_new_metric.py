"""A new entry of the registry is everything that a new metric needs."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fabricate import make_run
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lpft.evaluation.metric import ClientMetric, Metric
from lpft.evaluation.metrics import CLIENT_METRICS, METRICS
from lpft.reporting.console import print_comparison
from lpft.reporting.report import write_report


@pytest.fixture
def _new_metrics() -> Iterator[None]:
    CLIENT_METRICS.append(ClientMetric("spread", "spread", lambda e: np.ptp(e.accuracy, axis=1), "Largest difference."))
    METRICS.append(
        Metric("median", "Median", lambda e: np.median(e.of_clients("spread")), "Median of the spread.", shown=True)
    )
    yield
    METRICS.pop()
    CLIENT_METRICS.pop()


@pytest.mark.usefixtures("_new_metrics")
def test_a_new_metric_shows_up_everywhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"))
    report = write_report(run)

    expected = float(np.median(np.ptp(report.analysis.matrix("ft", 1).to_numpy(), axis=1)))
    with (tmp_path / "results.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if (row["seed"], row["method"]) == ("1", "ft"))
    assert float(row["median"]) == expected
    assert {"median"} <= set(report.analysis.frames.summary["metric"])
    assert "spread" in run.method_file(0, "ft", "clients.csv").read_text().splitlines()[0]
    console = Console(file=io.StringIO(), width=140)
    print_comparison(report.analysis, console=console)
    assert "Median" in console.file.getvalue()  # type: ignore[attr-defined]
    mean = report.analysis.frames.summary.query("metric == 'median' and method == 'ft'")["mean"].item()
    for page in (report.page, tmp_path / "report.md"):
        text = page.read_text(encoding="utf-8")
        assert "Median of the spread." in text
        assert f"{mean:.1f} ±" in text
    events = EventAccumulator(str(run.method_file(1, "ft", ""))).Reload()
    assert events.Scalars("final/median")[0].value == pytest.approx(expected, rel=1e-6)
