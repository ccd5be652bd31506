from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from lpft.data.transforms import FlipCrop
from lpft.methods.base import ComparedBatch
from lpft.methods.feature_anchor import FeatureAnchorFT
from lpft.methods.ft import FT
from lpft.types import State
from tests.methods.fitting import (
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    passes,
    personalize,
    settings,
)
from tests.toy import toy_features


def test_the_penalty_by_hand() -> None:
    """Distances are (3, 4) and (0, 2), squared 25 and 4: 0.5/2 * 14.5 = 3.625, with gradients 0.5/2 * (3, 4), ..."""
    features = torch.tensor([[4.0, 4.0], [1.0, 3.0]])
    start, logits = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.zeros(2, 3)
    method = FeatureAnchorFT(mu=0.5)

    def penalty(features: Tensor) -> Tensor:
        return method.batch_penalty(ComparedBatch(features, logits, start, logits), {})

    assert penalty(features) == 3.625
    assert torch.func.grad(penalty)(features).tolist() == [[0.75, 1.0], [0.0, 0.5]]


@pytest.mark.parametrize("norm", [False, True])
def test_no_weight_is_ft_bit_for_bit(norm: bool) -> None:
    assert_same_bits(FeatureAnchorFT(mu=0), FT(), norm)


def test_a_large_weight_holds_the_features() -> None:
    features, chosen = toy_features(), settings(optimizer=partial(torch.optim.SGD, lr=0.005))
    before = features.train(1)
    moved = []
    for mu in (0.0, 1.0, 20.0):
        (state,) = personalize(features, [1], FeatureAnchorFT(mu=mu), chosen)
        net = type(features.net)(features.data.spec).double()
        net.load_state_dict(state)
        with torch.no_grad():
            moved.append(float((net.eval().body(features.images(features.data.clients[1].train)) - before).norm()))
    assert moved[0] > 1.2 * moved[1] > 1.2 * moved[2] > 0


@pytest.mark.parametrize("norm", [False, True])
def test_stacked_equals_one_by_one(norm: bool) -> None:
    assert_stacked_equals_one_by_one(FeatureAnchorFT(mu=0.5), norm)


def test_it_costs_a_forward_pass_more_than_ft() -> None:
    assert passes(FeatureAnchorFT(epochs=4)) == pytest.approx([4 + 1 / 3] * 2)


def test_augmented_images_are_compared_with_themselves() -> None:
    """Without BatchNorm, both models are the same in the first step, and so are their features of augmented images."""
    seen = []

    class Watched(FeatureAnchorFT):
        def batch_penalty(self, batch: ComparedBatch, memory: State) -> Tensor:
            seen.append(batch)
            return super().batch_penalty(batch, memory)

    features = toy_features()
    features.data.augment = FlipCrop()
    personalize(features, [1], Watched(), settings(epochs=1))
    torch.testing.assert_close(seen[0].features, seen[0].global_features)
    assert not torch.allclose(seen[1].features, seen[1].global_features)
    assert not seen[1].global_features.requires_grad
