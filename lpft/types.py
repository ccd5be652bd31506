"""Words that several parts of the package share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

State = dict[str, Tensor]
"""Named tensors of one network; with a leading client dimension, of a stack of networks."""

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""Makes an optimizer for the given parameters; YAML chooses class and settings."""


@dataclass(frozen=True)
class DataSpec:
    """What a network has to know about the data.

    Args:
        in_channels: channels of an image, 1 (grey) or 3 (RGB).
        image_size: height and width of an image in pixels.
        num_classes: number of classes over all clients.
    """

    in_channels: int
    image_size: int
    num_classes: int


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends back after local training.

    Args:
        client: position of the client in the list of all clients.
        state: its network after local training.
        num_examples: number of its training samples, the client's weight in the average.
    """

    client: int
    state: State
    num_examples: int
