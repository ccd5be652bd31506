"""Accuracy matrices as heat maps: with matplotlib for the report, pixel by pixel (far faster) for TensorBoard."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lpft.reporting.style import INK, NAMED_CLIENTS, NUMBERED_CLIENTS, short, text_color

Matrix = NDArray[np.float64]

FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def heatmap_png(matrix: Matrix, names: Sequence[str]) -> tuple[bytes, int, int]:
    """Draw an accuracy matrix: row = whose model, column = whose test set, own test sets framed; unknown is white.

    Args:
        matrix: percent, ``(C, C)``.
        names: of the clients.

    Returns:
        PNG data, width and height in pixels.
    """
    size = max(4, min(34, 600 // max(1, len(names))))
    font = ImageFont.truetype(str(FONT), 11)
    labels = [short(name) for name in names] if len(names) <= NAMED_CLIENTS else ["" for _ in names]
    margin = 12 + max((math.ceil(font.getlength(label)) for label in labels), default=0)
    side = margin + size * len(names) + 6
    image = Image.new("RGB", (side, side), "white")
    colors = _colors(matrix)
    image.paste(_enlarged(colors, size), (margin, margin))
    draw = ImageDraw.Draw(image)
    for place, label in enumerate(labels):
        start = margin + size * place
        draw.text((margin - 6, start + size // 2), label, fill=INK, font=font, anchor="rm")
        image.paste(_upright(label, font, size, margin - 6), (start, 0))
        draw.rectangle((start, start, start + size - 1, start + size - 1), outline="white", width=1 + size // 20)
    if len(names) <= NUMBERED_CLIENTS:
        for (row, column), value in np.ndenumerate(matrix):
            if not math.isnan(value):
                center = (margin + size * column + size // 2, margin + size * row + size // 2)
                ink = text_color(*colors[row, column] / 255)
                draw.text(center, f"{value:.0f}", fill=ink, font=font, anchor="mm")
    data = io.BytesIO()
    image.save(data, format="png")
    return data.getvalue(), side, side


def _colors(matrix: Matrix) -> np.ndarray:
    known = matrix[~np.isnan(matrix)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    share = (matrix - low) / (high - low or 1.0)
    return np.asarray(mpl.colormaps["viridis"].with_extremes(bad="white")(np.ma.masked_invalid(share), bytes=True))[
        ..., :3
    ]


def _enlarged(colors: np.ndarray, size: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(colors.repeat(size, axis=0).repeat(size, axis=1)))


def _upright(label: str, font: ImageFont.FreeTypeFont, width: int, height: int) -> Image.Image:
    """Return a label that reads upwards."""
    image = Image.new("RGB", (height, width), "white")
    ImageDraw.Draw(image).text((0, width // 2), label, fill=INK, font=font, anchor="lm")
    return image.rotate(90, expand=True)


def draw_matrix(axes: Axes, matrix: Matrix, names: Sequence[str], scale: Normalize) -> None:
    """Draw an accuracy matrix into a plot: framed diagonal, and numbers if there is room for them."""
    image = axes.imshow(matrix, norm=scale, interpolation="none")
    bare(axes)
    ticks = range(len(names)) if len(names) <= NAMED_CLIENTS else []
    size = 8.5 if len(names) <= NUMBERED_CLIENTS else 5.5
    labels = [short(name, 12) for name in names] if ticks else []
    axes.set_xticks(ticks, labels, rotation=90, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
    if len(names) <= NUMBERED_CLIENTS:
        for (row, column), value in np.ndenumerate(matrix):
            if not math.isnan(value):
                write_number(axes, row, column, f"{value:.0f}", image.cmap(float(scale(value))), fontsize=7)
    if len(names) <= NAMED_CLIENTS:
        for place in range(len(names)):
            axes.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2))


def bare(axes: Axes) -> None:
    """Remove grid, spines and tick marks."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def write_number(axes: Axes, row: int, column: int, text: str, ground: Any, **style: Any) -> str:
    """Write into a field of a heat map, black or white, whichever reads better; return that colour."""
    ink = text_color(*ground[:3])
    axes.text(column, row, text, ha="center", va="center", color=ink, **style)
    return ink


def color_scale(matrices: Sequence[Matrix]) -> Normalize:
    """Return the range of colours that fits all values of these matrices."""
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    finite = values[~np.isnan(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 100.0)
    return Normalize(low, high if high > low else low + 1)
