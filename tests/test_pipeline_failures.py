"""What fails costs nothing else: other methods, seeds and stacks go on, and the same command repairs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lpft.federated.checkpoint import Checkpoint
from lpft.federated.fedavg import FedAvg
from lpft.methods.base import Method, Phase
from lpft.personalization.jobs import Job
from lpft.personalization.worker import StackWorker
from lpft.reporting.status import read_status
from lpft.storage.run import Run
from lpft.types import DataSpec
from tests.commands import outcome, save_methods, table, toy
from tests.toy import ToyNet

pytestmark = pytest.mark.usefixtures("undrawn")


CONFIGS = Path(__file__).parents[1] / "configs"


class Broken(Method):
    """Fails as soon as it trains."""

    def phases(self, budget: int) -> list[Phase]:
        return [Phase(budget)]

    def penalty(self, params, global_params, memory):
        raise RuntimeError("this method is broken")


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.processes)])
def test_a_failing_method_does_not_stop_the_others(
    finished: Run, devices: int, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("--methods.broken", f"{__name__}.Broken", "--trainer.devices", devices)
    run = toy("run", out, *extra, code=1)
    error = capsys.readouterr().err
    assert "failed: seed 0, broken, clients c1, c2: RuntimeError" in error
    assert "this method is broken" in error
    assert "Run the same command again" in error
    assert "this method is broken" in next(run.root.glob("logs/failed_seed_0_broken_*.txt")).read_text()
    assert run.methods(0) == ["ft", "lpft", "none"]
    assert {row["method"] for row in table(run.root / "results.csv")} == {"ft", "lpft", "none"}
    assert (run.root / "report.html").exists()
    assert {(failure.seed, failure.part) for failure in run.failures()} == {(0, "broken"), (1, "broken")}
    assert outcome(toy("run", out)) == outcome(finished)


def test_the_reason_for_missing_results_is_reported_once(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise FloatingPointError("by a test")

    monkeypatch.setattr(FedAvg, "fit", fail)
    toy("run", out, "--seeds", "[0]", code=1)
    assert capsys.readouterr().err.count("lpft: failed:") == 1


def test_success_is_not_recorded_as_failure(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a seed nor a stack, once it was done at another start."""
    fit, do = FedAvg.fit, StackWorker.do

    def fail(*_: Any, **__: Any) -> Any:
        raise FloatingPointError("by a test")

    monkeypatch.setattr(FedAvg, "fit", fail)
    run = toy("federate", out, "--seeds", "[0]", code=1)
    assert [str(failure) for failure in run.failures()] == ["seed 0, global"]
    monkeypatch.setattr(FedAvg, "fit", fit)
    toy("federate", out, "--seeds", "[0]")
    assert list(run.failures()) == []
    monkeypatch.setattr(StackWorker, "do", fail)
    toy("personalize", out, "--seeds", "[0]", code=1)
    assert len(list(run.failures())) == 9
    monkeypatch.setattr(StackWorker, "do", do)
    toy("personalize", out, "--seeds", "[0]")
    assert list(run.failures()) == []
    assert not list(run.working.iterdir())


def test_a_failing_seed_does_not_stop_the_others(
    finished: Run, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = FedAvg.fit

    def failing(self: FedAvg, *args: Any, **options: Any) -> Checkpoint:
        if self.seed == 0:
            raise FloatingPointError("this seed has failed")
        return fit(self, *args, **options)

    monkeypatch.setattr(FedAvg, "fit", failing)
    run = toy("run", out, code=1)
    assert "failed: this seed has failed" in capsys.readouterr().err
    assert [(row["seed"], row["method"]) for row in table(run.root / "results.csv")] == [
        ("1", method) for method in ("none", "ft", "lpft")
    ]
    assert (run.root / "report.html").exists()
    monkeypatch.undo()
    assert outcome(toy("run", out)) == outcome(finished)


def test_the_name_of_a_job_is_short() -> None:
    names = tuple(f"c{i}" for i in range(20))
    assert str(Job(0, "ft", tuple(range(20)), names)) == "seed 0, ft, clients c0, c1, c2 and 17 more"
    assert str(Job(0, "ft", (3,), ("c3",))) == "seed 0, ft, clients c3"


def test_a_round_in_which_all_clients_diverge_is_reported(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy("run", out, "--federation.optimizer.lr", 1e38, "--trainer.devices", 2, code=1)
    error = capsys.readouterr().err
    assert "In round 1 of seed 0 every client's update has diverged" in error
    assert "HINT: lower the learning rate" in error
    assert "Traceback" not in error


def test_failures_in_a_sweep_name_the_point(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy("run", out, "--seeds", "[0]", "--sweep", "{federation.optimizer.lr: [0.1, 1e38]}", code=1)
    assert "lpft: failed: lr=1e_38: In round 1 of seed 0" in capsys.readouterr().err
    status = read_status(Run(out))
    assert [error.where for error in status.errors] == ["lr=1e_38, seed 0, global"]
    assert [point.complete for point in status.points] == [True, False]


def test_a_global_model_without_features_is_personalized_and_tested(out: Path, tmp_path: Path) -> None:
    """Its last ReLU is dead, so that features and their norms are zero, before and after."""
    net = ToyNet(DataSpec(1, 8, 3), norm=True)
    with torch.no_grad():
        net.body[6].weight.zero_()
        net.body[6].bias.fill_(-1.0)
    torch.save(net.state_dict(), tmp_path / "dead.pt")
    names = ["adabn", "feature_anchor", "ft", "lp", "lpft", "lss", "none", "prior", "rotated", "scaled_head", "soup"]
    names += ["sparse", "stats_mix", "wise_ft"]
    methods = {name: yaml.safe_load((CONFIGS / "methods" / f"{name}.yaml").read_text()) for name in names}
    config = save_methods(tmp_path / "methods.yaml", methods)
    run = toy("run", out, "-c", config, "--federation.init", tmp_path / "dead.pt", "--personalization.epochs", 6)
    assert {row["method"] for row in table(run.root / "results.csv")} == set(names)
    for name in names:
        rows = table(run.method_file(0, name, "clients.csv"))
        assert [float(row["distortion_own"]) for row in rows] == [0.0] * 5
        assert {row["distortion_relative"] for row in rows} == {""}
