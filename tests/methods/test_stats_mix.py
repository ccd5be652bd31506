from __future__ import annotations

import pytest
import torch

from lpft.methods.adabn import AdaBN
from lpft.methods.ft import NoFineTuning
from lpft.methods.stats_mix import StatsMix
from tests.methods.fitting import assert_stacked_equals_one_by_one, passes, personalize
from tests.toy import same_bits, toy_features

COUNTER = "body.1.num_batches_tracked"


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_the_ends_are_the_global_model_and_adabn(clients: list[int]) -> None:
    features = toy_features(norm=True)
    ends = {a: personalize(features, clients, StatsMix(a=a)) for a in (0, 1)}
    plain, adabn = (personalize(features, clients, method) for method in (NoFineTuning(), AdaBN()))
    for k in range(len(clients)):
        assert same_bits(ends[1][k], adabn[k])
        assert same_bits({**ends[0][k], COUNTER: plain[k][COUNTER]}, plain[k])


def test_in_between_by_hand() -> None:
    features = toy_features(norm=True)
    start, (adabn,), (mixed,) = (
        features.net.state_dict(),
        personalize(features, [1], AdaBN()),
        personalize(features, [1], StatsMix(a=0.25)),
    )
    for name in ("body.1.running_mean", "body.1.running_var"):
        torch.testing.assert_close(mixed[name], 0.75 * start[name] + 0.25 * adabn[name])
        assert not torch.allclose(mixed[name], start[name], rtol=1e-3)


def test_stacked_equals_one_by_one() -> None:
    assert_stacked_equals_one_by_one(StatsMix(), norm=True)


def test_without_batch_norm_it_is_the_global_model() -> None:
    features = toy_features()
    assert same_bits(personalize(features, [1], StatsMix())[0], dict(features.net.state_dict()))


def test_it_costs_a_forward_pass() -> None:
    assert passes(StatsMix(), norm=True) == pytest.approx([1 / 3, 1 / 3])
