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

from lpft.evaluation.metric import ClientMetric, Evaluation, Metric, compute_metric
from lpft.evaluation.metrics import CLIENT_METRICS, METRICS, compute_client_metrics, compute_metrics
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


@pytest.mark.usefixtures("_new_metrics")
def test_metrics_of_clients_may_be_computed_from_each_other(tmp_path: Path) -> None:
    CLIENT_METRICS.append(ClientMetric("half", "half", lambda e: e.of_clients("spread") / 2, "Half of it."))
    try:
        clients = write_report(make_run(tmp_path, seeds=(0,), methods=("ft",))).analysis.frames.clients
    finally:
        CLIENT_METRICS.pop()
    assert clients["half"].tolist() == (clients["spread"] / 2).tolist()


@pytest.mark.parametrize("value", ["text", [1.0], np.zeros((5, 5)), object()])
@pytest.mark.parametrize("kind", [Metric, ClientMetric])
def test_results_of_the_wrong_shape_name_the_metric(kind: type[ClientMetric], value: object) -> None:
    with pytest.raises(ValueError, match="metric `own` returned"):
        compute_metric(kind("own", "own", lambda e: value, "Wrong."), Evaluation(np.eye(5)))


def test_undefined_values_may_be_none() -> None:
    evaluation = Evaluation(np.eye(2))
    assert np.isnan(compute_metric(Metric("own", "own", lambda e: None, "Undefined."), evaluation))
    of_clients = compute_metric(ClientMetric("own", "own", lambda e: [None, 1], "Undefined."), evaluation)
    assert of_clients.dtype == np.float64
    assert of_clients.tolist()[1] == 1


@pytest.mark.parametrize("name", ["local", "seed", "client"])
def test_names_of_metrics_are_unique(name: str) -> None:
    evaluation = Evaluation(np.eye(5))
    registries = ((METRICS, Metric, compute_metrics), (CLIENT_METRICS, ClientMetric, compute_client_metrics))
    for registry, kind, compute in registries:
        registry.append(kind(name, name, lambda e: 1.0, "A second one."))  # type: ignore[attr-defined]
        try:
            with pytest.raises(ValueError, match=f"`{name}`.*HINT"):
                compute(evaluation)  # type: ignore[operator]
        finally:
            registry.pop()  # type: ignore[attr-defined]


def test_settings_of_a_metric_are_checked() -> None:
    for wrong in ({"better": "less"}, {"format": "{:.1f}"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Metric("own", "own", lambda e: 1.0, "Wrong.", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`own`.*local"):
        Evaluation(np.eye(2)).of_clients("own")
