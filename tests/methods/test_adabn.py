from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.swa_utils import update_bn

from lpft.clients.batches import StackSamples
from lpft.methods.adabn import AdaBN
from tests.methods.fitting import assert_stacked_equals_one_by_one, passes, personalize
from tests.toy import largest_difference, same_bits, toy_features


def test_statistics_are_those_that_torch_computes() -> None:
    features = toy_features(norm=True)
    data, samples = features.data, StackSamples.of(features.data, [1], 16)
    net = copy.deepcopy(features.net)
    index = [samples.in_dataset(positions)[0] for positions in samples.epoch(0, "refresh")]
    update_bn([data.normalize(data.images[positions], torch.float64) for positions in index], net)
    (state,) = personalize(features, [1], AdaBN())
    assert largest_difference(state, dict(net.state_dict())) < 1e-14
    for name, tensor in features.net.state_dict().items():
        assert torch.equal(state[name], tensor) == ("running" not in name and "tracked" not in name)


def test_stacked_equals_one_by_one() -> None:
    assert_stacked_equals_one_by_one(AdaBN(), norm=True)


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_without_batch_norm_it_is_the_global_model(clients: list[int]) -> None:
    features = toy_features()
    for state in personalize(features, clients, AdaBN()):
        assert same_bits(state, dict(features.net.state_dict()))


def test_it_costs_a_forward_pass() -> None:
    assert passes(AdaBN(), norm=True) == pytest.approx([1 / 3, 1 / 3])
    assert passes(AdaBN()) == [0, 0]
