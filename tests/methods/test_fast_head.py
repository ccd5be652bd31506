from __future__ import annotations

from functools import partial

import pytest
import torch

from lpft.methods.fast_head import FastHeadFT
from lpft.methods.ft import FT
from tests.methods.fitting import (
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    fit,
    passes,
    personalizer,
    settings,
)
from tests.toy import toy_features


@pytest.mark.parametrize("norm", [False, True])
def test_equal_rates_are_ft_bit_for_bit(norm: bool) -> None:
    assert_same_bits(FastHeadFT(factor=1), FT(), norm)


def test_the_first_step_of_the_head_is_ten_times_as_large() -> None:
    """One step of SGD without momentum: the change is the rate times the gradient, which both methods share."""
    features = toy_features(counts=(16,))
    chosen = settings(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.01))
    start = features.net.state_dict()
    slow, fast = (fit(personalizer(features, [0], method, chosen)) for method in (FT(), FastHeadFT()))
    (a,), (b,) = slow.stack.states(), fast.stack.states()
    for name in start:
        factor = 10 if name.startswith("head.") else 1
        torch.testing.assert_close(b[name] - start[name], factor * (a[name] - start[name]))
    assert (fast.records[0].lr_head, fast.records[0].lr_body) == (0.1, 0.01)


def test_stacked_equals_one_by_one() -> None:
    assert_stacked_equals_one_by_one(FastHeadFT(lr=0.01), norm=True)


def test_it_costs_what_ft_costs() -> None:
    assert passes(FastHeadFT(epochs=4)) == [4, 4]
