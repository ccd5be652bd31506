"""What the rest of the package sees of any dataset: clients, their samples, one array of images."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lpft.data.augment import Augment
from lpft.data.cache import Arrays, ArrayWriter, open_or_build
from lpft.data.shares import BadImageError, OnBadImage, said_of_bad
from lpft.types import DataSpec

MAPPED = ("arrays", "images", "labels", "groups", "clients", "content_hash")
"""What `FederatedDataModule.setup` fills."""

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class Client:
    """One simulated participant.

    Args:
        name: its name, unique in the dataset.
        train: positions of its training samples in the dataset's arrays, int64, shape ``(num_train,)``.
        val: the same for the samples on which choices are made.
        test: the same for the samples on which results are reported, never used for a choice.
    """

    name: str
    train: Tensor
    val: Tensor
    test: Tensor


class FederatedDataModule(LightningDataModule):
    """Clients as slices of two memory-mapped arrays.

    Images are decoded once into an array cache, which all processes map; afterwards a batch is a gather by index.
    A dataset is a subclass with a constructor (its settings), `spec`, and `write`.

    Args:
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.
    """

    arrays: Arrays
    """The opened entry of the array cache, with what was left out."""
    images: Tensor
    """uint8, ``(num_samples, channels, size, size)``, memory-mapped."""
    labels: Tensor
    """int64, ``(num_samples,)``."""
    groups: Tensor
    """Position of every sample's group in `group_names`, -1 for none; int64, ``(num_samples,)``."""
    clients: list[Client]
    content_hash: str
    """sha256 over images, labels, groups and the split."""

    class_names: tuple[str, ...] = ()
    """Names of the classes, where they have some."""
    group_names: tuple[str, ...] = ()
    """Names of the groups that accuracies are told for, such as ``"blond men"``; known without reading the images."""
    on_bad_image: OnBadImage = "error"
    """What to do about a file that cannot be decoded."""
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    augment: Augment | None = None
    """What training does to the images; the section `augment` of an experiment. The arrays do not depend on it."""

    def __init__(self, cache_dir: str | None = None) -> None:
        super().__init__()
        default = os.environ.get("LPFT_CACHE") or str(Path.home() / ".cache" / "lpft")
        self.cache_dir = Path(cache_dir or default).expanduser()

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """Channels, size and number of classes; known without reading the images."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Everything the arrays depend on, JSON-serialisable: the key of the cache.

        Include the size and modification time of source files. Raise FileNotFoundError or ValueError here, with what
        was found, what is expected and a hint, if the sources cannot be what the dataset needs.
        """

    @abstractmethod
    def write(self, writer: ArrayWriter) -> None:
        """Decode the sources and add every client's samples to the writer, part by part."""

    def prepare_data(self) -> None:
        """Build the array cache if it is not there yet, and warn of clients that lack samples or classes."""
        warn_of_gaps(self._arrays(), self.spec.num_classes)

    def setup(self, stage: str | None = None) -> None:
        """Map the arrays (building them first if needed), and fill in `images`, `labels`, `groups` and `clients`."""
        if hasattr(self, "clients"):
            return
        self.arrays = arrays = self._arrays()
        self.images, self.labels, self.groups = arrays.images, arrays.labels, arrays.groups
        self.content_hash = arrays.content_hash
        self.clients = [Client(name, *parts) for name, parts in arrays.clients.items()]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the arrays out of what is sent to another process, which maps the same files."""
        state = {name: value for name, value in vars(self).items() if name not in MAPPED}
        return {**state, "mapped": "clients" in vars(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mapped = state.pop("mapped")
        vars(self).update(state)
        if mapped:
            self.setup()

    def _arrays(self) -> Arrays:
        key = {"class": f"{type(self).__module__}.{type(self).__qualname__}", **self.settings()}
        arrays = open_or_build(self.cache_dir, key, self.spec, self.write, self.group_names)
        if arrays.bad and self.on_bad_image == "error":
            raise BadImageError(said_of_bad(arrays.bad))
        return arrays

    @property
    def num_draws(self) -> int:
        """How many uniform numbers `augmented` needs for each image; 0 if it changes nothing."""
        return self.augment.num_draws if self.augment else 0

    def augmented(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return changed uint8 images ``(..., channels, size, size)``, as `augment` says.

        Args:
            images: any number of leading dimensions.
            draws: uniform in [0, 1), ``(..., num_draws)``.
        """
        if self.augment is None:
            return images
        return self.augment(images.flatten(0, -4), draws.flatten(0, -2)).view_as(images)

    def normalize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Turn uint8 images ``(..., channels, size, size)`` into what a network takes, ``(x / 255 - mean) / std``."""
        mean = torch.tensor(self.mean, dtype=dtype, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=dtype, device=images.device).view(-1, 1, 1)
        return (images.to(dtype) / 255 - mean) / std


def normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check the settings that images are normalized with, on the scale from 0 to 1; by default 0.5 and 0.5.

    Raises:
        ValueError: if `channels` is neither 1 nor 3, or there is not one number for each, above 0 for `std`.

    >>> normalization([0.1307], None, 1)
    ((0.1307,), (0.5,))
    """
    if channels not in (1, 3):
        raise ValueError(f"`channels={channels}` is neither 1 (grey) nor 3 (RGB).")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise ValueError(f"`{name}={values}` is not one number for each of `channels={channels}`.")
    if std is not None and min(std) <= 0:
        raise ValueError(f"`std={std}` is not above 0. HINT: `mean` and `std` are on the scale from 0 to 1.")
    return tuple(mean or (0.5,) * channels), tuple(std or (0.5,) * channels)


def warn_of_gaps(arrays: Arrays, num_classes: int) -> None:
    """Log which samples were left out, and which clients lack samples or classes."""
    left_out = sum(num for of_client in arrays.left_out.values() for num in of_client.values())
    if left_out:
        log.warning(
            "%d images of %s were left out of train or val: the same images are in a test or val part.",
            left_out, shortened([f"client {name}" for name in arrays.left_out]),
        )  # fmt: skip
    if arrays.bad:
        log.warning(
            "%d image files could not be decoded and were left out: %s.", len(arrays.bad), shortened(arrays.bad)
        )
    gaps = {
        "have no training samples": [name for name, parts in arrays.clients.items() if not len(parts.train)],
        "have no test samples": [name for name, parts in arrays.clients.items() if not len(parts.test)],
        f"lack some of the {num_classes} classes in training": [
            name
            for name, parts in arrays.clients.items()
            if len(parts.train) > 0 and len(arrays.labels[parts.train].unique()) < num_classes
        ],
    }
    for gap, names in gaps.items():
        if names:
            log.warning("%d of %d clients %s: %s.", len(names), len(arrays.clients), gap, shortened(names))


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Join names, but for those after the first few.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
