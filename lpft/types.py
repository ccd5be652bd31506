"""Words that several parts of the package share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

State = dict[str, Tensor]
"""Named tensors of one network; with a leading client dimension, of a stack of networks."""

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""Makes an optimizer for the given parameters; YAML chooses class and settings."""

Configuration = str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]]
"""An experiment: a YAML file, its content, or a list of both in which later entries override earlier ones."""


@dataclass(frozen=True)
class DataSpec:
    """What a network has to know about the data.

    Args:
        in_channels: channels of an image, 1 (grey) or 3 (RGB); 0 if the inputs are no images.
        image_size: height and width of an image in pixels; 0 if the inputs are no images.
        num_classes: number of classes over all clients.
        num_features: numbers in a row of a feature array; None if the inputs are images.

    >>> DataSpec(3, 32, 10).shape, DataSpec.of_features(30, num_classes=2).shape
    ((3, 32, 32), (30,))
    """

    in_channels: int
    image_size: int
    num_classes: int
    num_features: int | None = None

    @classmethod
    def of_features(cls, num_features: int, num_classes: int) -> DataSpec:
        """Describe rows of feature arrays ``(n, num_features)``."""
        return cls(0, 0, num_classes, num_features)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: ``(channels, size, size)`` of an image, ``(num_features,)`` of a row of features."""
        if self.num_features is None:
            return self.in_channels, self.image_size, self.image_size
        return (self.num_features,)

    @property
    def noun(self) -> str:
        """What messages call inputs: images, or rows of features."""
        return "images" if self.num_features is None else "rows"


@dataclass(frozen=True)
class StackUpdate:
    """What K clients, of one stack or of several that were trained as one, send back after local training.

    Args:
        clients: positions of the clients in the list of all clients.
        state: their networks after local training, each tensor ``(K, ...)``; not copied, so valid until the next stack
            is trained.
        num_examples: number of each client's training samples, its weight in the average.
        losses: each client's mean loss over its samples in the last local epoch, ``(K,)``.
        memory: what the clients keep until they take part again, each tensor ``(K, ...)``.
        joined: how many of the clients, in their order, each stack has; empty: all are of one stack.
    """

    clients: list[int]
    state: State
    num_examples: list[int]
    losses: Tensor
    memory: State = field(default_factory=dict)
    joined: tuple[int, ...] = ()
