"""Masks over the entries of a model."""

from __future__ import annotations

import torch

from lpft.models.masks import top_entries


def test_the_share_is_that_of_all_layers_together() -> None:
    saliency = {"a": torch.rand(7, 11), "b": torch.rand(50), "c": torch.rand(73)}
    mask = top_entries(saliency, share=0.1)
    assert sum(int(m.sum()) for m in mask.values()) == 20
    flat, chosen = (torch.cat([t[name].flatten() for name in "abc"]) for t in (saliency, mask))
    assert flat[chosen].min() > flat[~chosen].max()
