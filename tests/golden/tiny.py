"""Tiny generated image sets for the golden record: plain CIFAR-10, and a table with a spurious attribute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.layouts import save_batches

SPURIOUS = 240


def save_cifar(root: Path) -> None:
    """Save 360 images in the layout of CIFAR-10; the 60 of the test set are those that are corrupted."""
    root.mkdir(parents=True)
    save_batches(root, per_file=60)


def save_spurious(root: Path) -> None:
    """Save pictures whose brightness is the class and whose colour is the attribute, and the table of both."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["file,bright,red"]
    for number in range(SPURIOUS):
        bright, red = number % 2, number // 2 % 2
        pixels = rng.integers(0, 100, (12, 12, 3)) + 60 * bright
        pixels[..., 0] += 50 * red
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        rows.append(f"{number}.png,{bright},{red}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
