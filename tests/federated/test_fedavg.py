"""FedAvg against hand-worked numbers, against plain training, and against itself in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD

from lpft.clients.batches import StackSamples, stacks
from lpft.data.transforms import Augment, FlipCrop, num_draws
from lpft.federated.aggregation import WeightedMean
from lpft.federated.checkpoint import Checkpoint, History
from lpft.federated.cohort import shard
from lpft.federated.fedavg import fedavg_round
from lpft.federated.federate import GlobalTask, train_global_models
from lpft.federated.local import LocalTrainer
from lpft.models.mlp import MLP
from lpft.models.weights import load_model
from lpft.runtime.devices import Devices
from lpft.runtime.seeding import global_generator
from lpft.storage.client_result import DamagedFileError
from lpft.storage.run import Run
from lpft.types import StackUpdate, State
from tests.damage import flipped
from tests.federated.rounds import fabric, fit, settings
from tests.toy import ToyNet, largest_difference, same_bits, toy_data, toy_module, toy_net


def test_the_recorded_loss_counts_every_sample_once() -> None:
    """20 samples in batches of 8: four come twice in an epoch. Nothing moves: the first network's loss."""
    data, net = toy_data(counts=(20,)), toy_net()
    still = settings(rounds=1, optimizer=partial(SGD, lr=1e-30))
    (row,) = fit(data, still, net=net).history
    own = data.clients[0].train
    expected = F.cross_entropy(net(data.normalize(data.images[own]).double()), data.labels[own])
    assert row.train_loss == pytest.approx(float(expected.detach()), rel=1e-6)


def test_a_round_by_hand() -> None:
    """Two clients take one gradient step from w = 1 on the loss (w - a)^2 / 2 with step 0.5.

    Client 0 (a = 3, 1 sample): 1 - 0.5 * (1 - 3) = 2. Client 1 (a = -1, 3 samples): 1 - 0.5 * (1 + 1) = 0.
    The average is (1 * 2 + 3 * 0) / 4 = 0.5.
    """
    targets, samples = {0: 3.0, 1: -1.0}, [1, 3]

    def train(stacks: list[list[int]], state: State) -> Iterator[StackUpdate]:
        for stack in stacks:
            trained = torch.stack([state["w"] - 0.5 * (state["w"] - targets[client]) for client in stack])
            counts = [samples[client] for client in stack]
            yield StackUpdate(stack, {"w": trained}, counts, torch.tensor([1.0 + stack[0]]))

    state, loss = fedavg_round(fabric(), {"w": torch.ones(1)}, [[0], [1]], samples, train, WeightedMean())
    assert (state["w"].item(), loss) == (0.5, 1.5)


def test_a_diverged_client_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def train(stacks: list[list[int]], state: State) -> Iterator[StackUpdate]:
        for stack in stacks:
            yield StackUpdate(stack, {"w": torch.tensor([[float("nan") if stack[0] else 2.0]])}, [1], torch.zeros(1))

    state, _ = fedavg_round(fabric(), {"w": torch.ones(1)}, [[0], [1]], [1, 1], train, WeightedMean())
    assert state["w"].item() == 2.0
    assert "client 1 has diverged" in caplog.text


def test_diverged_clients_are_reported_with_round_and_seed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FloatingPointError):
        fit(toy_data(), settings(optimizer=partial(SGD, lr=1e30)))
    assert "seed 0, round 1: client c1 has diverged" in caplog.text


def test_all_diverged_is_an_error_with_a_hint() -> None:
    with pytest.raises(FloatingPointError, match=r"round 1 of seed 0.*learning rate"):
        fit(toy_data(), settings(optimizer=partial(SGD, lr=1e30)))


