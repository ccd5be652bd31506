from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from lpft.methods.ft import FT
from lpft.methods.sparse import SparseFT
from lpft.types import State
from tests.methods.fitting import (
    ADAM,
    SGD,
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    fit,
    passes,
    personalize,
    personalizer,
    settings,
)
from tests.toy import toy_features

START = {"body.w": torch.tensor([1.0, -2.0, 3.0]), "head.weight": torch.tensor([[-4.0]]), "head.bias": torch.zeros(1)}


def linear_loss(params: State, images: Tensor, labels: Tensor) -> Tensor:
    """Has the gradient `images` with respect to body.w, and `labels` with respect to head.weight."""
    return (params["body.w"] * images).sum() + (params["head.weight"] * labels).sum() + params["head.bias"].sum()


def test_the_mask_by_hand() -> None:
    """Mean gradients (2, -2, 0) and 0.5; times theta, without sign: (2, 4, 0) and 2.

    Three quarters of the four entries are left out: of all layers together only the 4 stays. A mean of the single
    batches' saliencies would be (2, 4, 9) and 10, another choice.
    """
    images, labels = torch.tensor([[1.0, -3.0, 3.0], [3.0, -1.0, -3.0]]), torch.tensor([[3.0], [-2.0]])
    mask = SparseFT(sparsity=0.75).prepare(linear_loss, START, images, labels)
    assert torch.equal(mask["body.w"], torch.tensor([False, True, False]))
    assert torch.equal(mask["head.weight"], torch.tensor([[False]]))
    assert "head.bias" not in mask  # free


def test_a_step_by_hand() -> None:
    """Whatever the optimizer did, the entry in the mask and the head's bias have moved, and nothing else."""
    moved = {name: value + 1 for name, value in START.items()}
    memory = {"body.w": torch.tensor([False, True, False]), "head.weight": torch.tensor([[False]])}
    put_back = {**moved, **SparseFT().project(moved, START, memory)}
    assert torch.equal(put_back["body.w"], torch.tensor([1.0, -1.0, 3.0]))
    assert put_back["head.weight"] == -4
    assert put_back["head.bias"] == 1


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_masked_entries_keep_the_global_models_bits(optimizer, clients) -> None:  # type: ignore[no-untyped-def]
    """SGD has momentum and weight decay, and both move entries whose gradient is masked."""
    features = toy_features(norm=True, dtype=torch.float32)
    module = fit(personalizer(features, clients, SparseFT(sparsity=0.8), settings(optimizer=optimizer)))
    start, masks = dict(features.net.named_parameters()), module.hooks.memory
    assert set(masks) == set(start) - {"head.bias"}
    total = sum(p.numel() for name, p in start.items() if name != "head.bias")
    for k, state in enumerate(module.stack.states()):
        for name, mask in masks.items():
            assert torch.equal(state[name][~mask[k]], start[name][~mask[k]])
        changed = sum(int((state[name] != p).sum()) for name, p in start.items() if name != "head.bias")
        assert changed <= round(0.2 * total)
        assert changed > 0.1 * total  # some of the chosen may be behind a ReLU that is off
        assert not torch.equal(state["head.bias"], start["head.bias"])
        assert not torch.equal(state["body.1.running_mean"], features.net.state_dict()["body.1.running_mean"])
    if len(clients) > 1:
        assert any(not torch.equal(mask[0], mask[1]) for mask in masks.values())


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_masked_entries_do_not_count_where_gradients_are_clipped(clients: list[int]) -> None:
    """One step of plain SGD with rate 1: what is trained moves by exactly the norm that gradients are clipped to."""
    chosen = settings(epochs=1, batch_size=64, optimizer=partial(torch.optim.SGD, lr=1.0), clip_norm=0.01)
    features = toy_features()
    for state in personalize(features, clients, SparseFT(sparsity=0.9), chosen):
        moved = torch.cat([(state[name] - p).flatten() for name, p in features.net.named_parameters()])
        assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_no_sparsity_is_ft_bit_for_bit(norm: bool) -> None:
    assert_same_bits(SparseFT(sparsity=0), FT(), norm)


@pytest.mark.parametrize("norm", [False, True])
def test_stacked_equals_one_by_one(norm: bool) -> None:
    assert_stacked_equals_one_by_one(SparseFT(sparsity=0.7), norm)


def test_the_look_at_up_to_ten_batches_is_counted() -> None:
    """Clients 1 and 2 have three batches, all of which are looked at: one epoch more."""
    assert passes(SparseFT()) == [7, 7]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"`sparsity=.*at least 0 and below 1.*HINT"):
        SparseFT(sparsity=sparsity)
