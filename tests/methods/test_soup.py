from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lpft.clients.batches import StackSamples
from lpft.methods.base import Phase
from lpft.methods.ft import FT
from lpft.methods.soup import SoupFT
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


def test_every_member_has_the_whole_budget_and_its_own_rate() -> None:
    def member(factor: float) -> Phase:
        return Phase(15, restart=True, lr_factor=factor)

    assert SoupFT().phases(15) == [member(1.0), member(0.5), member(2.0)]
    assert SoupFT(members=3, lr_factors=[1.0, 3.0]).phases(15) == [member(1.0), member(3.0), member(1.0)]


@pytest.mark.parametrize("norm", [False, True])
def test_it_is_the_average_of_plain_loops(norm: bool) -> None:
    """Two members of two epochs, with other batches; statistics as torch.optim.swa_utils computes them."""
    features = toy_features(norm)
    data, samples = features.data, StackSamples.of(features.data, [1], 16)

    def batches(*key: Any) -> list[tuple[Tensor, Tensor]]:
        index = [samples.in_dataset(positions)[0] for positions in samples.epoch(0, *key)]
        return [(data.normalize(data.images[i], torch.float64), data.labels[i]) for i in index]

    members = []
    for member, factor in enumerate([1.0, 0.5]):
        net = toy_net(norm)
        optimizer = SGD(net.parameters(), lr=0.05 * factor)
        for epoch in range(2):
            for images, labels in batches("personalize", 2 * member + epoch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images), labels).backward()
                optimizer.step()
        members.append(net)
    soup = toy_net(norm)
    with torch.no_grad():
        for p, *one_each in zip(soup.parameters(), *(net.parameters() for net in members), strict=True):
            p.copy_(sum(one_each) / 2)
    update_bn(batches("refresh"), soup)
    (state,) = personalize(features, [1], SoupFT(members=2), settings(epochs=2))
    assert largest_difference(state, dict(soup.state_dict())) < 1e-13


def score(members: list[float], accuracy: Any) -> tuple[float, State]:
    """Greedy soup of members that are one number each, `accuracy` being a function of that number."""
    method, memory = SoupFT(members=len(members), greedy=True), {}
    params: State = {}
    for number, value in enumerate(members):
        params = {"a": torch.tensor(value)}
        memory = method.end(number, params, {}, memory)
    for number in range(method.num_candidates):
        params = method.candidate(number, params, {}, memory)
        memory = method.judge(number, params, {}, memory, torch.tensor(accuracy(float(params["a"]))))
    return float(method.finish(params, {}, memory)["a"]), memory


def test_greedy_by_hand() -> None:
    """Members 0, 8, 5 and 3, with accuracies -|a - 4| + 90: 86, 86, 89, 89.

    Sorted: 5, 3, 0, 8 (of equal ones the first). 5 alone has 89; with 3 the average 4 has 90, so 3 stays; with 0 the
    average 8/3 has 88.67, so 0 goes; with 8 it is 16/3 and 88.67, so 8 goes.
    """
    soup, memory = score([0.0, 8.0, 5.0, 3.0], lambda a: 90 - abs(a - 4))
    assert soup == 4
    assert memory["count"] == 2
    assert memory["accuracy"] == 90


def test_greedy_keeps_what_does_not_make_it_worse() -> None:
    assert score([0.0, 6.0, 3.0], lambda a: 50.0)[0] == 3


def test_greedy_without_validation_data_takes_all() -> None:
    assert score([0.0, 6.0, 9.0], lambda a: math.nan)[0] == 5


def test_greedy_leaves_out_what_has_diverged() -> None:
    assert score([math.inf, 6.0, math.nan], lambda a: 80.0 if math.isfinite(a) else -math.inf)[0] == 6


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("lr_factors", [None, [1.0]])
def test_one_member_is_ft_bit_for_bit(norm: bool, lr_factors: list[float] | None) -> None:
    assert_same_bits(SoupFT(members=1, lr_factors=lr_factors), FT(), norm)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("greedy", [False, True])
def test_stacked_equals_one_by_one(norm: bool, greedy: bool) -> None:
    assert_stacked_equals_one_by_one(SoupFT(greedy=greedy), norm, epochs=2)


@pytest.mark.parametrize("greedy", [False, True])
def test_resumed_equals_uninterrupted(greedy: bool, tmp_path: Path) -> None:
    """Within the first and the last member, and between two."""
    assert_resumed_equals_uninterrupted(SoupFT(greedy=greedy), [1, 2, 5], tmp_path, epochs=2)


def test_three_members_cost_three_times_as_much() -> None:
    """And with BatchNorm a forward pass. Greedy scores six candidates on 6 samples, each with fresh statistics."""
    assert passes(SoupFT()) == [18, 18]
    assert passes(SoupFT(), norm=True) == pytest.approx([18 + 1 / 3] * 2)
    assert passes(SoupFT(greedy=True)) == pytest.approx([18 + 6 * 6 / 33 / 3, 18 + 6 * 6 / 40 / 3])
    assert passes(SoupFT(greedy=True), norm=True, num_val=0) == pytest.approx([18 + 7 / 3] * 2)


def test_no_factors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`lr_factors=\[\]`.*HINT"):
        SoupFT(lr_factors=[])
