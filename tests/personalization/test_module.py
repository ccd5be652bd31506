"""The Personalizer against plain PyTorch loops, against itself in other stacks, and across restarts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lpft.clients.batches import StackSamples
from lpft.clients.features import GlobalFeatures
from lpft.data.transforms import Augment, FlipCrop, num_draws
from lpft.evaluation.matrix import Evaluator
from lpft.methods.base import Method, Phase
from lpft.methods.early import EarlyStoppedFT
from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.methods.soup import SoupFT
from lpft.methods.sparse import SparseFT
from lpft.personalization.cost import train_passes
from lpft.personalization.settings import Personalization
from lpft.personalization.trainer import StackTrainer
from lpft.runtime.devices import Devices
from lpft.types import State
from tests.methods.fitting import (
    ADAM,
    LP_LR,
    SGD,
    assert_resumed_equals_uninterrupted,
    fit,
    passes,
    personalize,
    personalizer,
    settings,
)
from tests.toy import largest_difference, same_bits, toy_features, toy_net


def plain_lpft(features: GlobalFeatures, client: int, lp_epochs: int, chosen: Personalization, norm: bool) -> State:
    """LP-FT of one client as one would write it by hand: the real network, images in both phases."""
    net, data = toy_net(norm), features.data
    samples = StackSamples.of(data, [client], chosen.batch_size)
    for epoch in range(chosen.epochs):
        if epoch == 0 or epoch == lp_epochs:
            trained = net.head if epoch < lp_epochs else net
            optimizer = chosen.optimizer(trained.parameters())
            if epoch < lp_epochs:
                optimizer.param_groups[0]["lr"] = LP_LR
        net.train()
        net.body.train(epoch >= lp_epochs)
        draws = samples.draws(num_draws(data.augment), 0, "augment", "personalize", epoch)
        for positions, numbers in zip(samples.epoch(0, "personalize", epoch), draws, strict=True):
            index = samples.in_dataset(positions)[0]
            images = data.augment(data.images[index], numbers[0]) if data.augment else data.images[index]
            optimizer.zero_grad()
            logits = net(data.normalize(images, torch.float64))
            nn.functional.cross_entropy(logits, data.labels[index]).backward()
            optimizer.step()
    return dict(net.state_dict())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("lp_epochs", [0, 2, 6])
def test_one_by_one_and_stacked_equal_a_plain_loop(norm: bool, optimizer: Any, lp_epochs: int) -> None:
    """Clients 1, 2, 3 have 33, 40 and 24 samples; 33 and 40 make three steps of 16."""
    features, chosen = toy_features(norm), settings(optimizer=optimizer)
    method = LPFT(lp_epochs=lp_epochs, lp_lr=LP_LR)
    stacked = personalize(features, [1, 2], method, chosen)
    for k, client in enumerate([1, 2]):
        plain = plain_lpft(features, client, lp_epochs, chosen, norm)
        (alone,) = personalize(features, [client], method, chosen)
        # Adam divides rounding by its own size where a gradient is 0 in theory (a bias before BatchNorm).
        tolerance = 1e-12 if optimizer is SGD or not norm else 1e-7
        assert largest_difference(alone, plain) < tolerance
        assert largest_difference(stacked[k], plain) < tolerance


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("lp_epochs", [0, 1])
def test_one_step_in_float32_hardly_depends_on_the_size_of_the_stack(norm: bool, lp_epochs: int) -> None:
    features = toy_features(norm, dtype=torch.float32, counts=(16, 15, 14, 13, 12))
    method, chosen = LPFT(lp_epochs=lp_epochs, lp_lr=LP_LR), settings(epochs=1)
    stacked = personalize(features, [0, 1, 2, 3, 4], method, chosen)
    for client in range(5):
        (alone,) = personalize(features, [client], method, chosen)
        assert largest_difference(alone, dict(features.net.state_dict())) > 0
        assert largest_difference(stacked[client], alone) < 1e-5


def test_steps_in_mixed_precision_see_the_parameters_of_the_step_before(tmp_path: Path) -> None:
    """Autocast keeps copies of parameters; within an epoch of three steps they must not be taken again."""
    features, chosen = toy_features(dtype=torch.float32), settings(epochs=2)
    net = toy_net(dtype=torch.float32).train()
    optimizer, data = chosen.optimizer(net.parameters()), features.data
    samples = StackSamples.of(data, [1], chosen.batch_size)
    for epoch in range(chosen.epochs):
        for positions in samples.epoch(0, "personalize", epoch):
            index = samples.in_dataset(positions)[0]
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(net(data.normalize(data.images[index])), data.labels[index])
            loss.backward()
            optimizer.step()
    module = personalizer(features, [1], FT(), chosen)
    devices = Devices(accelerator="cpu", devices=1, precision="bf16-mixed")
    StackTrainer(devices, torch.device("cpu"), tmp_path).fit(module)
    assert largest_difference(module.stack.states()[0], dict(net.state_dict())) < 1e-6


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("lp_epochs", [0, 2, 4])
def test_augmented_training_equals_a_plain_loop(norm: bool, lp_epochs: int) -> None:
    """The plain loop sends the changed images through the frozen body, too; one by one and stacked."""
    features, chosen = toy_features(norm), settings(epochs=4)
    method = LPFT(lp_epochs=lp_epochs, lp_lr=LP_LR)
    (unchanged,) = personalize(features, [1], method, chosen)
    features.data.augment = FlipCrop(pad=1)
    stacked = personalize(features, [1, 2], method, chosen)
    for k, client in enumerate([1, 2]):
        plain = plain_lpft(features, client, lp_epochs, chosen, norm)
        (alone,) = personalize(features, [client], method, chosen)
        assert largest_difference(alone, plain) < 1e-12
        assert largest_difference(stacked[k], plain) < 1e-12
    assert largest_difference(stacked[0], unchanged) > 1e-3


class Unused(Augment):
    """Changes nothing, and counts the images."""

    num_draws = 1
    num_images = 0

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        self.num_images += len(images)
        return images


def test_features_of_augmented_images_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them go through theta_G's body in every step; where nothing changes, the result is the same."""
    features = toy_features(norm=True)
    (stored,) = personalize(features, [1], LPFT(lp_epochs=None, lp_lr=LP_LR))
    features = toy_features(norm=True)
    features.data.augment = unused = Unused()
    unused.num_images = 0  # it was tried when it was set
    monkeypatch.setattr(features, "stacked", None)
    (anew,) = personalize(features, [1], LPFT(lp_epochs=None, lp_lr=LP_LR))
    assert unused.num_images == 6 * 3 * 16
    assert largest_difference(anew, stored) < 1e-12
    assert same_bits(_body(anew), _body(stored))


