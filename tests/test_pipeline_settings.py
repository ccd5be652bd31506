"""Settings of a run from end to end: which results belong to them, and what happens if they change."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from lpft.config.study import open_study
from lpft.reporting.report import write_any_report
from lpft.reporting.status import read_status
from lpft.runtime.heartbeat import Heartbeat, Work
from lpft.storage.run import Run, read_client_result
from tests.commands import TOY, lpft, outcome, table, toy

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_resolved_configuration_makes_the_same_run(finished: Run, out: Path) -> None:
    lpft("run", "-c", finished.config, "--out", out)
    assert outcome(Run(out)) == outcome(finished)


@pytest.mark.processes
def test_other_settings_are_refused_until_they_may_overwrite(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--seeds", "[0]", "--only", "ft")
    toy("run", out, *words)
    toy("run", out, *words, "--federation.rounds", 2, "--personalization.epochs", 3, code=2)
    assert "different are: `federation.rounds`" in capsys.readouterr().err
    toy("run", out, *words, "--personalization.epochs", 3, code=2)
    assert "`personalization.epochs`" in capsys.readouterr().err
    toy("run", out, *words, "--data.source.seed", 1, code=2)
    error = capsys.readouterr().err
    assert "`data.content`" in error
    assert "`data.source.init_args.seed` (0 there, 1 here)" in error
    assert "cache_dir" not in error
    run = toy("run", out, *words, "--personalization.epochs", 3, "--overwrite")
    assert read_client_result(run.cell(0, "ft", "c0")).epochs[-1]["epoch"] == 3
    toy("run", out, *words, "--personalization.epochs", 3, "--trainer.devices", 2, "--name", "other")


def test_another_normalization_changes_the_data(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy("federate", out, "--seeds", "[0]")
    toy("federate", out, "--seeds", "[0]", "--data.std", "[0.25]", code=2)
    assert "different are: `data.std`" in capsys.readouterr().err


def test_weights_are_identified_by_content_not_by_path(out: Path) -> None:
    def network_settings(path: Path) -> Any:
        words = ["--network", "lpft.models.torchvision.TorchvisionNet", "--network.name", "shufflenet_v2_x0_5"]
        words += ["--network.weights", str(path), "--federation.clients_per_stack=1"]
        words += ["--personalization.clients_per_stack=1"]  # to try stacks takes seconds
        (experiment,) = open_study("plan", ["-c", TOY, "--out", str(out), *words]).experiments
        return experiment.global_settings["network"]

    weights = torchvision.models.shufflenet_v2_x0_5(num_classes=3).state_dict()
    for folder in ("a", "b"):
        (out.parent / folder).mkdir(parents=True)
        torch.save(weights, out.parent / folder / "w.pth")
    first = network_settings(out.parent / "a" / "w.pth")
    assert network_settings(out.parent / "b" / "w.pth") == first
    torch.save({**weights, "fc.bias": torch.ones(3)}, out.parent / "b" / "w.pth")
    assert network_settings(out.parent / "b" / "w.pth") != first


def test_a_global_model_of_other_settings_is_not_personalized(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after `federate --overwrite` that was killed: the settings are new, the model is not."""
    run = toy("run", out, "--seeds", "[0]")
    old = run.global_model(0).read_bytes()
    changed = ("--seeds", "[0]", "--federation.rounds", 2, "--overwrite")
    toy("federate", out, *changed)
    run.global_model(0).write_bytes(old)
    toy("personalize", out, *changed, code=2)
    assert "was made with other settings" in capsys.readouterr().err
    run.global_model(0).write_bytes(old[:-9])
    toy("personalize", out, *changed, code=2)
    assert "is damaged" in capsys.readouterr().err


