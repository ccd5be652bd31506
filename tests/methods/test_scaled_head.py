from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.methods.scaled_head import ScaledHeadFT
from tests.methods.fitting import (
    LP_LR,
    assert_resumed_equals_uninterrupted,
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    passes,
    personalize,
    settings,
)
from tests.toy import toy_features


def test_the_factor_by_hand() -> None:
    """The head's weights grow from (3, 4), norm 5, to (6, 8), norm 10: everything in the head is doubled."""
    method, start = ScaledHeadFT(), {"head.weight": torch.tensor([[3.0, 4.0]]), "head.bias": torch.tensor([1.0])}
    start["body.weight"] = torch.tensor([7.0])
    probed = {**start, "head.weight": torch.tensor([[8.0, -6.0]]), "head.bias": torch.tensor([9.0])}
    memory = method.end(0, probed, start, {})
    assert memory == {"factor": 2}
    begun, memory = method.begin(1, start, start, memory)
    assert {name: p.tolist() for name, p in begun.items()} == {
        "head.weight": [[6, 8]],
        "head.bias": [2],
        "body.weight": [7],
    }
    assert method.end(1, begun, start, memory) == {"factor": 2}


@pytest.mark.parametrize("norm", [False, True])
def test_without_probing_it_is_ft_bit_for_bit(norm: bool) -> None:
    assert_same_bits(ScaledHeadFT(lp_epochs=0), FT(), norm)


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_the_head_of_the_global_model_is_scaled_and_not_the_probed_one(clients: list[int]) -> None:
    """With a rate of fine-tuning that moves nothing, the head is the global one times the factor that LP has."""
    features, still = toy_features(norm=True), {"lp_epochs": 3, "lp_lr": LP_LR, "lr": 1e-30}
    free = settings(optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))  # no weight decay
    start = features.net.state_dict()
    probed = personalize(features, clients, LPFT(epochs=3, lp_epochs=None, lp_lr=LP_LR), free)
    for k, state in enumerate(personalize(features, clients, ScaledHeadFT(**still), free)):
        factor = probed[k]["head.weight"].norm() / start["head.weight"].norm()
        assert factor > 1.02
        for name in ("head.weight", "head.bias"):
            torch.testing.assert_close(state[name], factor * start[name])
        torch.testing.assert_close(state["body.0.weight"], start["body.0.weight"])


def test_stacked_equals_one_by_one() -> None:
    assert_stacked_equals_one_by_one(ScaledHeadFT(lp_epochs=2, lp_lr=LP_LR), norm=True)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    assert_resumed_equals_uninterrupted(ScaledHeadFT(lp_epochs=2, lp_lr=LP_LR), [1, 2, 4], tmp_path)


def test_it_costs_what_lpft_costs() -> None:
    assert passes(ScaledHeadFT(lp_epochs=2)) == passes(LPFT(lp_epochs=2))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"do not fit a scaled global head.*HINT"):
        ScaledHeadFT(head_init="zero")
    with pytest.raises(ValueError, match=r"`lp_epochs=15` leaves no epoch.*HINT"):
        ScaledHeadFT(lp_epochs=15).phases(15)
