"""Fully connected networks."""

from __future__ import annotations

from itertools import pairwise

from jsonargparse.typing import PositiveInt
from torch import nn

from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec


class MLP(BodyHeadNet):
    """Linear layers with ReLU on the flattened image.

    Args:
        spec: channels, size and number of classes of the data.
        widths: sizes of the hidden layers, the last one being that of the features; ``[64]`` by default. An empty list
            makes a linear classifier of the pixels.
    """

    def __init__(self, spec: DataSpec, widths: list[PositiveInt] | None = None) -> None:
        super().__init__()
        sizes = [spec.in_channels * spec.image_size**2, *([64] if widths is None else widths)]
        layers = [layer for fan in pairwise(sizes) for layer in (nn.Linear(*fan), nn.ReLU())]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(sizes[-1], spec.num_classes)
