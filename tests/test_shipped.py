"""Every shipped experiment runs: a few rounds, one seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpft.runs import Run
from tests.commands import lpft

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = [CONFIGS / "digits.yaml", CONFIGS / "digits_all.yaml", *sorted((CONFIGS / "experiments").glob("*.yaml"))]


@pytest.mark.slow
@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_runs(config: Path, out: Path) -> None:
    lpft("run", "-c", config, "-c", CONFIGS / "sizes" / "smoke.yaml", "--out", out, "--trainer.devices", 1)
    runs = Run(out).points() or [Run(out)]
    assert all((run.root / "results.csv").exists() for run in runs)
    assert (out / "report.html").exists()
