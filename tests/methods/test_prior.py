from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lpft.methods.base import check_phases
from lpft.methods.ft import NoFineTuning
from lpft.methods.prior import PriorShift, log_prior_ratio
from tests.methods.fitting import passes, personalize
from tests.toy import same_bits, toy_features, toy_net


def test_the_shift_by_hand() -> None:
    """A client with 3 and 1 samples in a federation with 4 and 4, and one imaginary sample of half and half.

    p_client is (3.5, 1.5) / 5, and p_federation (1, 1) / 2: the ratios are 1.4 and 0.6.
    """
    shift = log_prior_ratio(torch.tensor([3, 1]), torch.tensor([4, 4]), pseudo_count=1.0)
    torch.testing.assert_close(shift, torch.tensor([1.4, 0.6], dtype=torch.float64).log())


def test_classes_missing_at_the_client_or_everywhere_stay_finite() -> None:
    shift = log_prior_ratio(torch.tensor([3, 0, 0]), torch.tensor([9, 3, 0]), pseudo_count=1.0)
    assert shift[1] == pytest.approx(math.log(1 / 4))
    assert shift[2] == 0


@pytest.mark.parametrize("pseudo_count", [0.1, 1.0, 7.3])
def test_proportional_counts_move_nothing(pseudo_count: float) -> None:
    counts = torch.tensor([7, 13, 3, 0])
    assert log_prior_ratio(counts, 11 * counts, pseudo_count).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_only_the_bias_moves_by_the_counts_of_the_training_samples(clients: list[int]) -> None:
    features = toy_features(norm=True)
    data, start = features.data, features.net.state_dict()
    everyone = torch.cat([client.train for client in data.clients])
    for client, state in zip(clients, personalize(features, clients, PriorShift()), strict=True):
        own = data.labels[data.clients[client].train].bincount(minlength=3)
        shift = log_prior_ratio(own, data.labels[everyone].bincount(minlength=3), 1.0)
        assert shift.abs().max() > 0.01
        torch.testing.assert_close(state["head.bias"] - start["head.bias"], shift)
        assert same_bits({**state, "head.bias": start["head.bias"]}, dict(start))


def test_a_federation_of_one_client_keeps_the_global_model() -> None:
    features = toy_features(counts=(30,))
    (state,) = personalize(features, [0], PriorShift())
    assert same_bits(state, personalize(features, [0], NoFineTuning())[0])


def test_a_head_without_bias_is_refused() -> None:
    net = toy_net()
    check_phases("prior", PriorShift(), net, 15)
    net.head = nn.Linear(10, 3, bias=False)
    with pytest.raises(ValueError, match=r"Method `prior`: the head of ToyNet has no bias.*HINT"):
        check_phases("prior", PriorShift(), net, 15)


def test_it_costs_nothing_and_leaves_the_body() -> None:
    assert passes(PriorShift()) == [0, 0]
    assert PriorShift().leaves_body(15)