def test_settings_are_never_mixed_across_seeds_and_methods(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy("run", out, "--seeds", "[0]", "--only", "ft")
    toy("run", out, "--seeds", "[1]", "--only", "ft", "--personalization.epochs", 3, code=2)
    assert "`personalization.epochs`" in capsys.readouterr().err
    toy("run", out, "--seeds", "[0]", "--only", "lpft", "--personalization.epochs", 3, code=2)
    toy("run", out, "--seeds", "[1]", "--only", "ft", "--methods.ft.lr", 0.01, code=2)
    assert "`method.init_args.lr`" in capsys.readouterr().err
    toy("run", out, "--seeds", "[1]", "--only", "ft", "--personalization.epochs", 3, "--overwrite")
    assert [row["seed"] for row in table(run.root / "results.csv")] == ["1"]
    assert "left out: ft, seed 0: computed with other settings" in capsys.readouterr().out


def test_settings_without_results_may_change(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a run that was stopped before it had any results, or in which federated training failed."""
    open_study("run", ["-c", TOY, "--out", str(out)])
    changed = ("--seeds", "[0]", "--only", "ft", "--federation.rounds", 1)
    work = Heartbeat(Run(out))
    work.set_work([Work(0, "global", [])])
    while not work.path.exists():
        time.sleep(0.01)
    toy("run", out, *changed, code=2)
    assert "`federation.rounds` (3 there, 1 here)" in capsys.readouterr().err, "another process works on it"
    work.close()
    run = toy("run", out, *changed)
    status = read_status(run)
    assert [model.seed for model in status.models] == [0]
    assert {(part.seed, part.method, part.complete) for part in status.methods} >= {(0, "ft", True)}
    toy("run", out, *changed, "--federation.rounds", 2, code=2)


def test_results_that_overwrite_has_not_replaced_do_not_count(finished: Run, out: Path) -> None:
    """As after `--overwrite` that was interrupted: settings.json is new, and most cells are not."""
    shutil.copytree(finished.root, out)
    toy("personalize", out, "--only", "none,ft", "--personalization.epochs", 2, "--overwrite", "--shard", "1/12")
    run = Run(out)
    write_any_report(run)
    status = read_status(run)
    done = {(part.seed, part.method): part.done for part in status.methods}
    assert 0 < done.pop((0, "none")) < 5
    assert done == {(0, "ft"): 0, (1, "none"): 0, (1, "ft"): 0, (0, "lpft"): 5, (1, "lpft"): 5}
    assert {part.method for part in status.methods if part.outdated} == {"lpft"}, "config.yaml has other settings"
    assert not any(part.complete for part in status.methods)
    assert sum(pace.left for pace in status.eta.cells) == 30 - status.methods[0].done
    assert table(run.root / "results.csv") == []
    assert {row["best_method"] for row in table(run.root / "recommendations.csv")} == {"none"}
    for left in ("seed_0/ft/accuracy.csv", "seed_1/ft/clients.csv"):
        assert not (run.root / left).exists()
    events = {path.parent.relative_to(run.root).as_posix() for path in run.root.glob("*/*/events.out.tfevents.*")}
    assert events == {"seed_0/global", "seed_1/global", "seed_0/none", "seed_0/lpft", "seed_1/lpft"}
    toy("personalize", out, "--personalization.epochs", 2, "--overwrite")
    assert all(part.complete for part in read_status(run).methods)


def test_results_of_former_clients_do_not_count(finished: Run, out: Path) -> None:
    shutil.copytree(finished.root, out)
    fewer = ("--seeds", "[0]", "--data.source.counts", "[20, 33, 40]")
    run = toy("run", out, *fewer, "--overwrite")
    assert run.cell(0, "ft", "c4").exists()
    of_seed = [part for part in read_status(run).methods if part.seed == 0]
    assert [(part.done, part.expected, part.complete) for part in of_seed] == 3 * [(3, 3, True)]
    rows = [row for row in table(run.root / "results.csv") if row["seed"] == "0"]
    assert [row["method"] for row in rows] == ["none", "ft", "lpft"]


def test_damaged_configurations_are_reported_or_written_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy("run", out, "--seeds", "[0]", "--only", "ft")
    before = outcome(run)
    for text in ("", "[]", "{"):
        run.method_file(0, "ft", "settings.json").write_text(text)
        toy("run", out, "--seeds", "[0]", "--only", "ft")
        assert outcome(run) == before
    run.config.write_text("a: [")
    toy("run", out, "--seeds", "[0]", "--only", "ft", code=2)
    assert "is not the configuration of a run" in capsys.readouterr().err
