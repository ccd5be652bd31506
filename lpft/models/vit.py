"""A small vision transformer, with room for adapters and low-rank updates."""

from __future__ import annotations

import math

import torch
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec


class SmallViT(BodyHeadNet):
    """torchvision's VisionTransformer in a small size; the features are those of the class token.

    Attention is written out, with a linear layer each for query, key and value: torchvision's keeps them in one tensor,
    of which no part could be updated on its own. Images whose size the patches do not divide are padded with zeros.

    Adapters and low-rank updates change nothing at first. Federated training and full fine-tuning leave them so; the
    method `lpft.methods.peft.PEFT` trains them. They are part of the saved models.

    Args:
        spec: channels, size and number of classes of the data.
        patch: height and width of a patch in pixels.
        layers: number of blocks.
        heads: attention heads; they divide the width.
        width: size of tokens and features.
        mlp: size of the hidden layer in a block.
        adapters: bottleneck of an adapter after attention and one after the MLP in every block; 0: none. The choice
            for comparisons is 64.
        lora: rank of the updates of the query's and the value's weight in every block; 0: none. The choice for
            comparisons is 8.
        lora_alpha: updates are multiplied by ``lora_alpha / lora``.

    Raises:
        ValueError: if the heads do not divide the width, or a patch is larger than the images.

    References:
        Dosovitskiy et al., arXiv:2010.11929 (ViT); Houlsby et al., arXiv:1902.00751 (adapters); Hu et al.,
        arXiv:2106.09685 (LoRA). All sizes are ours.
    """

    def __init__(
        self,
        spec: DataSpec,
        patch: PositiveInt = 4,
        layers: PositiveInt = 4,
        heads: PositiveInt = 4,
        width: PositiveInt = 64,
        mlp: PositiveInt = 128,
        adapters: NonNegativeInt = 0,
        lora: NonNegativeInt = 0,
        lora_alpha: PositiveFloat = 16.0,
    ) -> None:
        super().__init__()
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
            block.self_attention = Attention(width, heads, adapters, lora, lora_alpha)
            block.mlp = Adapted(block.mlp, width, adapters)
        transformer.heads = nn.Identity()
        self.body = nn.Sequential(nn.ZeroPad2d((0, missing, 0, missing)), transformer)
        self.head = nn.Linear(width, spec.num_classes)


class Attention(nn.Module):
    """Self-attention with a layer each for query, key and value, and an adapter behind.

    Args:
        width: size of a token.
        heads: number of heads.
        adapters: bottleneck of the adapter; 0: none.
        lora: rank of the updates of query and value; 0: none.
        alpha: multiplies them, divided by the rank.
    """

    def __init__(self, width: int, heads: int, adapters: int, lora: int, alpha: float) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.k, self.v = (_xavier(LowRankLinear(width, width, rank, alpha)) for rank in (lora, 0, lora))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.bias)
        self.adapter = Adapter(width, adapters) if adapters else nn.Identity()

    def forward(self, tokens: Tensor, *_: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """Return tokens ``(batch, number, width)``; called as torch's attention is, with query, key and value."""
        q, k, v = (
            layer(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.adapter(self.out((weights @ v).transpose(1, 2).flatten(2))), None


class Adapted(nn.Module):
    """A layer with an adapter behind.

    Args:
        layer: the layer.
        width: size of what it returns.
        adapters: bottleneck; 0: no adapter.
    """

    def __init__(self, layer: nn.Module, width: int, adapters: int) -> None:
        super().__init__()
        self.layer = layer
        self.adapter = Adapter(width, adapters) if adapters else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output."""
        adapted: Tensor = self.adapter(self.layer(x))
        return adapted


class Adapter(nn.Module):
    """A bottleneck beside a skip connection; the identity at first, and not trained unless asked for.

    Args:
        width: size of input and output.
        bottleneck: size between.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes in, and a little more."""
        more: Tensor = self.up(nn.functional.gelu(self.down(x)))
        return x + more


class LowRankLinear(nn.Linear):
    """A linear layer whose weight is updated by ``alpha / rank * up @ down``; 0 at first.

    Args:
        in_features: as in `torch.nn.Linear`.
        out_features: as in `torch.nn.Linear`.
        rank: of the update; 0: none.
        alpha: multiplies it, divided by the rank.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__(in_features, out_features)
        self.scale = alpha / rank if rank else 0.0
        if rank:
            self.lora = nn.ParameterDict(
                {"down": torch.empty(rank, in_features), "up": torch.zeros(out_features, rank)}
            ).requires_grad_(False)
            nn.init.kaiming_uniform_(self.lora["down"], a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the updated layer."""
        y = super().forward(x)
        return y + self.scale * (x @ self.lora["down"].T @ self.lora["up"].T) if self.scale else y


def _xavier(layer: LowRankLinear) -> LowRankLinear:
    """Initialize as torch's attention does: like one layer of three times the size, without bias."""
    nn.init.uniform_(layer.weight, -math.sqrt(6 / (4 * layer.in_features)), math.sqrt(6 / (4 * layer.in_features)))
    nn.init.zeros_(layer.bias)
    return layer
