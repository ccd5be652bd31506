"""What is checked of Slurm's settings, and how a job is requeued; the environment is made up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lpft.runtime import slurm
from lpft.runtime.devices import Devices
from lpft.runtime.launcher import TORCHRUN
from tests.commands import TOY, lpft
from tests.pages import ROOT

TASKS = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "lpft-federate",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2",
    "SLURM_STEP_ID": "0",
}


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASKS.items():
        monkeypatch.setenv(name, value)


def change(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize("command", ["run", "tune", "personalize"])
def test_one_process_commands_refuse_several_tasks(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lpft(command, "-c", TOY, code=2)
    error = capsys.readouterr().err
    assert "SLURM_NTASKS=4" in error
    assert "`srun lpft federate`" in error
    assert "--shard I/N" in error


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SLURM_STEP_ID": None}, ["srun did not start", "srun lpft federate"]),
        ({"SLURM_JOB_NAME": "bash"}, ["job named `bash`", "--job-name"]),
        ({"SLURM_JOB_NAME": "interactive"}, ["job named `interactive`", "--job-name"]),
        ({"SLURM_NTASKS_PER_NODE": None}, ["--ntasks-per-node"]),
        ({}, ["`trainer.devices=1` on `trainer.num_nodes=1`", "--trainer.devices 2 --trainer.num_nodes 2"]),
    ],
)
def test_tasks_that_do_not_fit_are_refused(
    changes: dict[str, str | None], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    change(monkeypatch, **changes)
    lpft("federate", "-c", TOY, code=2)
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error


def check_job(command: str) -> None:
    slurm.check_command(command)
    slurm.check_devices(1, 1)


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(
    ("command", "changes", "symptom"),
    [
        ("run", {}, "is a single process, but"),
        ("federate", {"SLURM_STEP_ID": None}, "but srun did"),
        ("federate", {"SLURM_JOB_NAME": "bash"}, "Lightning does not look"),
        ("federate", {}, "processes, but Slurm has"),
    ],
)
def test_troubleshooting_quotes_the_messages(
    command: str, changes: dict[str, str | None], symptom: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8").split("## Troubleshooting")[1].splitlines()
    quotes = [row.split("`")[1].removeprefix("... ") for row in rows if row.startswith("| `") and symptom in row]
    assert len(quotes) == 1
    change(monkeypatch, **changes)
    with pytest.raises(ValueError, match=re.escape(quotes[0])):
        check_job(command)


@pytest.mark.usefixtures("tasks")
def test_devices_must_equal_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    Devices("cpu", 2, 2).check()
    assert Devices("cpu", 2, 2).launched_by_cluster
    assert Devices("cpu", "auto", 2).count == 2
    for devices, num_nodes in ((1, 4), (4, 1), (1, 2), (2, 1)):
        with pytest.raises(
            ValueError, match=r"Slurm has 4: --nodes=2, --ntasks-per-node=2\. HINT: `--trainer.devices 2"
        ):
            Devices("cpu", devices, num_nodes).check()
    change(monkeypatch, SLURM_NTASKS="3")  # a step of fewer tasks than the job
    with pytest.raises(ValueError, match="are 4 processes, but Slurm has 3"):
        Devices("cpu", 2, 2).check()
    change(monkeypatch, SLURM_NTASKS="1")
    Devices("cpu", 2).check()
    assert not Devices("cpu", 2).launched_by_cluster


@pytest.mark.usefixtures("tasks")
def test_tasks_with_one_visible_gpu_each_get_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are two on each node, as after --gpus-per-task=1."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for devices in (2, "auto"):
        with pytest.raises(ValueError, match=r"`trainer.devices=2`, but there are 1 GPUs. HINT: use `--gres=gpu:N`"):
            Devices("cuda", devices, 2).check()  # type: ignore[arg-type]


def test_several_nodes_need_srun() -> None:
    with pytest.raises(ValueError, match=r"`trainer.num_nodes=2`.*`srun --nodes=2 --ntasks-per-node=3`"):
        Devices("cpu", 3, num_nodes=2).check()


def test_the_plan_does_not_need_the_devices(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU takes larger stacks than a CPU: with stacks for the CPU there would be too many tasks."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sizes = {
        (kind, convolutions): {1e6: 1 if kind == "cpu" else 64} for kind in ("cpu", "cuda") for convolutions in (0, 1)
    }
    monkeypatch.setattr("lpft.clients.stack_size._best_sizes", lambda: sizes)
    monkeypatch.setattr("lpft.clients.stack_size.MIN_STACKS", 1)
    monkeypatch.setattr("lpft.clients.stack_size.MIN_SIZE", 1)
    words = ("--out", out, "--seeds", "[0]", "--personalization.clients_per_stack", "auto", "--trainer.num_nodes", 2)
    counts = []
    for accelerator in ("cpu", "gpu"):
        lpft("plan", "-c", TOY, *words, "--trainer.accelerator", accelerator)
        counts.append(capsys.readouterr().out.splitlines()[-1])
    assert counts[0] == "personalize 15 15"
    assert int(counts[1].split()[1]) < 15
    lpft("run", "-c", TOY, "--out", out, "--trainer.accelerator", "gpu", code=2)
    assert "finds no GPU" in capsys.readouterr().err


def test_torchrun_sets_the_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.setenv(name, "3")
    assert Devices("cpu", "auto", num_nodes=2).count == 3


@pytest.fixture
def scontrol(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_job_and_a_task_of_an_array_are_requeued(monkeypatch: pytest.MonkeyPatch, scontrol: list[list[str]]) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slurm.requeue()
    assert scontrol == []
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    slurm.requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    slurm.requeue()
    monkeypatch.setenv("LPFT_REQUEUE", "0")
    slurm.requeue()
    assert scontrol == [["scontrol", "requeue", "17"], ["scontrol", "requeue", "17_4"]]


def test_forbidden_requeueing_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm.requeue()
    assert "job 17 cannot be requeued" in capsys.readouterr().err
    forbidding = tmp_path / "scontrol"
    forbidding.write_text("#!/bin/sh\necho Access denied >&2\nexit 1\n")
    forbidding.chmod(0o755)
    slurm.requeue()
    assert "(Access denied); submit it again" in capsys.readouterr().err


def test_refusals_are_immediate() -> None:
    """Before torch is imported, in every one of what may be hundreds of tasks."""
    code = "import os, sys; from lpft.cli import main\ntry: main(['run'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"SLURM_NTASKS": "2"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "False\n"


def test_the_plan_counts_what_is_missing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def plan(*words: str) -> list[str]:
        capsys.readouterr()
        lpft("plan", "-c", TOY, "--out", out, "--seeds", "[0]", *words)
        return capsys.readouterr().out.splitlines()

    tuning = ("--tune.trials", "2", "--tune.grids", '{"ft": {"lr": [0.01]}}')
    assert plan() == [f"out {out}", "federate 1 1", "tune 0 0", "personalize 9 9"]
    assert plan(*tuning)[1:] == ["federate 1 1", "tune 6 6", "personalize 12 12"]
    assert not out.exists(), "nothing is written"
    lpft("federate", "-c", TOY, "--out", out, "--seeds", "[0]")
    lpft("personalize", "-c", TOY, "--out", out, "--seeds", "[0]", "--only", "ft")
    next(out.glob("seed_0/ft/cells/*.json")).unlink()
    assert plan() == [f"out {out}", "federate 0 1", "tune 0 0", "personalize 7 9"]
    assert plan("--only", "ft")[3] == "personalize 1 3"
    lpft("plan", "-c", TOY, "--out", out, "--federation.rounds", 2, code=2)
    assert "`federation.rounds`" in capsys.readouterr().err
    lpft("tune", "-c", TOY, "--out", out, "--seeds", "[0]", *tuning)
    assert plan(*tuning)[2:] == ["tune 0 6", "personalize 10 12"]
