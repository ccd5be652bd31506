"""Coloured shapes in image files of odd sizes: images unlike any that lpft ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")
SAME = {shape: shape for shape in SHAPES}
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


def save_shapes(
    folder: Path, num_each: int, seed: int = 0, classes: Mapping[str, str] = SAME, mode: str = "RGB"
) -> None:
    """Save shapes in files of several formats, in a folder for each class; `classes` says which shape a class has."""
    rng = np.random.default_rng(seed)
    for name, kind in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(num_each):
            shape(kind, rng, mode).save(folder / name / f"{seed}-{i:03}.{ENDINGS[i % len(ENDINGS)]}")
