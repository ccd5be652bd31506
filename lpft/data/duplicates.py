"""Images that are in two parts of which one is chosen by or tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from lpft.data.splits import HELD_OUT, SPLITS, SplitPositions

DIGEST_SIZE = 16
"""Bytes of an image's hash."""


def digests(images: np.ndarray) -> np.ndarray:
    """Hash images, ``(n, ...)``: what is equal has equal bytes, uint8, ``(n, 16)``."""
    hashes = [hashlib.blake2b(image, digest_size=DIGEST_SIZE).digest() for image in np.ascontiguousarray(images)]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, DIGEST_SIZE)


def without_duplicates(
    clients: Mapping[str, SplitPositions], hashes: np.ndarray, bad: np.ndarray
) -> tuple[dict[str, SplitPositions], dict[str, dict[str, int]]]:
    """Leave images in anyone's test part out of all val and train parts, and those in a val part out of train parts.

    Duplicates within a split stay.

    Args:
        clients: positions of every client's samples.
        hashes: hash of every image, uint8, ``(n, 16)``.
        bad: positions that hold no image.

    Returns:
        The positions that are left, and how many were left out, by client and split.
    """
    images = np.unique(np.ascontiguousarray(hashes).view(f"V{DIGEST_SIZE}").ravel(), return_inverse=True)[1]
    usable = np.ones(len(hashes), bool)
    usable[bad] = False
    held: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        parts_of_split = [getattr(parts, split) for parts in clients.values()]
        held[split] = np.zeros(len(images), bool)
        for part in parts_of_split:
            held[split][images[part[usable[part]]]] = True
    kept, left_out = dict[str, SplitPositions](), dict[str, dict[str, int]]()
    for name, parts in clients.items():
        remaining = []
        for split, part in zip(SPLITS, parts, strict=True):
            part = part[usable[part]]
            duplicate = np.any(
                [np.zeros(len(part), bool), *(held[other][images[part]] for other in HELD_OUT[split])], 0
            )
            if duplicate.any():
                left_out.setdefault(name, {})[split] = int(duplicate.sum())
            remaining.append(part[~duplicate])
        kept[name] = SplitPositions(*remaining)
    return kept, left_out
