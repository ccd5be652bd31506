"""The signal that asks to stop: after the round or the stack at hand, with nothing lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Generator

from lpft.cli import main
from lpft.methods.base import HeadData, Phase
from lpft.methods.ft import FT
from lpft.personalization.worker import StackWorker
from lpft.runtime import signals
from lpft.runtime.processes import ending_children
from lpft.runtime.progress import Steps
from lpft.storage.run import Run
from lpft.types import State
from tests.commands import TOY, outcome, toy
from tests.forked import FORK, Forked, wait_until

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)
    signals.reset()


def code(*words: object) -> object:
    """Run a command, and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


def test_the_signal_sets_a_flag() -> None:
    signals.listen()
    assert not signals.stop_requested()
    signal.raise_signal(signal.SIGUSR1)
    assert signals.stop_requested()


def test_a_late_signal_does_not_undo_results() -> None:
    """It comes while the interpreter shuts down, when handlers are gone."""
    code = """
import os, signal
from lpft.cli import main
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGUSR1):
        kill(pid, number)
signal.late = Late()
main(["status", "nowhere"])
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 2


def test_another_signal_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    monkeypatch.setenv("LPFT_STOP_SIGNAL", "SIGUSR2")
    signals.listen()
    signal.raise_signal(signal.SIGUSR2)
    assert signals.stop_requested()
    signal.signal(signal.SIGUSR2, before)
    monkeypatch.setenv("LPFT_STOP_SIGNAL", "none")
    signals.listen()
    assert signal.getsignal(signal.SIGUSR2) == before


@pytest.mark.parametrize("name", ["KILL", "USR9"])
def test_a_signal_that_cannot_be_handled_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LPFT_STOP_SIGNAL", name)
    toy("run", out, code=2)
    assert f"LPFT_STOP_SIGNAL={name}" in capsys.readouterr().err


def test_signals_are_not_handled_outside_of_the_main_thread() -> None:
    thread = threading.Thread(target=signals.listen)
    before = signal.getsignal(signal.SIGUSR1)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_signals_are_handled_before_heavy_imports() -> None:
    """The signal comes with the first import of torch; the command is refused for another reason, and not killed."""
    code = """
import builtins, os, signal, sys
real = builtins.__import__
def spy(name, *rest):
    if name == "torch":
        os.kill(os.getpid(), signal.SIGUSR1)
        sys.exit(75 if sys.modules["lpft.runtime.signals"].stop_requested() else 1)
    return real(name, *rest)
builtins.__import__ = spy
from lpft.cli import main
main(["run", "-c", "nofile.yaml"])
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 75


@pytest.mark.parametrize("devices", [1, 2])
def test_every_stop_makes_progress_and_the_result_is_equal(
    devices: int, finished: Run, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes after every round and every stack; each start does one on each device, until all is done.

    A start of federated training does two rounds: ranks agree to stop within a round, so the next one is at hand.
    """
    advance = Steps.advance

    def signalled(self: Steps, text: str, clients: int) -> None:
        advance(self, text, clients)
        if self.shown:  # on one rank of several only
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Steps, "advance", signalled)
    words = ("-c", TOY, "--out", out, "--only", "none,lpft", "--trainer.devices", devices)
    for stage, most in (("federate", 6), ("personalize", 12)):
        starts = 1
        while code(stage, *words) == signals.STOPPED:
            assert "stopped by a signal" in capsys.readouterr().err
            starts += 1
            signals.reset()
        signals.reset()
        at_once = devices if stage == "personalize" else 2
        assert most / at_once <= starts <= most
    monkeypatch.undo()
    signals.reset()
    assert outcome(toy("run", out)) == outcome(finished)


@pytest.mark.processes
def test_a_signal_to_the_main_process_reaches_its_ranks(out: Path) -> None:
    command = [sys.executable, "-m", "lpft", "run", "-c", "tests/conf/toy.yaml", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--trainer.devices", "2", "--federation.rounds", "2000"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(out)
    try:
        while not run.global_file(0, "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "stopped by a signal" in error
    assert run.global_file(0, "checkpoint.pt").exists()
    assert not run.global_model(0).exists()


def test_results_of_another_process_are_not_replaced(
    finished: Run, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy("federate", out)
    begin = StackWorker.__init__

    def later(self: StackWorker, *args: Any) -> None:
        monkeypatch.undo()
        toy("personalize", out)
        begin(self, *args)

    monkeypatch.setattr(StackWorker, "__init__", later)
    toy("run", out)
    assert capsys.readouterr().err.count("done by another process") == 18
    assert outcome(Run(out)) == outcome(finished)


class Long(FT):
    """Trains for as long as nobody interrupts it, and tells that it has begun."""

    def phases(self, budget: int) -> list[Phase]:
        return [Phase(10**6)]

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        (Path(os.environ["LPFT_BEGUN"]) / str(os.getpid())).touch()
        return head

    starts_head = True


@pytest.mark.parametrize(
    ("devices", "to_all"), [(1, True), (1, False), (2, True), pytest.param(2, False, marks=pytest.mark.processes)]
)
def test_an_interrupt_ends_personalization_at_once(
    devices: int, to_all: bool, out: Path, tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches all processes, `kill -INT` the main process alone."""
    begun = tmp_path / "begun"
    begun.mkdir()
    monkeypatch.setenv("LPFT_BEGUN", str(begun))
    process = Forked(
        *("run", "-c", TOY, "--out", out, "--seeds", "[0]", "--trainer.devices", devices),
        *("--federation.init", finished.global_model(0), "--methods.long", f"{__name__}.Long", "--only", "long"),
        log=tmp_path / "log",
    )
    try:
        wait_until(lambda: len(list(begun.iterdir())) == devices or not process.alive())
        time.sleep(0.5)
        assert process.alive(), process.said()
        process.send(signal.SIGINT, everyone=to_all)
        assert process.code(60) == 130
        wait_until(lambda: not process.alive(), seconds=5)
    finally:
        process.kill(everyone=True)
    assert "interrupted; finished results are kept" in process.said()
    assert "Traceback" not in process.said()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_swallowed_by_python_still_counts() -> None:
    """An exception that a handler raises in a destructor is printed, and lost."""

    class Late:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with signals.interruptible():
        with contextlib.suppress(signals.Interrupted):
            Late()
        with pytest.raises(signals.Interrupted) as interrupt:
            signals.stop_requested()
    assert interrupt.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with signals.interruptible():
        assert not signals.stop_requested()


def test_children_of_the_caller_are_not_ended() -> None:
    """As in a notebook that has processes of its own."""
    theirs = FORK.Process(target=time.sleep, args=(60,))
    theirs.start()
    try:
        ours = FORK.Process(target=time.sleep, args=(60,))
        with contextlib.suppress(KeyboardInterrupt), ending_children():
            ours.start()
            raise KeyboardInterrupt
        ours.join(10)
        assert (ours.exitcode, theirs.exitcode) == (-signal.SIGKILL, None)
    finally:
        theirs.kill()
        theirs.join(10)
