"""Neither stage waits for the device in a step: with more steps, no more numbers come to the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lpft.data.transforms import FlipCrop
from lpft.federated.local import LocalTrainer
from lpft.federated.settings import Federation
from lpft.methods.base import Method
from lpft.methods.early import EarlyStoppedFT
from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.methods.lss import LSSFT
from lpft.methods.prox import ProximalFT
from lpft.methods.soup import SoupFT
from lpft.methods.sparse import SparseFT
from tests.methods.fitting import SGD, fit, personalizer, settings
from tests.toy import toy_data, toy_features, toy_net

READS = {"_local_scalar_dense", "equal", "nonzero"}
"""Operators that hand a number to the host."""
COPIES = {"cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__", "__index__"}
"""Methods of a tensor that copy it to the host; of one that is there already no operator runs."""


class Operators(TorchDispatchMode):
    """Counts the operators that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += name in READS
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Counts the methods that copy to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.counts[name] += name in COPIES
        return func(*args, **(kwargs or {}))


def syncs(work: Callable[[], Any]) -> Counter[str]:
    """Count what reads tensors on the host while something runs."""
    with Operators() as operators, Calls() as calls:
        work()
    return +(operators.counts + calls.counts)  # the plus drops zeros


def test_reads_and_copies_are_counted() -> None:
    counts = syncs(lambda: (torch.ones(1).item(), bool(torch.ones(1) > 0), torch.ones(2).tolist(), torch.ones(2).cpu()))
    assert counts == {"_local_scalar_dense": 2, "item": 1, "__bool__": 1, "tolist": 1, "cpu": 1}


@pytest.mark.parametrize(
    "method",
    [FT(), LPFT(lp_epochs=1), ProximalFT(flood=0.1), SparseFT(), SoupFT(), LSSFT(), EarlyStoppedFT()],
    ids=lambda method: type(method).__name__,
)
@pytest.mark.parametrize("clients", [[2], [1, 2]])
@pytest.mark.parametrize("augment", [None, FlipCrop(pad=1)], ids=["plain", "augmented"])
def test_no_step_of_personalization_waits(method: Method, clients: list[int], augment: FlipCrop | None) -> None:
    """Clients 1 and 2 have 33 and 40 training samples: one step of 40, or five of 8."""

    def counted(batch_size: int) -> Counter[str]:
        features = toy_features(norm=True)
        features.data.augment = augment
        module = personalizer(features, clients, method, settings(epochs=3, batch_size=batch_size, clip_norm=1.0))
        return syncs(lambda: fit(module))

    assert counted(40) == counted(8)


@pytest.mark.parametrize("clients", [[2], [1, 2]])
def test_no_step_of_federated_training_waits(clients: list[int]) -> None:
    def counted(batch_size: int) -> Counter[str]:
        chosen = Federation(rounds=1, batch_size=batch_size, optimizer=partial(SGD))
        fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
        trainer = LocalTrainer(fabric, toy_net(norm=True), toy_data(), chosen, seed=0)
        return syncs(lambda: trainer.train(clients, toy_net(norm=True).state_dict(), 1))

    assert counted(40) == counted(8)
