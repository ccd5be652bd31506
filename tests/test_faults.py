"""When things go wrong: every kind of fault is injected, and results are right, or the error is clear; nothing is lost.

What goes wrong with data is in tests/data, with Slurm in tests/test_slurm.py and tests/slurm.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Generator

from lpft.federated.local import LocalTrainer
from lpft.methods.base import HeadData
from lpft.methods.ft import FT
from lpft.personalization.worker import StackWorker
from lpft.runtime.processes import leave_with_parent
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run, read_client_result
from lpft.types import StackUpdate, State
from tests.commands import TOY, lpft, outcome, table, toy
from tests.damage import flipped
from tests.forked import FORK, Forked, running, wait_until, without_privileges

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
    pytest.mark.usefixtures("undrawn"),
]

SLOWER = ("--federation.rounds", 12, "--personalization.epochs", 12)


def finish(out: Path) -> Run:
    """Do what is missing, but for the report."""
    toy("federate", out)
    return toy("personalize", out)


def contents(run: Run) -> dict[Path, bytes]:
    """Return all that is finished: global models, cells and personalized models."""
    found = [path for pattern in ("cells/*.json", "*/*.safetensors") for path in run.root.glob(f"seed_*/*/{pattern}")]
    found += run.root.glob("seed_*/global/*.safetensors")
    return {path: path.read_bytes() for path in found}


# A process, or all, are killed

MOMENTS = {
    "federate": lambda run: run.global_file(0, "checkpoint.pt").exists(),
    "personalize": lambda run: len(list(run.root.glob("seed_*/*/cells/*.json"))) > 2,
}


@pytest.mark.parametrize("stage", MOMENTS)
@pytest.mark.parametrize("victim", ["main process", "one of the others"])
def test_a_killed_process_ends_all_and_loses_nothing(
    victim: str, stage: str, finished: Run, out: Path, tmp_path: Path
) -> None:
    """Held up a little, so that it does not end before it is killed."""
    run = Run(_copied(finished, out, "seed_*/global/*" if stage == "personalize" else "none"))
    process = Forked(
        *(stage, "-c", TOY, "--out", out, "--trainer.devices", 2),
        log=tmp_path / "log",
        before=lambda: write_slowly(0.1),
    )
    wait_until(lambda: MOMENTS[stage](run) or not process.alive())
    if victim == "main process":
        assert process.kill(everyone=False), "it ended before it could be killed"
    else:
        os.kill(process.children()[-1], signal.SIGKILL)
        assert process.code() == 1
        assert "finished results are kept. Run the same command again" in process.said()
        assert "Traceback" not in process.said()
    wait_until(lambda: not process.alive(), seconds=5)
    before = contents(run)
    assert len(before) < len(contents(finished)), "it was killed too late"
    finish(out)
    assert before.items() <= contents(run).items()
    assert outcome(run) == outcome(finished)


@pytest.mark.parametrize(
    ("stage", "devices", "number"),
    [
        ("federate", 1, signal.SIGTERM),
        ("federate", 2, signal.SIGINT),
        ("federate", 2, signal.SIGTERM),
        ("personalize", 1, signal.SIGTERM),
        ("personalize", 2, signal.SIGINT),
        ("personalize", 2, signal.SIGHUP),
    ],
)
def test_an_interrupted_command_ends_all_and_loses_nothing(
    stage: str, devices: int, number: signal.Signals, finished: Run, out: Path, tmp_path: Path
) -> None:
    """The signal comes to the main process alone."""
    run = Run(_copied(finished, out, "seed_*/global/*" if stage == "personalize" else "none"))
    process = Forked(
        *(stage, "-c", TOY, "--out", out, "--trainer.devices", devices),
        log=tmp_path / "log",
        before=lambda: write_slowly(0.1),
    )
    try:
        wait_until(lambda: MOMENTS[stage](run) or not process.alive())
        process.send(number)
        assert process.code(20) == 128 + number, process.said()
        wait_until(lambda: not process.alive(), seconds=5)
    finally:
        process.kill(everyone=True)
    assert "interrupted; finished results are kept. Run the same command again" in process.said()
    assert "Traceback" not in process.said()
    before = contents(run)
    assert len(before) < len(contents(finished)), "it was interrupted too late"
    finish(out)
    assert before.items() <= contents(run).items()
    assert outcome(run) == outcome(finished)


def test_a_signal_that_the_caller_ignores_stays_ignored(out: Path, tmp_path: Path) -> None:
    """As Ctrl-C in jobs in the background of a script, and HUP below nohup."""
    ignored = (signal.SIGINT, signal.SIGHUP)

    def ignoring() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    process = Forked("federate", "-c", TOY, "--out", out, "--trainer.devices", 2, log=tmp_path / "log", before=ignoring)
    try:
        wait_until(lambda: MOMENTS["federate"](Run(out)) or not process.alive())
        for number in ignored:
            process.send(number, everyone=True)
        assert process.code() == 0, process.said()
    finally:
        process.kill(everyone=True)


def write_slowly(seconds: float) -> None:
    """Let every file take its time to get to its place."""
    replace = Path.replace

    def replacing(self: Path, target: Path) -> Path:
        time.sleep(seconds)
        return replace(self, target)

    Path.replace = replacing  # type: ignore[method-assign, assignment]


def test_a_process_whose_parent_has_already_ended_ends() -> None:
    """Killed between the fork and the first look at it: who the parent was is no longer known from the system."""
    process = FORK.Process(target=lambda: (leave_with_parent(2**22 + 1), time.sleep(60)))
    process.start()
    process.join(10)
    assert process.exitcode == 1


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_a_process_ends_soon_after_its_parent(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows does not say that a parent has ended: there, its handle does."""
    monkeypatch.setattr(sys, "platform", platform)
    reading, writing = FORK.Pipe(duplex=False)

    def work(parent: int) -> None:
        leave_with_parent(parent)
        writing.send(os.getpid())
        time.sleep(60)

    def start() -> None:
        FORK.Process(target=work, args=(os.getpid(),)).start()
        time.sleep(60)

    middle = FORK.Process(target=start)
    middle.start()
    pid = reading.recv()
    middle.kill()
    middle.join(10)
    try:
        wait_until(lambda: not running(pid), seconds=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def die_at_write(number: int, after: bool) -> None:
    """Let this process kill itself at the write of a result, before or after the file is renamed to its place."""
    replace, written = Path.replace, iter(range(1, number + 1))

    def replacing(self: Path, target: Path) -> Path:
        if not {"global", "cells", "models"} & set(target.parts):
            return replace(self, target)
        last = next(written) == number
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(self, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return target

    Path.replace = replacing  # type: ignore[method-assign, assignment]


def test_killed_at_every_few_writes(finished: Run, out: Path, tmp_path: Path) -> None:
    """Each start does a few writes more; there are 76 of checkpoints, histories, models and cells."""
    rng, run, kills = random.Random(0), Run(out), 0
    before: dict[Path, bytes] = {}
    for stage in ("federate", "personalize"):
        while True:
            number, after = rng.randint(3, 10), rng.random() < 0.5
            words = (stage, "-c", TOY, "--out", out)
            process = Forked(*words, log=tmp_path / "log", before=partial(die_at_write, number, after))
            code = process.code()
            now = contents(run)
            assert before.items() <= now.items(), "something finished was lost"
            before = now
            if code == 0:
                break
            assert code == -signal.SIGKILL, process.said()
            kills += 1
    assert 8 <= kills <= 40
    assert outcome(run) == outcome(finished)


def test_temporary_files_of_killed_processes_are_removed_after_a_day(finished: Run, out: Path, tmp_path: Path) -> None:
    run = Run(_copied(finished, out, "**/c0.json"))
    words = ("federate", "-c", TOY, "--out", out)
    for number in (1, 2):
        killed = Forked(*words, log=tmp_path / "log", before=partial(die_at_write, number, False))
        assert killed.code() == -signal.SIGKILL
    old, young = sorted(run.root.rglob(".*.tmp"))
    os.utime(old, (0, 0))
    lpft("report", out)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Thirty kills, of the main process or of all, at any moment from the start of the command to the last report."""
    rng = random.Random()
    words = ("run", "-c", TOY, "--trainer.devices", 2, *SLOWER)
    began = time.monotonic()
    assert Forked(*words, "--out", tmp_path / "whole", log=tmp_path / "log").code() == 0
    duration, expected = time.monotonic() - began, outcome(Run(tmp_path / "whole"))
    kills, equal, stages = 0, [], {"federate": 0, "personalize": 0, "report": 0}
    while kills < 30:
        run = Run(tmp_path / str(len(equal)))
        for _ in range(3):  # of one run, unless it is finished before
            process = Forked(*words, "--out", run.root, log=tmp_path / "log")
            assert process.code(rng.uniform(0, duration)) in (0, None), process.said()
            in_time = process.kill(everyone=rng.random() < 0.5)
            wait_until(lambda: not process.alive(), seconds=5)  # noqa: B023
            if not in_time:
                break
            kills += 1
            stages[_stage(run)] += 1
        again = Forked(*words, "--out", run.root, log=tmp_path / "log")
        assert again.code() == 0, again.said()
        equal.append(outcome(run) == expected)
    print(f"{kills} kills ({stages}), {sum(equal)} of {len(equal)} runs equal to the uninterrupted one")
    assert all(equal)


def _stage(run: Run) -> str:
    """Return how far a run has come."""
    if not all(run.global_model(seed).exists() for seed in (0, 1)):
        return "federate"
    return "personalize" if len(list(run.root.glob("seed_*/*/cells/*.json"))) < 30 else "report"


# A result file is cut off or edited


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "flipped": lambda content: flipped(content, len(content) // 2),
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", ["cut off", "flipped"])
def test_a_damaged_file_is_reported_and_written_again(
    damage: str, finished: Run, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every kind one: the global model, a cell, a personalized model; and all that is derived from them."""
    run = Run(_copied(finished, out))
    results = [run.global_model(1), run.cell(0, "ft", "c2"), run.model(1, "lpft", "c4")]
    derived = [run.root / "results.csv", run.root / "summary.csv", run.root / "report.html"]
    derived += [run.method_file(0, "ft", name) for name in ("accuracy.csv", "clients.csv", "curves.csv")]
    damaged = {path: DAMAGES[damage](path.read_bytes()) for path in [*results, *derived]}
    for path, content in damaged.items():
        path.write_bytes(content)
    toy("run", out)
    for path in results:
        assert caplog.text.count(f"{path} is damaged") == 1
    assert outcome(run) == outcome(finished)
    assert not any(path.read_bytes() == content for path, content in damaged.items())


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_does_not_resume_from_a_damaged_checkpoint(
    damage: str, finished: Run, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint is that of round 2."""
    killed = Forked("federate", "-c", TOY, "--out", out, log=tmp_path / "log", before=lambda: die_at_write(4, True))
    assert killed.code() == -signal.SIGKILL
    run = Run(out)
    path = run.global_file(0, "checkpoint.pt")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    toy("federate", out)
    assert f"{path} is damaged" in caplog.text
    assert [run.global_model(seed).read_bytes() for seed in (0, 1)] == [
        finished.global_model(seed).read_bytes() for seed in (0, 1)
    ]


def test_a_result_of_another_client_seed_or_method_is_not_used(
    finished: Run, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings, and hence fingerprints, are the same for all clients and seeds."""
    run = Run(_copied(finished, out))
    run.cell(0, "ft", "c1").write_bytes(run.cell(0, "ft", "c2").read_bytes())
    run.cell(1, "none", "c0").write_bytes(run.cell(0, "none", "c0").read_bytes())
    finish(out)
    assert "it is the cell of seed 0, method ft, client c2" in caplog.text
    assert "it is the cell of seed 0, method none, client c0" in caplog.text
    assert outcome(run) == outcome(finished)


def _copied(run: Run, out: Path, pattern: str = "**/*") -> Path:
    for path in run.root.glob(pattern):
        if path.is_file():
            place = out / path.relative_to(run.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return out


# Loss becomes NaN in one client


class OneNaN(FT):
    """Fine-tuning in which the client with 33 training samples, c1, has a NaN from the start."""

    starts_head = True

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        return {name: t * float("nan") for name, t in head.items()} if len(data.labels) == 33 else head


@pytest.mark.parametrize("size", [1, 2])
def test_one_diverged_client_does_not_affect_the_others(size: int, out: Path) -> None:
    """c1 shares its stack with c2."""
    words = ("--seeds", "[0]", "--personalization.clients_per_stack", size, "--methods.nan", f"{__name__}.OneNaN")
    run = toy("run", out, "--only", "none,ft,nan", *words)
    struck, none = read_client_result(run.cell(0, "nan", "c1")), read_client_result(run.cell(0, "none", "c1"))
    assert struck.status == "diverged"
    assert (struck.accuracy, struck.val_after, struck.distortion_own) == (none.accuracy, none.val_before, None)
    theirs, ours = load_file(run.model(0, "nan", "c1")), load_file(run.global_model(0))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    for client in ("c0", "c2", "c3", "c4"):
        cell, plain = read_client_result(run.cell(0, "nan", client)), read_client_result(run.cell(0, "ft", client))
        assert (cell.status, cell.accuracy, cell.distortion_all) == ("ok", plain.accuracy, plain.distortion_all)
        one, other = load_file(run.model(0, "nan", client)), load_file(run.model(0, "ft", client))
        assert all(torch.equal(one[name], other[name]) for name in one)
    status = {row["client"]: row["status"] for row in table(run.method_file(0, "nan", "clients.csv"))}
    assert [name for name, text in status.items() if text == "diverged"] == ["c1"]
    assert "diverged" in (run.root / "report.md").read_text()


def test_an_update_that_is_not_finite_has_no_weight(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In round 2 of seed 0 client c2 sends NaN; the same for one process and for two."""
    train = LocalTrainer.train

    def struck(self: LocalTrainer, clients: list[int], state: State, round_: int, **more: Any) -> StackUpdate:
        update = train(self, clients, state, round_, **more)
        if (self.seed, round_) == (0, 2) and 2 in clients:
            update.state["head.bias"][clients.index(2), 0] = float("nan")
        return update

    monkeypatch.setattr(LocalTrainer, "train", struck)
    one = toy("federate", out)
    assert caplog.messages == ["seed 0, round 2: client c2 has diverged and is left out of the round's average"]
    assert all(tensor.isfinite().all() for tensor in load_file(one.global_model(0)).values())
    two = toy("federate", tmp_path / "two", "--trainer.devices", 2)
    assert contents(one).keys() == {one.root / path.relative_to(two.root) for path in contents(two)}
    assert list(contents(one).values()) == list(contents(two).values())


# Two processes get the same cell


def test_two_processes_on_one_run_equal_one(finished: Run, out: Path, tmp_path: Path) -> None:
    """Both have computed the first stack before either writes."""
    together = FORK.Barrier(2)

    def meet() -> None:
        save = StackWorker._save

        def first_save(self: StackWorker, cell: ClientResult, state: State) -> None:
            together.wait(60)
            StackWorker._save = save  # type: ignore[method-assign]
            save(self, cell, state)

        StackWorker._save = first_save  # type: ignore[method-assign]

    words = ("personalize", "-c", TOY, "--out", _copied(finished, out, "seed_*/global/*"))
    both = [Forked(*words, log=tmp_path / str(number), before=meet) for number in (0, 1)]
    assert [process.code() for process in both] == [0, 0], [process.said() for process in both]
    assert not together.broken
    assert outcome(Run(out)) == outcome(finished)
    assert not list(out.rglob("*.tmp"))


# The disk is full, the folder read-only


def full_disk(limit: int = 3500) -> None:
    """Let no file grow beyond a limit in bytes, fewer than a model has."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("stage", ["federate", "personalize", "report"])
def test_a_full_disk_is_reported_and_loses_nothing(
    stage: str, devices: int, finished: Run, out: Path, tmp_path: Path
) -> None:
    run = Run(_copied(finished, out))
    _undo(run, stage)
    before = contents(run)
    words = ["report", out] if stage == "report" else [stage, "-c", TOY, "--out", out, "--trainer.devices", devices]
    struck = Forked(*words, log=tmp_path / "log", before=full_disk)
    assert struck.code() == 1, struck.said()
    assert "inished results are kept" in struck.said()
    assert "Traceback" not in struck.said()
    assert contents(run) == before
    assert not list(out.rglob("*.tmp"))
    assert outcome(finish(out)) == outcome(finished)


@pytest.mark.parametrize("stage", ["federate", "personalize", "report"])
def test_a_read_only_folder_is_reported_and_loses_nothing(stage: str, finished: Run, out: Path, tmp_path: Path) -> None:
    run = Run(_copied(finished, out))
    toy(stage, out) if stage != "report" else None  # its configuration names another folder
    _undo(run, stage)
    before = contents(run)
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    words = ["report", out] if stage == "report" else [stage, "-c", TOY, "--out", out]
    struck = Forked(*words, log=tmp_path / "log", before=without_privileges)
    code = struck.code()
    for folder in folders:
        folder.chmod(0o755)
    assert code == 1, struck.said()
    assert "Permission denied" in struck.said()
    assert str(out) in struck.said()
    assert "Traceback" not in struck.said()
    assert contents(run) == before
    assert outcome(finish(out)) == outcome(finished)


def _undo(run: Run, stage: str) -> None:
    """Leave something to do for a stage."""
    if stage == "federate":
        run.global_model(1).unlink()
    elif stage == "personalize":
        for path in (run.cell(0, "ft", "c1"), run.cell(1, "lpft", "c0"), run.cell(1, "none", "c3")):
            path.unlink()
    else:
        (run.root / "results.csv").unlink()


def test_a_file_in_place_of_a_folder_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    toy("run", tmp_path / "file" / "run", code=2)
    assert f"`out: {tmp_path / 'file' / 'run'}` cannot be used" in (error := capsys.readouterr().err)
    assert "HINT: choose another folder with `--out`" in error
