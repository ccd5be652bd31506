from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from lpft.evaluation.matrix import Evaluator
from lpft.methods.early import EarlyStoppedFT
from lpft.methods.ft import FT
from tests.methods.fitting import (
    assert_resumed_equals_uninterrupted,
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    fit,
    passes,
    personalizer,
    settings,
)
from tests.toy import same_bits, toy_features


@pytest.mark.parametrize(("lr", "num_val"), [(0.05, 30), (0.4, 30), (3.0, 9)])
def test_it_keeps_the_earliest_of_the_best_epochs(lr: float, num_val: int) -> None:
    """By reference: FT of 0, 1, 2, ... epochs, each scored on validation data."""
    features = toy_features(norm=True, dtype=torch.float32, num_val=num_val)
    chosen = settings(optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9))
    evaluator, scores, states = Evaluator(features), [], []
    for epochs in range(7):
        module = personalizer(features, [1, 2], FT(epochs=epochs or None), chosen)
        module = fit(module) if epochs else module
        scores.append(evaluator.val(module.stack, [1, 2]))
        states.append(module.stack.states())
    kept = fit(personalizer(features, [1, 2], EarlyStoppedFT(), chosen)).stack.states()
    table = torch.stack(scores)
    for k in range(2):
        best = int((table[:, k] == table[:, k].max()).nonzero()[0])
        assert same_bits(kept[k], states[best][k])


def test_without_validation_data_it_is_ft_bit_for_bit() -> None:
    features = toy_features(norm=True, dtype=torch.float32, num_val=0)
    early, plain = (fit(personalizer(features, [1, 2], m, settings(), 0)) for m in (EarlyStoppedFT(), FT()))
    for a, b in zip(early.stack.states(), plain.stack.states(), strict=True):
        assert same_bits(a, b)


def test_a_client_that_diverges_keeps_what_it_was_before() -> None:
    features = toy_features(dtype=torch.float32)
    chosen = settings(optimizer=partial(torch.optim.SGD, lr=1e30))
    module = fit(personalizer(features, [1, 2], EarlyStoppedFT(), chosen))
    assert module.stack.finite().all()
    for state in module.stack.states():
        assert same_bits(state, dict(features.net.state_dict()))


@pytest.mark.parametrize("norm", [False, True])
def test_stacked_equals_one_by_one(norm: bool) -> None:
    assert_stacked_equals_one_by_one(EarlyStoppedFT(), norm)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    assert_resumed_equals_uninterrupted(EarlyStoppedFT(), [1, 4], tmp_path)


def test_every_epoch_and_every_score_is_counted() -> None:
    """Six epochs, and seven forward passes over 6 validation samples, for 33 and for 40 training samples."""
    assert passes(EarlyStoppedFT()) == pytest.approx([6 + 7 * 6 / 33 / 3, 6 + 7 * 6 / 40 / 3])
    assert passes(EarlyStoppedFT(), num_val=0) == [6, 6]


def test_the_settings_of_ft_are_its_own_too() -> None:
    assert EarlyStoppedFT(epochs=3, bn="eval").phases(15) == FT(epochs=3, bn="eval").phases(15)
    assert_same_bits(EarlyStoppedFT(epochs=1, lr=1e-30), FT(epochs=1, lr=1e-30), norm=False)
