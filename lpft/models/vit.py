"""A small vision transformer."""

from __future__ import annotations

import math

from jsonargparse.typing import PositiveInt
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.types import DataSpec


class SmallViT(BodyHeadNet):
    """torchvision's VisionTransformer in a small size; the features are those of the class token.

    Attention has separate linear layers for query, key and value, so that LoRA can update them individually
    (`lpft.models.lora`); torchvision's keeps them in one tensor. Images are padded with zeros to a multiple of the
    patch.

    Args:
        spec: channels, size and number of classes of the data.
        patch: height and width of a patch in pixels.
        layers: number of blocks.
        heads: attention heads; they divide the width.
        width: size of tokens and features.
        mlp: size of the hidden layer in a block.

    Raises:
        ValueError: if the heads do not divide the width, or a patch is larger than the images.

    References:
        Dosovitskiy et al., arXiv:2010.11929. All sizes are ours.
    """

    def __init__(
        self,
        spec: DataSpec,
        patch: PositiveInt = 4,
        layers: PositiveInt = 4,
        heads: PositiveInt = 4,
        width: PositiveInt = 64,
        mlp: PositiveInt = 128,
    ) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=1)
        if width % heads:
            raise ValueError(f"`width={width}` cannot be divided among `heads={heads}`. HINT: make it a multiple.")
        if patch > spec.image_size:
            raise ValueError(
                f"`patch={patch}` is larger than the images of {spec.image_size}x{spec.image_size} pixels."
                " HINT: choose a smaller patch, or raise the data's `image_size`."
            )
        missing = -spec.image_size % patch
        transformer = VisionTransformer(spec.image_size + missing, patch, layers, heads, width, mlp)
        if spec.in_channels != 3:
            transformer.conv_proj = nn.Conv2d(spec.in_channels, width, kernel_size=patch, stride=patch)
            nn.init.trunc_normal_(transformer.conv_proj.weight, std=math.sqrt(1 / (spec.in_channels * patch**2)))
            nn.init.zeros_(transformer.conv_proj.bias)
        for block in transformer.encoder.layers:
            block.self_attention = Attention(width, heads)
        transformer.heads = nn.Identity()
        self.body = nn.Sequential(nn.ZeroPad2d((0, missing, 0, missing)), transformer)
        self.head = nn.Linear(width, spec.num_classes)


class Attention(nn.Module):
    """Self-attention with separate layers for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.k, self.v = (_xavier(nn.Linear(width, width)) for _ in range(3))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, *_: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """Return tokens ``(batch, number, width)``; the signature is that of torch's attention."""
        q, k, v = (
            layer(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2)), None


def _xavier(layer: nn.Linear) -> nn.Linear:
    """Initialize as torch's attention does: like one layer of three times the size, without bias."""
    nn.init.uniform_(layer.weight, -math.sqrt(6 / (4 * layer.in_features)), math.sqrt(6 / (4 * layer.in_features)))
    nn.init.zeros_(layer.bias)
    return layer
