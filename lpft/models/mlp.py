"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import nn

from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec


class MLP(BodyHeadNet):
    """Linear layers with ReLU on the flattened image, or on a row of features.

    Args:
        spec: shape of the inputs and number of classes.
        widths: sizes of the hidden layers, the last one being that of the features; ``[64]`` by default. An empty list
            makes a linear classifier of the inputs, whose body has nothing to train: FT and LP are the same then.
        norm: put BatchNorm or LayerNorm before every ReLU.
    """

    def __init__(
        self,
        spec: DataSpec,
        widths: list[PositiveInt] | None = None,
        norm: Literal["none", "batch", "layer"] = "none",
    ) -> None:
        super().__init__()
        norms: list[Callable[[int], nn.Module]] = []
        if norm != "none":
            norms = [nn.BatchNorm1d if norm == "batch" else nn.LayerNorm]
        sizes = [math.prod(spec.shape), *([64] if widths is None else widths)]
        layers: list[nn.Module] = []
        for fan_in, width in pairwise(sizes):
            layers += [nn.Linear(fan_in, width), *(kind(width) for kind in norms), nn.ReLU()]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(sizes[-1], spec.num_classes)
