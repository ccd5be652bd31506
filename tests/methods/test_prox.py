from __future__ import annotations

from functools import partial

import pytest
import torch

from lpft.methods.ft import FT
from lpft.methods.prox import ProximalFT
from tests.methods.fitting import (
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    passes,
    personalize,
    settings,
)
from tests.toy import largest_difference, toy_features


def test_the_penalty_by_hand() -> None:
    """theta - theta_G is (1, 2) and 2: 0.5/2 * (1 + 4 + 4) = 2.25, with gradients 0.5 * (1, 2) and 0.5 * 2."""
    params = {"a": torch.tensor([2.0, 2.0]), "b": torch.tensor(1.0)}
    start = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor(-1.0)}
    method = ProximalFT(mu=0.5)
    assert method.penalty(params, start, {}) == 2.25
    gradient = torch.func.grad(lambda p: method.penalty(p, start, {}))(params)
    assert torch.equal(gradient["a"], torch.tensor([0.5, 1.0]))
    assert gradient["b"] == 1.0


def test_from_a_global_model_of_zeros_it_is_weight_decay() -> None:
    """With theta_G = 0 the gradient is g + mu * theta, which is what SGD's weight decay mu adds."""
    features = toy_features()
    with torch.no_grad():
        for name, parameter in features.net.named_parameters():  # a zero head lets nothing move but the head
            parameter.mul_(0 if name.startswith("head") else 1)
    probing = settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    decayed = settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.4))
    (drawn,) = personalize(features, [1], HeadOnly(mu=0.4), probing)
    (plain,) = personalize(features, [1], HeadOnly(mu=0.0), decayed)
    (free,) = personalize(features, [1], HeadOnly(mu=0.0), probing)
    for name in ("head.weight", "head.bias"):
        assert torch.allclose(drawn[name], plain[name], atol=1e-14)
        assert not torch.allclose(drawn[name], free[name], rtol=1e-3)


class HeadOnly(ProximalFT):
    """Keeps the body where it is."""

    def project(self, params, global_params, memory):  # type: ignore[no-untyped-def]
        return {name: p if name.startswith("head") else global_params[name] for name, p in params.items()}


def test_a_large_weight_holds_the_clients_at_the_global_model() -> None:
    features, chosen = toy_features(), settings(optimizer=partial(torch.optim.SGD, lr=0.01))
    start = dict(features.net.state_dict())
    distances = [
        largest_difference(personalize(features, [1], ProximalFT(mu=mu), chosen)[0], start) for mu in (0, 1, 50)
    ]
    assert distances[0] > distances[1] > 2 * distances[2] > 0


@pytest.mark.parametrize("norm", [False, True])
def test_no_weight_is_ft_bit_for_bit(norm: bool) -> None:
    assert_same_bits(ProximalFT(mu=0), FT(), norm)


@pytest.mark.parametrize("norm", [False, True])
def test_stacked_equals_one_by_one(norm: bool) -> None:
    assert_stacked_equals_one_by_one(ProximalFT(mu=0.5), norm)


def test_it_costs_what_ft_costs() -> None:
    assert passes(ProximalFT(epochs=4)) == [4, 4]
