"""What is submitted, with stand-ins for Slurm's commands and for lpft."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "slurm").rglob("*") if path.suffix in (".sh", ".sbatch"))
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Submit with so many parts missing; return sbatch's words for each job, and what is printed."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue").touch()

    def command(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(federate: int, tune: int, personalize: int, settings: str = "", *words: str) -> tuple[list[list[str]], str]:
        plan = f"out run\\nfederate {federate} 9\\ntune {tune} 9\\npersonalize {personalize} 99999"
        command("lpft", f'echo "$@" >>lpft.log; printf "{plan}\\n"')
        command("scontrol", 'echo "MaxArraySize            = 1001"')
        command("squeue", f"cat {tmp_path}/queue")
        command("sbatch", 'echo "$@" >>jobs; wc -l <jobs')
        (tmp_path / "jobs").write_text("")
        (tmp_path / "settings.sh").write_text(f"{settings}\n")
        done = subprocess.run(
            [ROOT / "slurm" / "submit.sh", *(words or ("x.yaml", "--", "--seeds", "[0]"))],
            env={**os.environ, "LPFT_SETTINGS": "settings.sh"},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split() for line in (tmp_path / "jobs").read_text().splitlines()], done.stdout

    return run


def test_every_stage_waits_for_the_one_before(submit) -> None:
    jobs, text = submit(3, 9, 99)
    stages = ("federate", "tune", "personalize", "report")
    assert [job[1] for job in jobs] == [f"--job-name=lpft-{stage}" for stage in stages]
    assert not [word for word in jobs[0] if word.startswith("--dependency")]
    assert "--dependency=afterok:1" in jobs[1]
    assert "--dependency=afterok:2" in jobs[2]
    assert "--dependency=afterany:3" in jobs[3]
    assert all("--kill-on-invalid-dep=yes" in job for job in jobs[1:])
    assert all("--signal=USR1@300" in job for job in jobs)
    assert text.splitlines()[2] == "run: personalize is job 3"
    assert Path("run/logs").is_dir()
    assert [words[words.index("--seeds") + 1] for words in jobs[:3]] == ["[0]"] * 3


@pytest.mark.parametrize(
    ("missing", "settings", "array"),
    [
        (99, "", "--array=0-24%50"),
        (1, "", "--array=0-0%50"),
        (3, "STACKS_PER_TASK=1 MAX_RUNNING=2", "--array=0-2%2"),
        (99999, "", "--array=0-499%50"),
        (99999, "MAX_TASKS=9000", "--array=0-1000%50"),
    ],
)
def test_the_number_of_tasks_follows_from_the_work(submit, missing: int, settings: str, array: str) -> None:
    jobs, _ = submit(0, 0, missing, settings)
    assert len(jobs) == 2
    assert array in jobs[0]
    tasks = int(array.removeprefix("--array=0-").partition("%")[0]) + 1
    assert jobs[0][jobs[0].index("personalize") + 1] == str(tasks)


def test_completed_work_is_not_submitted(submit) -> None:
    Path("run/seed_0/ft/cells").mkdir(parents=True)
    assert [job[-1] for job in submit(0, 0, 0)[0]] == ["run"], "the report alone"
    Path("run/report.html").touch()
    assert submit(0, 0, 0) == ([], "run: nothing is missing\n")
    os.utime("run/report.html", (0, 0))
    Path("run/seed_0/ft/cells/c0.json").touch()
    assert len(submit(0, 0, 0)[0]) == 1


def test_gpus_precision_and_options_of_the_user(submit) -> None:
    settings = "GPUS=yes NODES=2 TASKS_PER_NODE=4 PRECISION=bf16-mixed\nARRAY_OPTIONS=(--time=5 --gres=gpu:a100:1)"
    (federate, personalize, report), _ = submit(1, 0, 8, settings)
    assert {"--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4"} <= set(federate)
    assert personalize.index("--gres=gpu:1") < personalize.index("--gres=gpu:a100:1"), "the last one counts"
    for job in (federate, personalize):
        assert "--trainer.accelerator gpu" in " ".join(job)
        assert "--trainer.precision bf16-mixed" in " ".join(job)
    assert not [word for word in report if word.startswith("--gres")]
    assert "--trainer.accelerator gpu" in Path("lpft.log").read_text(), "the plan is made for GPUs"


def test_a_run_is_submitted_by_its_folder(submit) -> None:
    Path("run").mkdir()
    jobs, _ = submit(1, 0, 0, "", "run", "other.yaml")
    assert len(jobs) == 4
    assert "-c run/config.yaml --out run" in " ".join(jobs[0])
    assert "-c other.yaml" in " ".join(jobs[2])


def test_queued_work_is_not_submitted_again(submit, tmp_path: Path) -> None:
    """Of jobs that belong to this run; another run's name may begin alike."""
    Path("queue").write_text(f"11 lpft {tmp_path}/run2\n12 (null)\n")
    jobs, _ = submit(1, 0, 8)
    assert len(jobs) == 3
    assert f"--comment=lpft {tmp_path}/run" in " ".join(jobs[0])
    Path("queue").write_text(f"13 lpft {tmp_path}/run\n14 lpft {tmp_path}/run\n14 lpft {tmp_path}/run\n")
    jobs, text = submit(1, 0, 8)
    assert jobs == []
    assert "its jobs are in the queue: 13 14." in text
    assert len(submit(1, 0, 8, "WHILE_QUEUED=yes")[0]) == 3


def test_an_unknown_command_is_reported(tmp_path: Path) -> None:
    (tmp_path / "settings.sh").write_text("load_lpft() { echo $NO_SUCH_VARIABLE; }\n")
    done = subprocess.run(
        [ROOT / "slurm" / "submit.sh", "x.yaml"],
        env={"PATH": "/usr/bin:/bin", "LPFT_SETTINGS": str(tmp_path / "settings.sh")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"HINT: load_lpft in {tmp_path}/settings.sh" in done.stderr


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_examples_can_be_copied_and_named(submit, name: str) -> None:
    example = (ROOT / "slurm" / "examples" / f"{name}.sh").read_text()
    jobs, _ = submit(1, 0, 8, example + "module() { :; }; source() { :; }")
    assert "--nodes=2" in jobs[0]
    assert any(word.startswith("--time=") for job in jobs for word in job)
    assert ("--gres=gpu:1" in jobs[1]) == (name == "gpu")


def test_without_an_experiment_usage_is_printed() -> None:
    done = subprocess.run([ROOT / "slurm" / "submit.sh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "slurm/submit.sh CONFIG|RUN" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed; the extra `dev` has it")
    subprocess.run([SHELLCHECK, "-x", script], cwd=ROOT, check=True)
