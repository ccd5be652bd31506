"""What holds on a CUDA device: `pytest -n 0 -m gpu tests/gpu`. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from lightning.fabric import Fabric
from torch.optim import SGD

from lpft.clients.device_data import DeviceSamples
from lpft.federated.fedavg import FedAvg
from lpft.federated.local import LocalTrainer
from lpft.federated.settings import Federation
from lpft.types import State
from tests.federated.rounds import Memory
from tests.toy import largest_difference, toy_data, toy_net

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _exact() -> None:
    """Multiply in full precision, for comparisons with the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def settings() -> Federation:
    return Federation(rounds=3, batch_size=8, optimizer=partial(SGD, lr=0.1, momentum=0.9))


def trained(accelerator: str, size: int, precision: str = "64-true") -> State:
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]
    net = toy_net(norm=True, dtype=torch.float64 if precision == "64-true" else torch.float32)
    files = Memory()
    assert FedAvg(fabric, net, toy_data(), settings(), size, seed=0).fit(files)  # type: ignore[arg-type]
    return {name: t.cpu() for name, t in files.rounds[-1].state.items()}


@pytest.mark.parametrize("size", [1, 3])
def test_the_global_model_equals_that_of_the_cpu(size: int) -> None:
    assert largest_difference(trained("cuda", size), trained("cpu", size)) < 1e-9


def test_mixed_precision_stays_close() -> None:
    exact, mixed = trained("cuda", 1, "32-true"), trained("cuda", 1, "bf16-mixed")
    assert 0 < largest_difference(mixed, exact) < 0.2


def test_images_live_on_the_device_as_bytes() -> None:
    samples = DeviceSamples(toy_data(), torch.device("cuda", 0))
    assert samples._images.is_cuda
    assert samples._images.dtype == torch.uint8


@pytest.mark.parametrize("size", [1, 2])
def test_no_step_waits_for_the_device(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that an epoch needs is copied before its first step; from then on, nothing synchronizes."""
    fabric = Fabric(accelerator="cuda", devices=1)
    net = toy_net(dtype=torch.float32)
    data = toy_data(counts=(24, 24))
    trainer = LocalTrainer(fabric, net, data, settings(), 0)
    trainer.train(list(range(size)), net.state_dict(), 1)  # kernels are loaded at first use
    batches = DeviceSamples.batches

    def watched(self: DeviceSamples, *args: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        steps = list(batches(self, *args))
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from steps
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DeviceSamples, "batches", watched)
    trainer.train(list(range(size)), net.state_dict(), 2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_train_the_same_global_model() -> None:
    def fit(fabric: Fabric) -> list[float]:
        files = Memory()
        FedAvg(fabric, toy_net(norm=True), toy_data(), settings(), 1, seed=0).fit(files)  # type: ignore[arg-type]
        return torch.cat([t.double().flatten().cpu() for t in files.rounds[-1].state.values()]).tolist()

    one = Fabric(accelerator="cuda", devices=1, precision="64-true")
    two = Fabric(accelerator="cuda", devices=2, strategy="ddp_spawn", precision="64-true")
    assert two.launch(fit) == one.launch(fit)