@pytest.mark.parametrize("augment", [None, FlipCrop(pad=1)])
def test_one_client_is_that_clients_own_training(augment: Augment | None) -> None:
    data, chosen = toy_data(counts=(20,)), settings(local_epochs=2)
    data.augment = augment
    net, samples = toy_net(norm=True).train(), StackSamples.of(data, [0], 8)
    for round_ in range(1, chosen.rounds + 1):
        optimizer = chosen.optimizer(net.parameters())
        for epoch in range(2):
            draws = samples.draws(num_draws(data.augment), 0, "augment", "federate", round_, epoch)
            for positions, numbers in zip(samples.epoch(0, "federate", round_, epoch), draws, strict=True):
                index = samples.in_dataset(positions)[0]
                images = augment(data.images[index], numbers[0]) if augment else data.images[index]
                optimizer.zero_grad()
                logits = net(data.normalize(images, torch.float64))
                torch.nn.functional.cross_entropy(logits, data.labels[index]).backward()
                optimizer.step()
    state = fit(data, chosen, norm=True).state
    floats = [name for name, t in state.items() if t.is_floating_point()]
    trained = dict(net.state_dict())
    assert largest_difference({n: state[n] for n in floats}, {n: trained[n] for n in floats}) < 1e-12


@pytest.mark.parametrize(("norm", "augment"), [(False, None), (True, None), (True, FlipCrop(pad=1))])
def test_stacked_equals_one_by_one(norm: bool, augment: Augment | None) -> None:
    data = toy_data()
    data.augment = augment
    assert largest_difference(fit(data, settings(), 1, norm).state, fit(data, settings(), 3, norm).state) < 1e-12


def test_participation_takes_part_of_the_clients() -> None:
    end = fit(toy_data(), settings(participation=0.4))
    assert [row.num_clients for row in end.history] == [2, 2, 2, 2]


@pytest.mark.parametrize("augment", [None, FlipCrop(pad=1)])
def test_resumed_equals_uninterrupted(augment: Augment | None, tmp_path: Path) -> None:
    data, chosen = toy_data(), settings(participation=0.6)
    data.augment = augment
    through = fit(data, chosen, norm=True)
    first = fit(data, settings(rounds=2, participation=0.6), norm=True)
    first.save(tmp_path / "checkpoint.pt", "f")
    restored, fingerprint = Checkpoint.load(tmp_path / "checkpoint.pt")
    assert fingerprint == "f"
    resumed = fit(data, chosen, norm=True, start=restored)
    assert same_bits(resumed.state, through.state)
    assert [row.val_accuracy for row in resumed.history] == [row.val_accuracy for row in through.history]


def test_a_damaged_checkpoint_is_never_loaded(tmp_path: Path) -> None:
    """A flipped bit is detected, or lies where it does not matter."""
    path = tmp_path / "checkpoint.pt"
    saved = Checkpoint(1, {"w": torch.arange(20.0)}, [History(1, 0.5, float("nan"), 2, 0.1)])
    saved.save(path, "f")
    whole = path.read_bytes()
    detected = 0
    for position in range(0, len(whole), 3):
        path.write_bytes(flipped(whole, position))
        try:
            found, fingerprint = Checkpoint.load(path)
        except DamagedFileError:
            detected += 1
            continue
        assert (found.round, fingerprint, repr(found.history)) == (1, "f", repr(saved.history))
        assert same_bits(found.state, saved.state)
    assert detected > len(whole) / 10
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedFileError):
        Checkpoint.load(path)


def task(root: Path, devices: int, **changes: object) -> GlobalTask:
    chosen = Devices("cpu", devices=devices)
    made = settings(rounds=3, participation=0.8, **changes)
    return GlobalTask(Run(root), [0, 1], toy_module(), partial(ToyNet, norm=True), made, chosen, 2, "f")


def test_any_number_of_processes_gives_the_same_global_models(tmp_path: Path) -> None:
    """1, 2, 3, and more ranks than stacks in a cohort, bit for bit, histories included."""
    for devices in (1, 2, 3, 6):
        assert train_global_models(task(tmp_path / str(devices), devices)) == []
    runs = {devices: Run(tmp_path / str(devices)) for devices in (1, 2, 3, 6)}
    for seed in (0, 1):
        reference, _ = load_model(runs[1].global_model(seed))
        history = _without_seconds(runs[1].global_file(seed, "history.csv"))
        for devices in (2, 3, 6):
            assert same_bits(load_model(runs[devices].global_model(seed))[0], reference)
            assert _without_seconds(runs[devices].global_file(seed, "history.csv")) == history
    assert not same_bits(load_model(runs[1].global_model(0))[0], load_model(runs[1].global_model(1))[0])


