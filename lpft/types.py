"""Types that several parts of the package share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

State = dict[str, Tensor]
"""The tensors of a network by name; for a stack of networks, each with a leading client dimension."""

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""Builds an optimizer for parameters; the configuration selects its class and settings."""

Configuration = str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]]
"""An experiment: a YAML file, its content, or a list of these in which later entries override earlier ones."""


@dataclass(frozen=True)
class DataSpec:
    """Shape of the inputs and number of classes, from which a network is built.

    Args:
        in_channels: channels of an image, 1 (grey) or 3 (RGB); 0 if the inputs are not images.
        image_size: height and width of an image in pixels; 0 if the inputs are not images.
        num_classes: number of classes over all clients.
        num_features: number of features in a row of a feature array; None if the inputs are images.

    >>> DataSpec(3, 32, 10).shape, DataSpec.of_features(30, num_classes=2).shape
    ((3, 32, 32), (30,))
    """

    in_channels: int
    image_size: int
    num_classes: int
    num_features: int | None = None

    @classmethod
    def of_features(cls, num_features: int, num_classes: int) -> DataSpec:
        """Return the spec of feature arrays ``(n, num_features)``."""
        return cls(0, 0, num_classes, num_features)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: ``(in_channels, image_size, image_size)`` or ``(num_features,)``."""
        if self.num_features is None:
            return self.in_channels, self.image_size, self.image_size
        return (self.num_features,)

    @property
    def noun(self) -> str:
        """Noun for the inputs in messages: ``images`` or ``rows``."""
        return "images" if self.num_features is None else "rows"


@dataclass(frozen=True)
class StackUpdate:
    """The updates of K clients after local training, from one stack or from several that were trained jointly.

    Args:
        clients: positions of the clients in the list of all clients.
        state: their networks after local training, each tensor ``(K, ...)``; not a copy, so only valid until the next
            stack is trained.
        num_examples: number of each client's training samples, its weight in the average.
        losses: each client's mean loss over its samples in the last local epoch, ``(K,)``.
        memory: state that the clients keep until their next round, each tensor ``(K, ...)``.
        joined: number of clients of each stack, in order; empty for a single stack.
    """

    clients: list[int]
    state: State
    num_examples: list[int]
    losses: Tensor
    memory: State = field(default_factory=dict)
    joined: tuple[int, ...] = ()
