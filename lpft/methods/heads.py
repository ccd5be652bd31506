"""Initial heads: random, zero, or fitted by least squares.

A head is a dict with ``weight`` ``(num_classes, k)`` and, if the network's head has one, ``bias`` ``(num_classes,)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from lpft.methods.base import HeadData
from lpft.types import State

HeadInit = Literal["global", "random", "zero", "lstsq"]
"""Kind of initial head; ``global`` is that of the global model."""


def initial_head(init: HeadInit, head: State, data: HeadData, generator: Generator) -> State:
    """Return the initial head.

    Args:
        init: kind of initialization.
        head: the head of the global model.
        data: features, labels and class counts of the client.
        generator: source of randomness of a random head.
    """
    if init == "random":
        return random_head(head, generator)
    if init == "lstsq":
        return least_squares_head(head, data)
    return zero_head(head) if init == "zero" else head


def random_head(like: State, generator: Generator) -> State:
    """Draw weight and bias uniformly from ``[-1/sqrt(k), 1/sqrt(k)]``, like `torch.nn.Linear`."""
    bound = like["weight"].shape[1] ** -0.5
    drawn = {name: torch.rand(t.shape, generator=generator, dtype=torch.float64) for name, t in like.items()}
    return as_head(like, {name: (2 * t - 1) * bound for name, t in drawn.items()})


def zero_head(like: State) -> State:
    """Return a head of zeros."""
    return {name: torch.zeros_like(t) for name, t in like.items()}


def least_squares_head(like: State, data: HeadData) -> State:
    """Fit one-hot targets by least squares: the minimum-norm solution.

    With a bias, features and targets are centered, and the bias is not part of the norm.
    """
    features = data.features.double().cpu()
    targets = torch.nn.functional.one_hot(data.labels.cpu(), len(like["weight"])).double()
    if "bias" not in like:
        return as_head(like, {"weight": (torch.linalg.pinv(features) @ targets).T})
    middle, mean = features.mean(0), targets.mean(0)
    weight = (torch.linalg.pinv(features - middle) @ (targets - mean)).T
    return as_head(like, {"weight": weight, "bias": mean - weight @ middle})


def as_head(like: State, head: dict[str, Tensor]) -> State:
    """Return the tensors of a head like another head, with its types and device."""
    return {name: head[name].to(t.device, t.dtype) for name, t in like.items()}