def test_only_training_is_augmented() -> None:
    """Not the samples that choices, statistics and starts of the head are made by."""
    features = toy_features(norm=True)
    features.data.augment = Unused()
    for method in (SoupFT(greedy=True), LPFT(lp_epochs=2, head_init="lstsq"), EarlyStoppedFT(), SparseFT()):
        before, module = features.data.augment.num_images, personalizer(features, [1, 2], method, settings())
        fit(module)
        assert features.data.augment.num_images - before == module.schedule.num_epochs * 3 * 16 * 2
    before = features.data.augment.num_images
    Evaluator(features).test(module.stack)
    assert features.data.augment.num_images == before


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_probing_leaves_the_body_bit_for_bit(clients: list[int]) -> None:
    features = toy_features(norm=True)
    before = {name: t.clone() for name, t in features.net.state_dict().items()}
    module = fit(personalizer(features, clients, LPFT(lp_epochs=None), settings()))
    assert Evaluator(features).shares_body(module.stack)
    for state in module.stack.states():
        assert same_bits(_body(state), _body(before))
        assert not torch.equal(state["head.weight"], before["head.weight"])
    assert same_bits(dict(features.net.state_dict()), before)  # theta_G itself is left alone


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_no_probing_is_ft_and_all_probing_is_lp_bit_for_bit(clients: list[int]) -> None:
    features = toy_features(norm=True, dtype=torch.float32)
    pairs = [(LPFT(lp_epochs=0), FT()), (LPFT(lp_epochs=6), LPFT(lp_epochs=None))]
    for one, other in pairs:
        for a, b in zip(personalize(features, clients, one), personalize(features, clients, other), strict=True):
            assert same_bits(a, b)