def test_existing_models_are_not_trained_again_but_damaged_ones_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_global_models(task(tmp_path, 1))
    path = Run(tmp_path).global_model(0)
    whole, stamp = path.read_bytes(), path.stat().st_mtime_ns
    train_global_models(task(tmp_path, 1))
    assert path.stat().st_mtime_ns == stamp
    path.write_bytes(whole[:-10] + b"0123456789")
    train_global_models(task(tmp_path, 1))
    assert path.read_bytes() == whole
    assert "is damaged" in caplog.text


def test_training_does_not_resume_from_a_checkpoint_of_other_settings(tmp_path: Path) -> None:
    path = Run(tmp_path / "a").global_file(0, "checkpoint.pt")
    path.parent.mkdir(parents=True)
    other = {name: torch.zeros_like(t) for name, t in toy_net(True, torch.float32).state_dict().items()}
    Checkpoint(2, other, []).save(path, "another fingerprint")
    for name in ("a", "b"):
        train_global_models(task(tmp_path / name, 1))
    assert Run(tmp_path / "a").global_model(0).read_bytes() == Run(tmp_path / "b").global_model(0).read_bytes()


def test_a_model_from_a_file_replaces_training(tmp_path: Path) -> None:
    with torch.no_grad():
        net = toy_net(norm=True, dtype=torch.float32, seed=5)
    torch.save(net.state_dict(), tmp_path / "theirs.pt")
    assert train_global_models(task(tmp_path, 1, init=str(tmp_path / "theirs.pt"))) == []
    assert same_bits(load_model(Run(tmp_path).global_model(1))[0], dict(net.state_dict()))


def _without_seconds(path: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


class LastOf(WeightedMean):
    """Takes the client with the most samples instead of a mean."""

    def add(self, total: torch.Tensor, update: StackUpdate) -> list[int]:
        return super().add(total, update) if update.num_examples == [40] else []


def test_the_aggregator_is_chosen_by_the_settings() -> None:
    data = toy_data(counts=(20, 40, 24))
    alone = fit(data, settings(aggregator=LastOf, rounds=1))
    update = LocalTrainer(fabric(), toy_net(), data, settings(), 0).train([1], toy_net().state_dict(), 1)
    assert largest_difference(alone.state, {name: t[0] for name, t in update.state.items()}) < 1e-12


@pytest.mark.parametrize("counts", [(24,) * 11, (24,) * 9 + (40,) * 6])
def test_stacks_joined_on_any_number_of_ranks_change_no_bit(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks of two of an MLP: sums over one, two and three ranks equal that of stacks trained alone."""
    data, chosen = toy_data(counts=counts), settings()
    with global_generator(0, "toy"):
        net = MLP(data.spec, widths=[16]).double()
    start, num_samples = net.state_dict(), [len(client.train) for client in data.clients]
    cohort = stacks(range(len(counts)), num_samples, chosen.batch_size, 2)
    trained: list[int] = []
    train = LocalTrainer.train

    def noted(self: LocalTrainer, clients: list[int], *args: Any, **more: Any) -> StackUpdate:
        trained.append(len(clients))
        return train(self, clients, *args, **more)

    monkeypatch.setattr(LocalTrainer, "train", noted)

    def total(world: int) -> torch.Tensor:
        summed = []
        for rank in range(world):
            aggregator, trainer = WeightedMean(), LocalTrainer(fabric(), net, data, chosen, seed=0)
            summed.append(aggregator.zeros(start, num_samples))
            for update in trainer.train_all(shard(cohort, num_samples, rank, world), start, 1):
                aggregator.add(summed[-1], update)
        return sum(summed, start=torch.zeros(()))

    joined = [total(world) for world in (1, 2, 3)]
    assert max(trained) > 4
    trained.clear()
    monkeypatch.setattr(LocalTrainer, "_most_joined", lambda self, size: 1)
    alone = total(1)
    assert max(trained) == 2
    assert all(torch.equal(summed, alone) for summed in joined)
