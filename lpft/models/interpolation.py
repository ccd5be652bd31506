"""Models on the line between two others."""

from __future__ import annotations

import torch
from torch import Tensor

from lpft.types import State


def interpolate(start: State, end: State, a: float | Tensor) -> State:
    """Return ``(1 - a) * start + a * end``.

    All floating-point entries are interpolated, BatchNorm's statistics too: between two positive variances all are
    positive. What is not floating-point, such as BatchNorm's counters, is the end's.

    Args:
        start: a model, without a client dimension.
        end: another model, or K of them with a leading client dimension.
        a: in ``[0, 1]``; 0 and 1 give the ends bit for bit. Entries that both have in common stay as they are.

    References:
        Wortsman et al., arXiv:2109.01903, equation 1.

    >>> interpolate({"w": torch.tensor(1.0)}, {"w": torch.tensor([2.0, 3.0])}, 0.25)
    {'w': tensor([1.2500, 1.5000])}
    """
    mixed = {}
    for name, first in start.items():
        last = end[name]
        if last.is_floating_point():
            weight = torch.as_tensor(a, dtype=last.dtype, device=last.device)
            mixed[name] = torch.lerp(first.expand_as(last), last, weight)
        else:
            mixed[name] = last
    return mixed