def test_lp_is_training_the_head_on_stored_features() -> None:
    features, chosen = toy_features(norm=True), settings()
    head = nn.Linear(10, 3).double()
    head.load_state_dict(features.net.head.state_dict())
    optimizer = SGD(head.parameters())
    optimizer.param_groups[0]["lr"] = LP_LR
    samples, stored = StackSamples.of(features.data, [1], 16), features.train(1)
    labels = features.data.labels[features.data.clients[1].train]
    for epoch in range(chosen.epochs):
        for positions in samples.epoch(0, "personalize", epoch)[:, 0]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(stored[positions]), labels[positions]).backward()
            optimizer.step()
    (state,) = personalize(features, [1], LPFT(lp_epochs=None, lp_lr=LP_LR), chosen)
    assert largest_difference({n: state[f"head.{n}"] for n in ("weight", "bias")}, dict(head.state_dict())) < 1e-14


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resumed_before_at_and_after_the_switch_equals_uninterrupted(optimizer: Any, stop: int, tmp_path: Path) -> None:
    """The switch comes after two epochs."""
    method = LPFT(lp_epochs=2, lp_lr=LP_LR)
    assert_resumed_equals_uninterrupted(method, [stop], tmp_path, optimizer=optimizer)


def test_augmented_training_resumes_as_if_uninterrupted(tmp_path: Path) -> None:
    assert_resumed_equals_uninterrupted(LPFT(lp_epochs=2, lp_lr=LP_LR), [1, 2, 4], tmp_path, augment=FlipCrop(pad=1))


def test_the_records_contain_the_settings_of_each_epoch() -> None:
    module = fit(personalizer(toy_features(), [1], LPFT(lp_epochs=2, lp_lr=LP_LR), settings(epochs=4)))
    rows = [(record.epoch, record.phase, record.lr_head, record.lr_body) for record in module.records]
    assert rows == [(1, "LP", LP_LR, 0.0), (2, "LP", LP_LR, 0.0), (3, "FT", 0.05, 0.05), (4, "FT", 0.05, 0.05)]


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_recorded_losses_count_every_sample_once(clients: list[int]) -> None:
    """33 and 40 samples make three batches of 16, the last one filled up. A head that stands still has one loss."""
    features = toy_features()
    module = fit(personalizer(features, clients, LPFT(lp_epochs=None, lp_lr=1e-30), settings(epochs=3)))
    for k, client in enumerate(clients):
        labels = features.data.labels[features.data.clients[client].train]
        logits = features.net.head(features.train(client)).detach()
        loss = float(nn.functional.cross_entropy(logits, labels))
        assert [record.train_loss[k] for record in module.records] == pytest.approx([loss] * 3, abs=1e-6)


def test_fine_tuning_starts_with_fresh_momentum() -> None:
    """With a rate of 0 in the second phase, momentum of the first would still move the head."""
    features = toy_features()
    tuned = personalize(features, [1], LPFT(lp_epochs=2, lr=1e-30), settings(epochs=3))
    probed = personalize(features, [1], LPFT(lp_epochs=2), settings(epochs=2))
    assert largest_difference(tuned[0], probed[0]) < 1e-20


def test_clients_are_clipped_by_their_own_norm() -> None:
    features, chosen = toy_features(), settings(clip_norm=0.3)
    stacked = personalize(features, [1, 2], FT(), chosen)
    for k, client in enumerate([1, 2]):
        assert largest_difference(stacked[k], personalize(features, [client], FT(), chosen)[0]) < 1e-12
    assert largest_difference(stacked[0], personalize(features, [1], FT(), settings())[0]) > 1e-3


