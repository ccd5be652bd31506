"""Federated training of the toy clients in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from lightning.fabric import Fabric
from torch.optim import SGD

from lpft.data.datamodule import FederatedDataModule
from lpft.federated.checkpoint import Checkpoint, History
from lpft.federated.fedavg import FedAvg
from lpft.federated.settings import Federation
from lpft.types import State
from tests.toy import ToyNet, toy_net


def settings(**changes: object) -> Federation:
    defaults = {"rounds": 4, "batch_size": 8, "optimizer": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)}
    return Federation(**{**defaults, **changes})  # type: ignore[arg-type]


def fabric(precision: str = "64-true") -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]


class Memory(AbstractContextManager["Memory"]):
    """Keeps the state of training in memory, as `GlobalModelFiles` does on disk."""

    def __init__(self, start: Checkpoint | None = None) -> None:
        self.start, self.rounds, self.end = start, list[Checkpoint](), None

    def __exit__(self, *error: object) -> None: ...

    def resume(self) -> Checkpoint | None:
        return self.start

    def save_round(self, now: Callable[[], Checkpoint], row: History, last: bool) -> None:
        self.rounds.append(now())

    def save_model(self, state: State, own: State) -> None:
        self.end, self.own = state, own

    def stopping(self) -> bool:
        return False


def fit(
    data: FederatedDataModule,
    chosen: Federation,
    size: int = 1,
    norm: bool = False,
    start: Checkpoint | None = None,
    net: ToyNet | None = None,
) -> Checkpoint:
    files = Memory(start)
    assert FedAvg(fabric(), net or toy_net(norm), data, chosen, size, seed=0).fit(files)  # type: ignore[arg-type]
    end = files.rounds[-1]
    assert files.end is end.state
    assert [row.round for row in end.history] == list(range(1, chosen.rounds + 1))
    return end
