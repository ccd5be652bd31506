"""Finds images that are both in a train set and in a val or test set, or in both of these."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lpft.data.splits import HELD_OUT, SPLITS, SplitPositions

DIGEST_SIZE = 16
"""Bytes per hash."""

EVEN_LEVELS = 2
"""Largest difference of levels, of 256, within a channel of a blank image; it comes from rounding."""

FEW_COPIES = 3
"""Number of copies in a client or a class that is never too many, whatever their share."""


def digests(images: np.ndarray) -> np.ndarray:
    """Hash images, ``(n, ...)``, to uint8, ``(n, 16)``."""
    hashes = [hashlib.blake2b(image, digest_size=DIGEST_SIZE).digest() for image in np.ascontiguousarray(images)]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, DIGEST_SIZE)


def are_blank(images: np.ndarray) -> np.ndarray:
    """Find images, uint8, ``(n, channels, height, width)``, of one uniform colour; bool, ``(n,)``.

    Two equal ones need not be copies: empty background looks the same everywhere.

    >>> are_blank(np.array([[[[7, 7, 8]]], [[[7, 7, 10]]]], np.uint8))
    array([ True, False])
    """
    channels = images.reshape(*images.shape[:2], -1)
    return np.asarray((channels.max(-1) - channels.min(-1) <= EVEN_LEVELS).all(-1))


def numbered(hashes: np.ndarray) -> np.ndarray:
    """Number images by their hashes, uint8, ``(n, 16)``: equal images have equal numbers, int64, ``(n,)``."""
    return np.unique(np.ascontiguousarray(hashes).view(f"V{DIGEST_SIZE}").ravel(), return_inverse=True)[1]


def without_duplicates(
    clients: Mapping[str, SplitPositions], hashes: np.ndarray, bad: np.ndarray, blank: np.ndarray
) -> tuple[dict[str, SplitPositions], dict[str, SplitPositions]]:
    """Remove images in any client's test set from all val and train sets, and those in a val set from all train sets.

    Duplicates within a split stay, and so do blank images.

    Args:
        clients: positions of every client's samples.
        hashes: hash of every image, uint8, ``(n, 16)``.
        bad: positions that hold no image.
        blank: positions of images of one uniform colour.

    Returns:
        The remaining positions, and those of the removed duplicates.
    """
    images = numbered(hashes)
    usable, comparable = np.ones(len(hashes), bool), np.ones(len(hashes), bool)
    usable[bad] = False
    comparable[blank] = False
    held_out: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        part = np.concatenate([getattr(parts, split) for parts in clients.values()])
        held_out[split] = np.zeros(len(images), bool)
        held_out[split][images[part[usable[part]]]] = True
    remaining, left_out = dict[str, SplitPositions](), dict[str, SplitPositions]()
    for name, parts in clients.items():
        unique, duplicates = [], []
        for split, part in zip(SPLITS, parts, strict=True):
            part = part[usable[part]]
            in_others = [held_out[other][images[part]] for other in HELD_OUT[split]]
            duplicate = np.any([np.zeros(len(part), bool), *in_others], 0) & comparable[part]
            unique.append(part[~duplicate])
            duplicates.append(part[duplicate])
        remaining[name], left_out[name] = SplitPositions(*unique), SplitPositions(*duplicates)
    return remaining, left_out


def under_several_classes(hashes: np.ndarray, labels: np.ndarray, leave: np.ndarray) -> int:
    """Count the samples whose image also has another class, except for the positions in `leave`.

    >>> hashes = np.repeat(np.array([1, 1, 2, 2], np.uint8)[:, None], DIGEST_SIZE, axis=1)
    >>> under_several_classes(hashes, np.array([0, 1, 1, 1]), np.empty(0, np.int64))
    2
    """
    use = np.ones(len(labels), bool)
    use[leave] = False
    num_classes = pd.Series(labels[use]).groupby(numbered(hashes[use])).transform("nunique")
    return int((num_classes > 1).sum())


def by_class(clients: Collection[Any], labels: np.ndarray) -> dict[int, dict[str, int]]:
    """Count all clients' samples, whose positions have the attributes train, val and test, by class and split."""
    counts: dict[int, dict[str, int]] = {}
    for split in SPLITS:
        positions = np.concatenate([getattr(parts, split) for parts in clients])
        for label, count in count_labels(labels[positions]).items():
            counts.setdefault(label, {})[split] = count
    return counts


def by_client(clients: Mapping[str, SplitPositions]) -> dict[str, dict[str, int]]:
    """Count samples by client and split, for those that have some."""
    counts = {
        name: {split: len(part) for split, part in parts._asdict().items() if len(part)}
        for name, parts in clients.items()
    }
    return {name: of_client for name, of_client in counts.items() if of_client}


def count_labels(labels: np.ndarray) -> dict[int, int]:
    """Count the samples of each class that has some.

    >>> count_labels(np.array([2, 0, 2]))
    {0: 1, 2: 2}
    """
    return {label: count for label, count in enumerate(np.bincount(labels).tolist()) if count}


class Loss(NamedTuple):
    """Number of duplicates left out of a split of a client or a class, and of all its images."""

    whose: str
    split: str
    left_out: int
    images: int


def large_losses(
    remaining: Mapping[str, Mapping[str, int]],
    left_out: Mapping[str, Mapping[str, int]],
    most: float,
    nothing_left: bool = False,
) -> list[Loss]:
    """Return the losses of more than a given share of images, the largest share first.

    A few images are never too many, except, with `nothing_left`, if no training image is left.

    Args:
        remaining: number of remaining images, by client or class and split; missing entries are 0.
        left_out: number of images left out, likewise.
        most: largest permitted share.
        nothing_left: see above.

    >>> large_losses({"a": {"train": 95}, "b": {"train": 80}}, {"a": {"train": 5}, "b": {"train": 20}}, 0.1)
    [Loss(whose='b', split='train', left_out=20, images=100)]
    """
    losses = [
        Loss(whose, split, count, count + remaining.get(whose, {}).get(split, 0))
        for whose, counts in left_out.items()
        for split, count in counts.items()
    ]
    large = [loss for loss in losses if loss.left_out > max(most * loss.images, FEW_COPIES)]
    if nothing_left:
        large += [loss for loss in losses if loss.split == "train" and loss.left_out == loss.images <= FEW_COPIES]
    return sorted(large, key=lambda loss: -loss.left_out / loss.images)
