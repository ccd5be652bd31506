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
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from lpft.evaluation.metric import Matrix
from lpft.reporting.style import INK, short, text_color

NAMED_CLIENTS = 30
"""Maximum number of clients with names in a figure."""
NUMBERED_CLIENTS = 12
"""Maximum number of clients of a matrix with numbers."""
MANY_CLIENTS = 150
"""Maximum number of rows of a matrix; with more clients, rows are means over several."""
FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def color_scale(matrices: Sequence[Matrix]) -> Normalize:
    """Return a colour scale for all values of these matrices."""
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    finite = values[~np.isnan(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 100.0)
    return Normalize(low, high if high > low else low + 1)


def bin_size(number: int) -> int:
    """Return the number of clients per row of a matrix.

    >>> bin_size(150), bin_size(151), bin_size(2000)
    (1, 2, 14)
    """
    return -(-number // MANY_CLIENTS)


def binned(matrix: Matrix) -> Matrix:
    """Return a matrix that can be drawn: of more than `MANY_CLIENTS` clients, means over square fields.

    Args:
        matrix: ``(C, C)``, NaN where it is not defined.

    Returns:
        ``(B, B)`` with ``B = ceil(C / bin_size(C))``; NaN where a field has no defined value.
    """
    width = bin_size(len(matrix))
    if width <= 1:
        return matrix
    undefined = np.isnan(matrix)
    if undefined.any():
        sums, counts = _field_sums(np.where(undefined, 0.0, matrix), width), _field_sums(1.0 - undefined, width)
    else:
        sizes = np.minimum(width, len(matrix) - np.arange(0, len(matrix), width))
        sums, counts = _field_sums(matrix, width), np.outer(sizes, sizes)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _field_sums(values: Matrix, width: int) -> Matrix:
    """Sum up square fields of `width` rows and columns."""
    starts = np.arange(0, len(values), width)
    return np.asarray(np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1))


def heatmap_png(matrix: Matrix, names: Sequence[str], scale: Normalize) -> tuple[bytes, int, int]:
    """Draw an accuracy matrix: row = whose model, column = whose test set, own test sets framed; unknown is white.

    Args:
        matrix: percent, ``(C, C)``, see `binned`.
        names: of the clients; only a few are written.
        scale: of the colours, see `color_scale`.

    Returns:
        PNG data, width and height in pixels.
    """
    if len(names) != len(matrix):
        names = [""] * len(matrix)
    size = max(4, min(34, 600 // max(1, len(names))))
    font = ImageFont.truetype(str(FONT), 11)
    labels = [short(name) for name in names] if len(names) <= NAMED_CLIENTS else [""] * len(names)
    margin = 12 + max((math.ceil(font.getlength(label)) for label in labels), default=0)
    side = margin + size * len(names) + 6
    image = Image.new("RGB", (side, side), "white")
    palette = mpl.colormaps["viridis"].with_extremes(bad="white")
    colors = palette(scale(np.ma.masked_invalid(matrix)), bytes=True)[..., :3]
    image.paste(Image.fromarray(colors.repeat(size, axis=0).repeat(size, axis=1)), (margin, margin))
    draw = ImageDraw.Draw(image)
    for index, label in enumerate(labels):
        start = margin + size * index
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


def _upright(label: str, font: ImageFont.FreeTypeFont, width: int, height: int) -> Image.Image:
    """Return a label that reads upwards."""
    image = Image.new("RGB", (height, width), "white")
    ImageDraw.Draw(image).text((0, width // 2), label, fill=INK, font=font, anchor="lm")
    return image.rotate(90, expand=True)


def draw_matrix(axes: Axes, matrix: Matrix, names: Sequence[str], scale: Normalize) -> None:
    """Draw an accuracy matrix into a plot: framed diagonal, and numbers if there is room for them."""
    image = draw_fields(axes, matrix, scale)
    names = names if len(names) == len(matrix) else [""] * len(matrix)
    ticks = range(len(names)) if len(names) <= NAMED_CLIENTS else []
    size = 8.5 if len(names) <= NUMBERED_CLIENTS else 5.5
    labels = [short(name, 12) for name in names] if ticks else []
    axes.set_xticks(ticks, labels, rotation=90, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
    if len(names) <= NUMBERED_CLIENTS:
        write_numbers(image, ".0f", fontsize=7)
    for tick in ticks:
        axes.add_patch(Rectangle((tick - 0.5, tick - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2))


def draw_fields(axes: Axes, values: Matrix, scale: Normalize, **style: Any) -> AxesImage:
    """Draw coloured fields, without grid, spines and tick marks."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return axes.imshow(values, norm=scale, **style)


def write_numbers(image: AxesImage, form: str, **style: Any) -> None:
    """Write the values into their fields, black or white, whichever reads better."""
    values: np.ma.MaskedArray = np.ma.asarray(image.get_array())
    colors = image.to_rgba(values)
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            ink = text_color(*colors[row, column, :3])
            text = format(value, form)
            image.axes.text(column, row, text, ha="center", va="center", color=ink, in_layout=False, **style)
