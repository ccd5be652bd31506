"""Images that are in two parts of which one is chosen by or tested on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lpft.data.splits import HELD_OUT, SPLITS, SplitPositions

DIGEST_SIZE = 16
"""Bytes of an image's hash."""


def without_duplicates(
    clients: Mapping[str, SplitPositions], digests: np.ndarray, bad: np.ndarray
) -> tuple[dict[str, SplitPositions], dict[str, dict[str, int]]]:
    """Leave out images that are in a part of anyone's that is tested or chosen on.

    An image in a test part stays there and is left out of all val and train parts, one in a val part of all train
    parts. Duplicates within a split stay.

    Args:
        clients: positions of every client's samples.
        digests: hash of every image, uint8, ``(n, 16)``.
        bad: positions that hold no image.

    Returns:
        The positions that are left, and how many were left out, by client and split.
    """
    images = np.unique(np.ascontiguousarray(digests).view(f"V{DIGEST_SIZE}").ravel(), return_inverse=True)[1]
    unusable = np.isin(np.arange(len(digests)), bad)
    whole = {name: SplitPositions(*(part[~unusable[part]] for part in parts)) for name, parts in clients.items()}
    held: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        held[split] = np.zeros(len(images), bool)
        for parts in whole.values():
            held[split][images[getattr(parts, split)]] = True
    kept, left_out = dict[str, SplitPositions](), dict[str, dict[str, int]]()
    for name, parts in whole.items():
        remaining = []
        for split, part in zip(SPLITS, parts, strict=True):
            duplicate = np.zeros(len(part), bool)
            for other in HELD_OUT[split]:
                duplicate |= held[other][images[part]]
            if duplicate.any():
                left_out.setdefault(name, {})[split] = int(duplicate.sum())
            remaining.append(part[~duplicate])
        kept[name] = SplitPositions(*remaining)
    return kept, left_out
