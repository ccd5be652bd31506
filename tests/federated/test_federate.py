"""Ranks that share no round: what only one client trains on, such as the pooled data."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import distributed
from torch.optim import SGD

from lpft.federated.checkpoint import History
from lpft.federated.federate import GlobalTask, train_global_models
from lpft.runtime import devices, signals
from lpft.runtime.devices import Devices
from lpft.storage.run import Run
from tests.commands import table
from tests.federated.rounds import settings
from tests.toy import ToyNet, toy_module

SEEDS = [0, 1, 2]


class Processes:
    """Notes which process trains which seed, and may send itself a signal in the first round of one of them."""

    def __init__(self, path: Path, stopped: int | None = None) -> None:
        self.path, self.stopped = path, stopped

    def round(self, seed: int, history: Sequence[History]) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()} {seed}\n")
        if seed == self.stopped and len(history) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    def close(self) -> None:
        pass

    def seeds(self) -> list[set[int]]:
        """Return the seeds of each process."""
        owners: dict[str, set[int]] = {}
        for line in self.path.read_text().splitlines():
            process, seed = line.split()
            owners.setdefault(process, set()).add(int(seed))
        return sorted(owners.values(), key=min)


def task(root: Path, processes: int, **changes: object) -> GlobalTask:
    made = settings(rounds=3, **changes)
    return GlobalTask(
        Run(root), SEEDS, toy_module().pooled(), partial(ToyNet, norm=True), made, Devices("cpu", processes), 1, "f"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What one process trains."""
    pooled = task(tmp_path_factory.mktemp("whole"), 1)
    assert train_global_models(pooled) == []
    return pooled.run


@pytest.mark.parametrize(("processes", "seeds"), [(2, [{0, 2}, {1}]), (4, [{0}, {1}, {2}])])
def test_each_process_trains_its_own_seeds(tmp_path: Path, whole: Run, processes: int, seeds: list[set[int]]) -> None:
    """With the bits of one process; with more processes than seeds some have nothing to do."""
    logs = Processes(tmp_path / "log")
    pooled = task(tmp_path / "run", processes)
    assert train_global_models(pooled, logs) == []
    assert logs.seeds() == seeds
    assert trained(pooled.run) == trained(whole)


def test_errors_in_any_process_are_reported(tmp_path: Path, whole: Run) -> None:
    """A folder that cannot be made ends the seeds of one process; one that diverges, none."""
    pooled = task(tmp_path / "run", 2)
    folder = pooled.run.global_model(1).parent
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    (failure,) = train_global_models(pooled)
    assert str(folder) in failure
    assert [pooled.run.global_model(seed).exists() for seed in (0, 2)] == [True, True]
    diverging = task(tmp_path / "diverging", 2, optimizer=partial(SGD, lr=1e30))
    failures = train_global_models(diverging)
    assert sorted(seed for seed in SEEDS for failure in failures if f"seed {seed}" in failure) == SEEDS


@pytest.fixture
def listening() -> Iterator[None]:
    with signals.listening():
        yield
    signals.reset()


@pytest.mark.usefixtures("listening")
def test_a_signal_to_one_process_stops_the_command_and_loses_nothing(tmp_path: Path, whole: Run) -> None:
    pooled = task(tmp_path / "run", 2)
    with pytest.raises(signals.Stopped):
        train_global_models(pooled, Processes(tmp_path / "log", stopped=1))
    assert pooled.run.global_file(1, "checkpoint.pt").exists()
    assert not pooled.run.global_model(1).exists()
    signals.reset()
    assert train_global_models(pooled) == []
    assert trained(pooled.run) == trained(whole)


def test_ranks_wait_for_each_other_longer_than_a_large_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that they wait is the one that is set, and that is more than hours."""
    assert timedelta(hours=12) < devices.TIMEOUT
    monkeypatch.setattr(devices, "TIMEOUT", timedelta(seconds=1))
    with pytest.raises(Exception, match=r"(?i)time"):
        Devices("cpu", 2).fabric().launch(_one_is_late)  # type: ignore[arg-type]


def _one_is_late(fabric: Fabric) -> None:
    if fabric.is_global_zero:
        distributed.all_reduce(torch.zeros(1))
    else:
        signal.pause()


def trained(run: Run) -> dict[int, tuple[bytes, list[dict[str, str]]]]:
    """Return every seed's model and its history, without times."""
    return {seed: (run.global_model(seed).read_bytes(), table(run.global_file(seed, "history.csv"))) for seed in SEEDS}
