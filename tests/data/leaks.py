"""Whether images are in two parts."""

from __future__ import annotations

from itertools import combinations

from lpft.data.base import FederatedDataModule

SPLITS = ("train", "val", "test")


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
