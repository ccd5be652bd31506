"""The three stages on a cluster of two nodes, and all that happens to jobs there; the results are a local run's.

The job that waits for its time limit comes first and is looked at last, so that the others run meanwhile.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lpft.reporting.status import read_status
from lpft.storage.run import Run
from tests.commands import lpft, outcome
from tests.slurm.hindered import BREAK, HOLD
from tests.slurm.jobs import CONFIG, Cluster, wait_until

pytestmark = pytest.mark.slurm

SWEEP = ("--sweep", '{"federation.rounds": [2, 3]}')
TUNE = ("--tune.trials", 2, "--tune.grids", '{"lpft": {"lp_epochs": [2]}}')


def log(run: Run, job: str) -> str:
    return "".join(path.read_text() for path in run.root.glob(f"logs/*-{job}*.log"))


def stamps(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.root.glob("**/seed_*/*/cells/*.json")}


def whole_outcome(run: Run) -> dict[str, Any]:
    """Return the outcome of a run, or of each point of a sweep."""
    return {point.root.name: outcome(point) for point in run.points()} or outcome(run)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What the same experiment gives on one machine, without Slurm."""
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def run(*options: Any) -> dict[str, Any]:
        if options not in known:
            out = tmp_path_factory.mktemp("local")
            lpft("run", "-c", CONFIG, "--out", out, *options)
            known[options] = whole_outcome(Run(out))
        return known[options]

    return run


@dataclass
class HeldJob:
    """Federated training that gets a time limit once it is held in its first life, and much time after that."""

    run: Run
    hold: Path
    job: str


@pytest.fixture(scope="module")
def held_job(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldJob]:
    folder = tmp_path_factory.mktemp("held")
    hold = folder / "hold"
    hold.write_text("14")
    jobs = cluster.submit(folder / "run", **{HOLD: hold})
    assert list(jobs) == ["federate", "personalize", "report"]
    job = jobs["federate"]
    over = threading.Event()

    def limit_time() -> None:
        while not over.is_set() and not hold.with_name(f"{job}-0").exists():
            over.wait(0.5)
        hours, minutes, seconds = map(int, cluster.task(job)["RunTime"].split(":"))
        limit = 60 * hours + minutes + (1 if seconds < 20 else 2)  # 40 to 100 s from now
        cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        while not over.is_set() and cluster.task(job)["Restarts"] == "0":
            over.wait(0.5)
        cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=50")

    thread = threading.Thread(target=limit_time)
    thread.start()
    yield HeldJob(Run(folder / "run"), hold, job)
    over.set()
    thread.join()


@pytest.mark.usefixtures("held_job")
def test_three_stages_with_a_failing_stack_then_what_is_missing(
    cluster: Cluster, out: Path, tmp_path: Path, local: Callable[..., dict[str, Any]]
) -> None:
    run, fuse = Run(out), tmp_path / "fuse"
    fuse.touch()
    jobs = cluster.submit(out, *SWEEP, *TUNE, **{BREAK: fuse})
    assert list(jobs) == ["federate", "tune", "personalize", "report"]
    assert cluster.wait(*jobs.values()) == ["COMPLETED", "FAILED"]
    assert cluster.task(jobs["federate"])["NumNodes"] == "2"
    states = {stage: [task["JobState"] for task in cluster.tasks(job)] for stage, job in jobs.items()}
    assert {*states["tune"], *states["report"]} == {"COMPLETED"}
    assert sorted(states["personalize"]) == ["COMPLETED"] * 5 + ["FAILED"]
    assert "a test wanted this stack to fail" in log(run, jobs["personalize"])
    assert re.search(r"error    rounds=\d, seed 0, ft, clients", log(run, jobs["report"]))
    assert (out / "report.html").exists()
    before = stamps(run)
    found = read_status(run)
    failed = [client for point in found.points for part in point.methods for client in part.failed]
    assert 0 < len(failed) <= 2, "one stack of up to two clients"
    assert [error.error for error in found.errors] == ["RuntimeError: a test wanted this stack to fail"]
    assert found.eta.seconds_of_cells > 0

    again = cluster.submit(out, *SWEEP, *TUNE)
    assert list(again) == ["personalize", "report"]
    assert cluster.wait(*again.values()) == ["COMPLETED"]
    assert len(cluster.tasks(again["personalize"])) == 1
    assert before.items() <= stamps(run).items()
    assert read_status(run).complete
    assert whole_outcome(run) == local(*SWEEP, *TUNE)

    assert cluster.submit(out, *SWEEP, *TUNE) == {}


