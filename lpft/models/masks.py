"""Masks over the entries of a model."""

from __future__ import annotations

import torch

from lpft.types import State


def top_entries(saliency: State, share: float) -> State:
    """Mark the entries that are the largest of all tensors together.

    Args:
        saliency: non-negative; only the order of the entries matters.
        share: share of all entries to mark.

    >>> top_entries({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0, 4.0]])}, share=0.5)
    {'a': tensor([ True, False]), 'b': tensor([[False,  True]])}
    """
    flat = torch.cat([s.flatten() for s in saliency.values()])
    chosen = flat.topk(round(share * flat.numel())).indices
    mask = torch.zeros_like(flat).scatter(0, chosen, 1.0).bool()
    parts = mask.split([s.numel() for s in saliency.values()])
    return {name: part.view(s.shape) for (name, s), part in zip(saliency.items(), parts, strict=True)}
