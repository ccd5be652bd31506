"""Coloured shapes in image files of odd sizes: images unlike any that lpft ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")
ENDINGS = ("png", "jpg", "JPEG", "bmp")


def shape(kind: str, rng: np.random.Generator, mode: str = "RGB") -> Image.Image:
    """Draw one shape, somewhere, in a colour of its own, on a background of 20 to 50 pixels."""
    width, height = rng.integers(20, 50, size=2).tolist()
    image = Image.new("RGB", (width, height), tuple(rng.integers(0, 90, size=3).tolist()))
    draw, ink = ImageDraw.Draw(image), tuple(rng.integers(150, 256, size=3).tolist())
    radius = min(width, height) * rng.uniform(0.25, 0.45)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == "circle":
        draw.ellipse(box, fill=ink)
    elif kind == "square":
        draw.rectangle(box, fill=ink)
    else:
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=ink)
    return image.convert(mode)


def save_shapes(folder: Path, num_each: int, seed: int = 0, kinds: tuple[str, ...] = SHAPES, mode: str = "RGB") -> None:
    """Save shapes in a folder for each class, in files of several formats."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(num_each):
            shape(kind, rng, mode).save(folder / kind / f"{seed}-{i:03}.{ENDINGS[i % len(ENDINGS)]}")
