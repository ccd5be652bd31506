"""A small residual network for feature arrays."""

from __future__ import annotations

import math
from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec


class ResidualMLP(BodyHeadNet):
    """Residual blocks on a row of features, such as the embedding of a foundation model, and a linear head.

    The body keeps the width of the input and adds to it: x + W2 ReLU(W1 norm(x)) for each block. W2 starts at 0, so
    that an untrained network is a linear classifier of the standardized features: probing the head is linear probing of
    the embeddings, and fine-tuning the body adapts them.

    Args:
        spec: shape of the inputs and number of classes. Images are flattened.
        width: size of a block's hidden layer.
        blocks: number of blocks.
        norm: what a block starts with; BatchNorm's statistics are those of the clients.

    References:
        Blocks: Gorishniy et al., arXiv:2106.11959 (their ResNet for tables, without dropout). On embeddings, with one
        block, a residual adapter as in Gao et al., arXiv:2110.04544, with an initial value as in Houlsby et al.,
        arXiv:1902.00751. Sizes are ours.
    """

    def __init__(
        self,
        spec: DataSpec,
        width: PositiveInt = 64,
        blocks: PositiveInt = 1,
        norm: Literal["layer", "batch"] = "layer",
    ) -> None:
        super().__init__()
        dim = math.prod(spec.shape)
        self.body = nn.Sequential(nn.Flatten(), *(ResidualBlock(dim, width, norm) for _ in range(blocks)))
        self.head = nn.Linear(dim, spec.num_classes)


class ResidualBlock(nn.Module):
    """Adds a two-layer network's output to its input, ``(batch, dim)``; the identity until it is trained."""

    def __init__(self, dim: int, width: int, norm: Literal["layer", "batch"]) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(dim) if norm == "layer" else nn.BatchNorm1d(dim)
        self.down, self.up = nn.Linear(dim, width), nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(batch, dim)``."""
        return x + self.up(self.down(self.norm(x)).relu())