def test_the_cost_of_training_is_counted_in_passes() -> None:
    """`Everything` looks at two of three batches before it begins."""
    assert passes(FT()) == [6, 6]
    assert passes(LPFT(lp_epochs=None)) == pytest.approx([1 / 3, 1 / 3])
    assert passes(LPFT(lp_epochs=2)) == pytest.approx([4 + 1 / 3, 4 + 1 / 3])
    assert passes(Everything()) == pytest.approx([2 + 2 / 3, 2 + 2 / 3])


def test_heads_cost_a_forward_pass_an_epoch_on_augmented_images() -> None:
    def cost(method: Method) -> list[float]:
        features = toy_features()
        features.data.augment = FlipCrop()
        return train_passes(personalizer(features, [1, 2], method, settings()))

    assert cost(FT()) == [6, 6]
    assert cost(LPFT(lp_epochs=None)) == pytest.approx([2, 2])
    assert cost(LPFT(lp_epochs=2)) == pytest.approx([4 + 2 / 3, 4 + 2 / 3])


class Everything(Method):
    """Uses every hook, in a way that can be followed by hand."""

    num_prepare_batches = 2
    uniforms_per_step = 3

    def phases(self, budget: int) -> list[Phase]:
        return [Phase(1), Phase(1, restart=True)]

    def prepare(self, loss: Any, params: State, images: torch.Tensor, labels: torch.Tensor) -> State:
        assert images.shape == (2, 16, 1, 8, 8)
        assert labels.shape == (2, 16)
        gradient = torch.func.grad(loss)(params, images[0], labels[0])
        mask = (gradient["head.weight"].abs() > 0).to(torch.float64)
        return {"mask": mask, "sum": torch.zeros_like(params["head.bias"])}

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        return {**params, "head.bias": params["head.bias"] + phase}, memory

    def mix(self, params: State, global_params: State, memory: State, uniforms: torch.Tensor) -> State:
        assert uniforms.shape == (3,)
        return {name: p + 1e-3 * uniforms[0] for name, p in params.items()}

    def penalty(self, params: State, global_params: State, memory: State) -> torch.Tensor:
        return 0.1 * sum((params[name] - global_params[name]).pow(2).sum() for name in params)

    def gradient(self, params: State, global_params: State, memory: State, gradients: State) -> State:
        assert gradients.keys() == params.keys()
        return {**gradients, "head.bias": gradients["head.bias"] * 0.5}

    def project(self, params: State, global_params: State, memory: State) -> State:
        kept = torch.where(memory["mask"] > 0, params["head.weight"], global_params["head.weight"])
        return {**params, "head.weight": kept, "body.0.weight": global_params["body.0.weight"]}

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        return {**memory, "sum": memory["sum"] + params["head.bias"]}

    def finish(self, params: State, global_params: State, memory: State) -> State:
        return {**params, "head.bias": memory["sum"] / 2}


def test_every_hook_works_stacked_as_for_one_client() -> None:
    features = toy_features(norm=True)
    stacked = personalize(features, [1, 2], Everything())
    for k, client in enumerate([1, 2]):
        (alone,) = personalize(features, [client], Everything())
        assert largest_difference(stacked[k], alone) < 1e-12
        assert torch.equal(alone["body.0.weight"], features.net.state_dict()["body.0.weight"])
        assert alone["body.1.num_batches_tracked"] == 3  # three steps since the restart


def test_gradients_that_a_method_changes_reach_the_optimizer() -> None:
    class Halved(FT):
        def gradient(self, params: State, global_params: State, memory: State, gradients: State) -> State:
            return {name: 0.5 * g + 0.0 * params[name] for name, g in gradients.items()}

    features, chosen = toy_features(), settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    slow = settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.05))
    module = fit(personalizer(features, [1], Halved(), chosen))
    assert largest_difference(module.stack.states()[0], personalize(features, [1], FT(), slow)[0]) < 1e-12
    assert not any(gradient.requires_grad for gradient in module.stack.gradients().values())


def _body(state: State) -> State:
    return {name: t for name, t in state.items() if name.startswith("body.")}
