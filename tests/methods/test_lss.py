from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lpft.clients.batches import StackSamples
from lpft.methods.base import Phase
from lpft.methods.lss import LSSFT
from lpft.runtime.seeding import generator
from lpft.types import State
from tests.methods.fitting import (
    SGD,
    assert_resumed_equals_uninterrupted,
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    passes,
    personalize,
    settings,
)
from tests.toy import largest_difference, toy_features, toy_net


def test_the_budget_is_divided_among_the_models() -> None:
    assert LSSFT().phases(15) == [Phase(5), Phase(5), Phase(5)]
    assert [phase.epochs for phase in LSSFT(models=4).phases(15)] == [4, 4, 4, 3]
    with pytest.raises(ValueError, match=r"`models=3` is more than the budget.*epochs=2.*HINT"):
        LSSFT().phases(2)


def test_two_models_by_hand() -> None:
    """One parameter, theta_G = 0, the first model at 4; the second begins at their average 2 and is then at 3.

    Uniform numbers 1/2, 1/2, 3/4 have the exponentials ln 2, ln 2, 2 ln 2 and the weights 1/4, 1/4, 1/2, so that the
    mixture is 0/4 + 4/4 + 3/2 = 2.5. Distances are 3 to theta_G and 1 to the first model: 0.5 * 3 - 0.25 * (3 + 1)/2 =
    1. Its gradient: 0.5 - 0.25 * (1 - 1)/2 = 0.5. The average of all three is 7/3.
    """
    method = LSSFT(models=2, lambda_a=0.5, lambda_d=0.25)
    start = {"a": torch.tensor(0.0)}
    begun, memory = method.begin(0, start, start, {})
    assert begun["a"] == 0
    memory = method.end(0, {"a": torch.tensor(4.0)}, start, memory)
    begun, memory = method.begin(1, {"a": torch.tensor(4.0)}, start, memory)
    assert begun["a"] == 2
    newest = {"a": torch.tensor(3.0)}
    mixture = method.mix(newest, start, memory, torch.tensor([0.5, 0.5, 0.75]))
    torch.testing.assert_close(mixture["a"], torch.tensor(2.5))
    assert method.penalty(newest, start, memory) == 1
    assert torch.func.grad(lambda p: method.penalty(p, start, memory))(newest)["a"] == 0.5
    memory = method.end(1, newest, start, memory)
    torch.testing.assert_close(method.finish(newest, start, memory)["a"], torch.tensor(7 / 3))


def plain_lss(models: int, epochs: int, lambda_a: float, lambda_d: float) -> State:
    """Algorithm 1 as one would write it by hand, for client 1."""
    features, net = toy_features(), toy_net()
    data, samples = features.data, StackSamples.of(features.data, [1], 16)
    pool = [{name: p.detach().clone() for name, p in net.named_parameters()}]

    def gap(one: State, other: State) -> Tensor:
        return torch.cat([(one[name] - other[name]).flatten() for name in one]).norm()  # 0 at 0, also its gradient

    for model in range(models):
        newest = {n: (sum(f[n] for f in pool) / len(pool)).requires_grad_() for n in pool[0]}
        optimizer = SGD(list(newest.values()))
        for epoch in range(model * epochs, (model + 1) * epochs):
            draws = torch.rand(samples.num_steps, models + 1, generator=generator(0, "mix", epoch, "c1")).double()
            for positions, uniforms in zip(samples.epoch(0, "personalize", epoch), draws, strict=True):
                index = samples.in_dataset(positions)[0]
                weights = -(1 - uniforms[: len(pool) + 1]).log()
                weights = weights / weights.sum()
                mixture = {n: sum(w * f[n] for w, f in zip(weights, [*pool, newest], strict=True)) for n in newest}
                logits = functional_call(net, mixture, (data.normalize(data.images[index], torch.float64),))
                loss = nn.functional.cross_entropy(logits, data.labels[index]) + lambda_a * gap(newest, pool[0])
                loss = loss - lambda_d * sum(gap(newest, f) for f in pool) / len(pool)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        pool.append({name: p.detach().clone() for name, p in newest.items()})
    return {name: sum(f[name] for f in pool) / len(pool) for name in pool[0]}


def test_it_equals_a_plain_loop() -> None:
    (state,) = personalize(toy_features(), [1], LSSFT(models=3, lambda_a=0.3, lambda_d=0.1), settings(epochs=6))
    plain = plain_lss(models=3, epochs=2, lambda_a=0.3, lambda_d=0.1)
    assert largest_difference(state, plain) < 1e-12


class Unrestrained(LSSFT):
    """The same without any penalty."""

    penalty = LSSFT.__mro__[1].penalty  # type: ignore[attr-defined, assignment]


@pytest.mark.parametrize("norm", [False, True])
def test_weights_of_zero_are_no_penalty_bit_for_bit(norm: bool) -> None:
    assert not Unrestrained().overrides("penalty")
    assert_same_bits(LSSFT(lambda_a=0, lambda_d=0), Unrestrained(), norm)


@pytest.mark.parametrize("norm", [False, True])
def test_stacked_equals_one_by_one(norm: bool) -> None:
    assert_stacked_equals_one_by_one(LSSFT(models=2, lambda_a=0.1, lambda_d=0.01), norm, epochs=4)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Within the first and the last model, and between two."""
    assert_resumed_equals_uninterrupted(LSSFT(), [1, 2, 5], tmp_path)


def test_it_costs_what_ft_costs_and_a_pass_for_the_statistics() -> None:
    assert passes(LSSFT()) == [6, 6]
    assert passes(LSSFT(), norm=True) == pytest.approx([6 + 1 / 3] * 2)
