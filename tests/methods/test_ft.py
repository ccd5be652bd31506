from __future__ import annotations

from functools import partial

import pytest
import torch

from lpft.methods.base import Method
from lpft.methods.ft import FT
from lpft.methods.lss import LSSFT
from lpft.methods.prox import ProximalFT
from lpft.methods.soup import SoupFT
from lpft.methods.sparse import SparseFT
from tests.methods.fitting import (
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    fit,
    personalize,
    personalizer,
    settings,
)
from tests.toy import toy_features


def test_below_the_flood_level_a_step_ascends() -> None:
    """One step of plain SGD from theta_G. J' = |J - b| + b has the gradient of J above b, and its negative below it.

    So theta_G - lr * g and theta_G + lr * g: theta_G is their mean.
    """
    features = toy_features(counts=(16,))
    chosen = settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    (down,) = personalize(features, [0], FT(flood=0.01), chosen)
    (plain,) = personalize(features, [0], FT(), chosen)
    (up,) = personalize(features, [0], FT(flood=100.0), chosen)
    for name, start in features.net.named_parameters():
        torch.testing.assert_close(down[name], plain[name], atol=0, rtol=0)
        torch.testing.assert_close((up[name] + plain[name]) / 2, start.detach())
    assert not torch.equal(up["head.bias"], plain["head.bias"])


def test_recorded_losses_stay_near_the_flood_level() -> None:
    """What is recorded is the cross-entropy itself; plain fine-tuning goes far below."""
    features, chosen = toy_features(), settings(epochs=30)
    plain, flooded = (fit(personalizer(features, [1], FT(flood=b), chosen)) for b in (None, 0.5))
    assert plain.records[-1].train_loss[0] < 0.3
    assert 0.4 < flooded.records[-1].train_loss[0] < 0.6


@pytest.mark.parametrize("method", [FT, ProximalFT, SparseFT, SoupFT, LSSFT])
@pytest.mark.parametrize("flood", [0.0, 1e-30])
def test_a_flood_that_is_never_reached_changes_no_bit(method: type[Method], flood: float) -> None:
    assert_same_bits(method(flood=flood), method(), epochs=3)


@pytest.mark.parametrize("norm", [False, True])
def test_flooded_stacks_equal_one_by_one(norm: bool) -> None:
    assert_stacked_equals_one_by_one(FT(flood=0.9), norm)


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_evaluation_mode_keeps_statistics_and_trains_scales(clients: list[int]) -> None:
    features = toy_features(norm=True)
    start = features.net.state_dict()
    for state in personalize(features, clients, FT(bn="eval")):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(state[f"body.1.{name}"], start[f"body.1.{name}"])
        assert not torch.equal(state["body.1.weight"], start["body.1.weight"])


def test_evaluation_mode_normalizes_by_the_global_statistics() -> None:
    """One step of plain SGD equals that of the real network in evaluation mode."""
    features = toy_features(norm=True, counts=(16,))
    chosen = settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    (state,) = personalize(features, [0], FT(bn="eval"), chosen)
    data, net = features.data, features.net.eval()
    index = data.clients[0].train
    loss = torch.nn.functional.cross_entropy(net(data.normalize(data.images[index], torch.float64)), data.labels[index])
    for (name, p), g in zip(net.named_parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
        torch.testing.assert_close(state[name], (p - 0.1 * g).detach())


def test_evaluation_mode_changes_nothing_without_batch_norm() -> None:
    assert_same_bits(FT(bn="eval"), FT(), norm=False)
    assert_stacked_equals_one_by_one(FT(bn="eval"), norm=True)
