"""Data made of a source in one line, and whether images are in two parts."""

from __future__ import annotations

import inspect
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from lpft.data.datamodule import FederatedDataModule
from lpft.data.partition import SpuriousCorrelation

SPLITS = ("train", "val", "test")


def made(kind: Any, *args: Any, **settings: Any) -> FederatedDataModule:
    """Make data of a source; `settings` go to whom they belong, `seed` to both, `rho` makes spurious clients."""
    if "rho" in settings:
        settings["clients"] = SpuriousCorrelation(settings.pop("rho"))
    its_own = {key for key in settings for base in kind.__mro__ if key in inspect.signature(base.__init__).parameters}
    source = kind(*args, **{key: value for key, value in settings.items() if key in its_own})
    rest = {key: value for key, value in settings.items() if key not in its_own or key == "seed"}
    return FederatedDataModule(source, **rest)


def save_arrays(
    path: Path, num_train: int = 80, num_test: int = 20, seed: int = 0, size: int = 8, **more: np.ndarray
) -> None:
    """Save random grey images of four classes."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for part, num in (("train", num_train), ("test", num_test)):
        if num:
            arrays[f"x_{part}"] = rng.integers(256, size=(num, size, size)).astype(np.uint8)
            arrays[f"y_{part}"] = np.arange(num) % 4
    np.savez(path, **{**arrays, **more})  # type: ignore[arg-type]


def opened(kind: Any, *args: Any, **settings: Any) -> FederatedDataModule:
    data = made(kind, *args, **settings)
    data.prepare_data()
    data.setup()
    return data


def parse(*arguments: str) -> FederatedDataModule:
    """Make data as the command line does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FederatedDataModule, "data", sub_configs=True)
    data: FederatedDataModule = parser.instantiate(parser.parse_args(list(arguments))).data
    return data


def sizes(data: FederatedDataModule) -> dict[str, tuple[int, int, int]]:
    return {c.name: (len(c.train), len(c.val), len(c.test)) for c in data.clients}


def contents(data: FederatedDataModule, split: str) -> list[bytes]:
    """Return the images of all clients' parts, as bytes."""
    return [data.images[i].numpy().tobytes() for client in data.clients for i in getattr(client, split).tolist()]


def assert_no_leaks(data: FederatedDataModule) -> None:
    """No image, by its pixels, is in two parts, of one client or of two, or twice anywhere."""
    parts = {split: contents(data, split) for split in SPLITS}
    for split, images in parts.items():
        assert images, split
        assert len(set(images)) == len(images), split
    for one, other in combinations(SPLITS, 2):
        assert not set(parts[one]) & set(parts[other]), (one, other)