def test_arrays_are_signalled_requeued_killed_and_doubled(
    cluster: Cluster, out: Path, tmp_path: Path, local: Callable[..., dict[str, Any]]
) -> None:
    """Of two arrays on one run one task is stopped, one requeued, one killed; the fourth is left in peace."""
    run, hold = Run(out), tmp_path / "hold"
    lpft("federate", "-c", CONFIG, "--out", out)
    hold.write_text("15")
    first, second = (cluster.submit(out, TWICE="yes", **{HOLD: hold}) for _ in range(2))
    assert list(first) == list(second) == ["personalize", "report"]
    tasks = [f"{jobs['personalize']}_{number}" for jobs in (first, second) for number in (0, 1)]
    wait_until(lambda: all(cluster.task(task)["JobState"] == "RUNNING" for task in tasks), "four tasks run")
    ids = [cluster.task(task)["JobId"] for task in tasks]
    wait_until(lambda: all(hold.with_name(f"{job}-0").exists() for job in ids), "four tasks are held")
    before = stamps(run)
    assert 0 < len(before) < 30
    assert cluster.submit(out) == {}, "both are in the queue"
    wait_until(lambda: read_status(run).eta.at_work == 4, "four tasks say what they work on")
    assert sum(len(part.running) for part in read_status(run).methods) >= 2

    cluster.call("scontrol", "requeue", tasks[1])
    cluster.kill(ids[2])
    cluster.call("scancel", "--signal=USR1", tasks[0])
    wait_until(lambda: "continues later" in log(run, tasks[0]), "the first ends the stack at hand")
    hold.unlink()

    assert cluster.wait(*tasks, first["report"], second["report"]) == ["COMPLETED", "FAILED"]
    assert [cluster.task(task)["JobState"] for task in tasks] == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    assert [cluster.task(task)["Restarts"] for task in tasks] == ["1", "1", "0", "0"]
    assert "stopped by a signal" in log(run, tasks[0])
    assert read_status(run).eta.at_work == 0
    lpft("report", out)  # the first report may have come before the other array's end
    assert outcome(run) == local()
    assert cluster.submit(out) == {}


def test_federated_training_is_stopped_requeued_and_killed(
    held_job: HeldJob, cluster: Cluster, local: Callable[..., dict[str, Any]]
) -> None:
    """By USR1 ahead of the time limit, by `scontrol requeue`, by SIGKILL of the second rank; it is submitted again."""
    run, job = held_job.run, held_job.job
    histories = [run.global_file(seed, "history.csv") for seed in (0, 1)]

    def rounds() -> int:
        return sum(len(path.read_text().splitlines()) - 1 for path in histories if path.exists())

    def is_held(life: int) -> bool:
        return held_job.hold.with_name(f"{job}-{life}").exists()

    wait_until(lambda: is_held(1), "the second life is held")
    done = [rounds()]
    assert f"job {job} continues later" in log(run, job)
    cluster.call("scontrol", "requeue", job)
    wait_until(lambda: is_held(2), "the third life is held")
    done.append(rounds())
    assert [model.running for model in read_status(run).models] == [False, True]
    cluster.kill(job, rank=1)
    assert cluster.wait(job) == ["FAILED"]
    found = read_status(run)
    assert not any(model.running for model in found.models)
    assert "Killed" in "".join(error.error for error in found.errors)
    assert 0 < done[0] < done[1] < 12, "every life gets on"
    assert cluster.task(job)["Restarts"] == "2"
    for number in range(1, done[1] + 1):
        seed, round_ = divmod(number - 1, 6)
        assert log(run, job).count(f"federate seed {seed}: round {round_ + 1}/6") == 1, "no round is done twice"

    held_job.hold.unlink()
    cluster.wait_until_idle()
    jobs = cluster.submit(run.root)
    assert list(jobs) == ["federate", "personalize", "report"]
    assert cluster.wait(*jobs.values()) == ["COMPLETED"]
    assert outcome(run) == local()


def test_several_tasks_of_one_command_are_refused(cluster: Cluster) -> None:
    text = cluster.call(
        "srun", "--ntasks-per-node=2", "--nodes=1", "-n2", "lpft", "run", "-c", CONFIG, code=2,
        PATH=f"{cluster.bin}:{cluster.env['PATH']}",
    )  # fmt: skip
    assert "SLURM_NTASKS=2" in text
    assert "srun lpft federate" in text
