"""Heads that are not trained: drawn at random, zero, or solved for by least squares.

A head is a dict with ``weight`` ``(num_classes, k)`` and, if the network's has one, ``bias`` ``(num_classes,)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from lpft.methods.base import HeadData
from lpft.types import State

HeadInit = Literal["global", "random", "zero", "lstsq"]
"""Which head to start from; ``global`` is the global model's."""


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
    """Draw weight and bias uniformly from ``[-1/sqrt(k), 1/sqrt(k)]``, as `torch.nn.Linear` does."""
    bound = like["weight"].shape[1] ** -0.5
    drawn = {name: torch.rand(t.shape, generator=generator, dtype=torch.float64) for name, t in like.items()}
    return as_head(like, {name: (2 * t - 1) * bound for name, t in drawn.items()})


def zero_head(like: State) -> State:
    """Return a head of zeros."""
    return {name: torch.zeros_like(t) for name, t in like.items()}


def least_squares_head(like: State, data: HeadData) -> State:
    """Fit one-hot targets by least squares: the solution of smallest norm.

    Features and targets are centred for the bias, which is not part of the norm; without a bias nothing is centred.
    """
    features = data.features.double().cpu()
    targets = torch.nn.functional.one_hot(data.labels.cpu(), len(like["weight"])).double()
    if "bias" not in like:
        return as_head(like, {"weight": (torch.linalg.pinv(features) @ targets).T})
    middle, mean = features.mean(0), targets.mean(0)
    weight = (torch.linalg.pinv(features - middle) @ (targets - mean)).T
    return as_head(like, {"weight": weight, "bias": mean - weight @ middle})


def as_head(like: State, head: dict[str, Tensor]) -> State:
    """Return those tensors that a head has, in its type and on its device."""
    return {name: head[name].to(t.device, t.dtype) for name, t in like.items()}
