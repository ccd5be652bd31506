"""Networks of a user's own that are trained well one by one, and do odd things in their forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec


class Layers(nn.Module):
    """Two linear layers, ``(batch, channels, size, size)`` to ``(batch, 10)``, that others change."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.first = nn.Linear(spec.in_channels * spec.image_size**2, 10)
        self.second = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)).relu())


class Tied(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.third = nn.Linear(10, 10)
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(super().forward(x))


class SharedModule(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.again = self.second

    def forward(self, x: Tensor) -> Tensor:
        return self.again(super().forward(x))


class LooksAtValues(Layers):
    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("NaN")
        return super().forward(x)


class Item(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / (1 + x.detach().abs().max().item()))


class Noise(Layers):
    def forward(self, x: Tensor) -> Tensor:
        features = super().forward(x)
        return features + 0.1 * torch.randn(features.shape, dtype=x.dtype) if self.training else features


class OwnGenerator(Layers):
    def forward(self, x: Tensor) -> Tensor:
        features = super().forward(x)
        generator = torch.Generator().manual_seed(0)
        return features * torch.bernoulli(torch.full_like(features, 0.5), generator=generator)


class WeightNorm(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.second = torch.nn.utils.weight_norm(self.second)


class PlainWeightNorm(nn.Sequential):
    def __init__(self, spec: DataSpec) -> None:
        first = torch.nn.utils.weight_norm(nn.Linear(spec.in_channels * spec.image_size**2, 10))
        super().__init__(nn.Flatten(), first, nn.ReLU())


class OldSpectralNorm(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.second = torch.nn.utils.spectral_norm(self.second)


class SpectralNorm(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.second = torch.nn.utils.parametrizations.spectral_norm(self.second)


class ReplacedBuffer(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        features = super().forward(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * features.detach().mean(0)
        return features - self.mean


class ChangedBuffer(ReplacedBuffer):
    def forward(self, x: Tensor) -> Tensor:
        features = Layers.forward(self, x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * features.detach().mean(0))
        return features - self.mean


class Counts(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.calls: list[int] = []
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        if self.training:
            self.steps.add_(1)
        return super().forward(x)


class Checkpointed(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return 2 * grad


class OwnFunction(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(super().forward(x))


class Recurrent(nn.Module):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.lstm = nn.LSTM(spec.in_channels * spec.image_size, 10, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.transpose(1, 2).flatten(2))[0][:, -1]


class Attention(nn.Module):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.enter = nn.Linear(spec.in_channels * spec.image_size, 10)
        self.attention = nn.MultiheadAttention(10, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.transpose(1, 2).flatten(2))
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


class Normed(Layers):
    def __init__(self, spec: DataSpec, **settings: object) -> None:
        super().__init__(spec)
        self.norm = nn.BatchNorm1d(10, **settings)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class NoMomentum(Normed):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec, momentum=None)


class NoStatistics(Normed):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec, track_running_stats=False)


class Frozen(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.first.requires_grad_(False)


class Unused(Layers):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.unused = nn.Parameter(torch.ones(3))


class OnlyCpuTensors(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.linspace(0, 1, 10, dtype=x.dtype)


BODIES: dict[str, Callable[[DataSpec], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Tied, SharedModule, LooksAtValues, Item, Noise, OwnGenerator, WeightNorm, PlainWeightNorm, OldSpectralNorm,
        SpectralNorm, ReplacedBuffer, ChangedBuffer, Counts, Checkpointed, OwnFunction, Recurrent, Attention,
        Normed, NoMomentum, NoStatistics, Frozen, Unused, OnlyCpuTensors,
    )
}  # fmt: skip


class Awkward(BodyHeadNet):
    """A network with one of these bodies.

    Args:
        spec: size of the images.
        body: its name.
    """

    def __init__(self, spec: DataSpec, body: str) -> None:
        super().__init__()
        self.body = BODIES[body](spec)
        self.head = nn.Linear(10, spec.num_classes)
