"""Small made-up clients and networks, in seconds nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lpft.clients.features import GlobalFeatures
from lpft.data.base import FederatedDataModule
from lpft.data.cache import ArrayWriter
from lpft.models.base import BodyHeadNet
from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec


class ToyData(FederatedDataModule):
    """Grey 8x8 images of three classes: each has its own bright spot, each client its own brightness.

    Args:
        counts: training samples of each client.
        num_test: test samples of each client.
        num_val: validation samples of each client.
        seed: of the noise.
        cache_dir: folder of the array cache.
    """

    def __init__(
        self,
        counts: tuple[int, ...] = (20, 33, 40, 24, 17),
        num_test: int | tuple[int, ...] = 12,
        num_val: int = 6,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(cache_dir)
        self.counts, self.num_val, self.seed = counts, num_val, seed
        self.num_test = num_test if isinstance(num_test, tuple) else (num_test,) * len(counts)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(1, 8, 3)

    def settings(self) -> dict[str, object]:
        return {"counts": self.counts, "test": self.num_test, "val": self.num_val, "seed": self.seed}

    def write(self, writer: ArrayWriter) -> None:
        rng = np.random.default_rng(self.seed)
        for i, count in enumerate(self.counts):
            for split, n in (("train", count), ("val", self.num_val), ("test", self.num_test[i])):
                labels = rng.integers(0, 3, n)
                images = rng.integers(0, 120, (n, 1, 8, 8))
                for image, label in zip(images, labels, strict=True):
                    image[0, 2 * label : 2 * label + 2, 2:6] += 60 + 15 * i
                writer.add(f"c{i}", split, images.astype(np.uint8), labels)


class ToyNet(BodyHeadNet):
    """Conv (BatchNorm) ReLU pool (dropout) linear, and a head."""

    def __init__(self, spec: DataSpec, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(spec.in_channels, 4, 3, padding=1),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * (spec.image_size // 2) ** 2, 10),
            nn.ReLU(),
        )
        self.head = nn.Linear(10, spec.num_classes)


def toy_data(**settings: object) -> ToyData:
    data = ToyData(**settings)  # type: ignore[arg-type]
    data.setup()
    return data


def toy_net(norm: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0, dropout: float = 0.0) -> ToyNet:
    with global_generator(seed, "toy"):
        net = ToyNet(DataSpec(1, 8, 3), norm, dropout).to(dtype)
        if norm:  # statistics as after some training, so that wrong handling shows
            net.body[1].running_mean.uniform_(-0.1, 0.1)
            net.body[1].running_var.uniform_(0.5, 1.5)
    return net


def toy_features(norm: bool = False, dtype: torch.dtype = torch.float64, **settings: object) -> GlobalFeatures:
    return GlobalFeatures(toy_net(norm, dtype), toy_data(**settings), torch.device("cpu"))


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
