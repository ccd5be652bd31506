"""Fine-tuning of the most salient weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from lpft.methods.base import Loss
from lpft.methods.ft import FT
from lpft.models.masks import top_entries
from lpft.types import State

ALWAYS_TRAINED = "head.bias"


class SparseFT(FT):
    """Sparse fine-tuning: only the entries in a mask, chosen once before training, are trained.

    Saliency is ``|g * theta|`` (SNIP), with g the gradient of the client's loss at the global model, averaged over up
    to ten batches in evaluation mode. The most salient entries of all layers together are trained. The head's bias is
    always trained, and does not count. The mask covers BatchNorm's weights and biases, but not its statistics.
    Gradients of entries outside of the mask are zero, so they do not count in gradient clipping. These entries are
    reset to the global model's values after each step, so momentum and weight decay do not change them either. With
    ``sparsity: 0`` this is FT, bit for bit.

    Args:
        sparsity: share of the entries that keep the global model's value, in ``[0, 1)``.
        ft: settings of `FT`: ``epochs``, ``lr``, ``bn``, ``flood``.

    Raises:
        ValueError: if the sparsity is out of range.

    References:
        Chen et al., arXiv:2511.12695, for the fixed mask, without a rule for it; Lee et al., arXiv:1810.02340 (SNIP),
        equation 5, for the rule. Ours: sparsity, number of batches, and that weights are
        neither zeroed nor reinitialized.
    """

    num_prepare_batches = 10

    def __init__(self, sparsity: float = 0.9, **ft: Any) -> None:
        super().__init__(**ft)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"`sparsity={sparsity}` has to be at least 0 and below 1: it is the share of frozen entries."
                " HINT: set `sparsity: 0` for plain fine-tuning, or use the method lpft.methods.ft.NoFineTuning for 1."
            )
        self.sparsity = sparsity

    def prepare(self, loss: Loss, params: State, images: Tensor, labels: Tensor) -> State:
        """Return the mask, True for trained entries."""
        gradients = [grad(loss)(params, *batch) for batch in zip(images, labels, strict=True)]
        saliency = {
            name: (torch.stack([g[name] for g in gradients]).mean(0) * params[name]).abs()
            for name in params
            if name != ALWAYS_TRAINED
        }
        return top_entries(saliency, 1 - self.sparsity)

    def gradient(self, params: State, global_params: State, memory: State, gradients: State) -> State:
        """Set the gradients of entries outside of the mask to zero."""
        return {name: g.where(memory[name], 0.0) if name in memory else g for name, g in gradients.items()}

    def project(self, params: State, global_params: State, memory: State) -> State:
        """Reset entries outside of the mask to the global model's values."""
        return {name: torch.where(mask, params[name], global_params[name]) for name, mask in memory.items()}
