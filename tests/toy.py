"""Small made-up clients and networks, in seconds nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

from lpft.clients.features import GlobalFeatures
from lpft.data.datamodule import FederatedDataModule
from lpft.data.sources.base import Source, categories
from lpft.models.base import BodyHeadNet
from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec


class ToySource(Source):
    """Grey 8x8 images of three classes: each has its own bright spot, each client its own brightness.

    Args:
        counts: training samples of each client.
        num_test: test samples of each client.
        num_val: validation samples of each client.
        seed: of the noise.
    """

    image_size, channels, num_classes = 8, 1, 3

    def __init__(
        self,
        counts: tuple[int, ...] = (20, 33, 40, 24, 17),
        num_test: int | tuple[int, ...] = 12,
        num_val: int = 6,
        seed: int = 0,
    ) -> None:
        self.counts, self.num_val, self.seed = tuple(counts), num_val, seed
        self.num_test = tuple(num_test) if isinstance(num_test, tuple) else (num_test,) * len(counts)

    def draw(self, rng: np.random.Generator, client: int, split: str, num: int) -> tuple[np.ndarray, ...]:
        """Return images, labels and, perhaps, groups."""
        labels = rng.integers(0, 3, num)
        images = rng.integers(0, 120, (num, 1, 8, 8))
        for image, label in zip(images, labels, strict=True):
            image[0, 2 * label : 2 * label + 2, 2:6] += 60 + 15 * client
        return images.astype(np.uint8), labels

    def table(self) -> pd.DataFrame:
        rng = np.random.default_rng(self.seed)
        images, tables = [], []
        for i, count in enumerate(self.counts):
            for split, num in (("train", count), ("val", self.num_val), ("test", self.num_test[i])):
                drawn, labels, *groups = self.draw(rng, i, split, num)
                images.append(drawn)
                tables.append(pd.DataFrame({"label": labels, "domain": f"c{i}", "split": split}))
                if groups:
                    tables[-1]["group"] = groups[0]
        self._images = np.concatenate(images)
        table = pd.concat(tables, ignore_index=True)
        return table.assign(domain=categories(table["domain"], [f"c{i}" for i in range(len(self.counts))]))

    def images(self, positions: np.ndarray) -> np.ndarray:
        self.table()
        return self._images[positions].transpose(0, 2, 3, 1)

    def given_splits(self, table: pd.DataFrame) -> dict[str, set[str]]:
        return {f"c{i}": {"train", "val", "test"} for i in range(len(self.counts))}


def toy_module(cache_dir: str | None = None, **settings: object) -> FederatedDataModule:
    """Toy clients that are not set up yet."""
    return FederatedDataModule(ToySource(**settings), cache_dir=cache_dir)  # type: ignore[arg-type]


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


def toy_data(**settings: object) -> FederatedDataModule:
    data = toy_module(**settings)  # type: ignore[arg-type]
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
