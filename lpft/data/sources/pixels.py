"""Reads image files of any depth, transparency and orientation as upright pixels of 8 bits."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image upright, by its EXIF orientation."""

SWAPPED = "B" if sys.byteorder == "little" else "L"
LOW_BYTES = {
    **{
        f"{bands};16{order}": f"{bands};16{other}" for bands in ("RGB", "RGBA", "RGBX") for order, other in ("BL", "LB")
    },
    **{f"{bands};16N": f"{bands};16{SWAPPED}" for bands in ("RGB", "RGBA", "RGBX")},
    "LA;16B": "RGBA",
}
"""Pillow keeps the high bytes of 16-bit colours; the same data in the other byte order give the low bytes."""

KEY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}
"""Pillow scales grey levels of 1, 2 and 4 bits up to 255, except the transparent one."""

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of TIFF."""


class Depth(NamedTuple):
    """Images of more than 8 bits a channel, of one kind.

    Args:
        limit: the highest value of the format: 65535 for 16 bits, 1 for floating-point numbers.
        images: number of images.
        lowest: their lowest value.
        highest: their highest value.
    """

    limit: float
    images: int
    lowest: float
    highest: float


def merged(depths: Iterable[Sequence[Any]]) -> list[Depth]:
    """Merge depths, or lists of their values, of the same limit.

    >>> merged([Depth(65535, 1, 3, 900), Depth(65535, 2, 0, 800)])
    [Depth(limit=65535, images=3, lowest=0, highest=900)]
    """
    by_limit: dict[float, Depth] = {}
    for depth in (Depth(*values) for values in depths):
        other = by_limit.get(depth.limit, Depth(depth.limit, 0, depth.lowest, depth.highest))
        by_limit[depth.limit] = Depth(
            depth.limit,
            other.images + depth.images,
            min(other.lowest, depth.lowest),
            max(other.highest, depth.highest),
        )
    return [by_limit[limit] for limit in sorted(by_limit)]


@dataclass
class Notes:
    """Properties of decoded image files that the user should know.

    Args:
        depths: images of more than 8 bits a channel.
        frames: names of files with several frames (pages); only the first was read.
    """

    depths: list[Depth] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PixelSettings:
    """How pixels become 8 bits.

    Args:
        background: the colour behind transparent images, red, green and blue from 0 to 255.
        value_range: the values that become 0 and 255 in images of more than 8 bits; None is the full range of the
            format.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    value_range: tuple[float, float] | None = None

    @classmethod
    def of(cls, background: str, bits: int | None, value_range: Sequence[float] | None) -> PixelSettings:
        """Check settings; raise ValueError if they are out of range.

        >>> PixelSettings.of("white", 12, None).value_range
        (0, 4095)
        """
        try:
            colour = ImageColor.getrgb(background)
        except ValueError as error:
            raise ValueError(
                f"`background={background}` is not a colour. HINT: `white`, `black`, or a colour such as `'#808080'`."
            ) from error
        if bits is not None and value_range is not None:
            raise ValueError(
                f"`bits={bits}` and `value_range={list(value_range)}` both determine how values are scaled."
                " HINT: set one of them to null."
            )
        if bits is not None:
            if bits > 16:
                raise ValueError(f"`bits={bits}` is more than 16. HINT: set the range of the values, `value_range`.")
            value_range = (0, 2**bits - 1)
        if value_range is not None and (len(value_range) != 2 or not value_range[0] < value_range[1]):
            raise ValueError(
                f"`value_range={list(value_range)}` is not a lower and a higher value. HINT: `[0, 4095]` for 12 bits."
            )
        return cls(colour[:3], None if value_range is None else (value_range[0], value_range[1]))


DEFAULT_PIXELS = PixelSettings()


def read_pixels(path: Path, settings: PixelSettings, notes: Notes) -> Image.Image:
    """Read an image file's first frame, upright, of mode L or RGB, and add to `notes`.

    Raises:
        Exception: of any kind, if the file cannot be decoded.
        ValueError: if values are out of range.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        with path.open("rb") as stream, Image.open(stream) as file:
            several, form = _has_several_frames(file), Form.of(file)
            image = _upright(file)
        if form.raw_mode in LOW_BYTES:
            with path.open("rb") as stream, Image.open(stream) as file:
                file.tile = [_with_raw_mode(tile, LOW_BYTES[form.raw_mode]) for tile in file.tile]
                low = _upright(file)
            image = _scaled(*_combined(image, low, form), form, settings, notes)
        elif image.mode == "F" or image.mode.startswith("I"):
            image = _scaled(*_single(image, form), form, settings, notes)
        elif form.raw_mode in KEY_SCALES:
            image = _with_scaled_key(image, KEY_SCALES[form.raw_mode])
    if several:
        notes.frames.append(str(path))
    return _opaque(image, settings.background)


class Form(NamedTuple):
    """The form of the pixels in a file.

    Args:
        raw_mode: Pillow's name for it; empty if parts of the file differ.
        limit: the highest possible value of a channel of more than 8 bits.
        stretched: whether Pillow scales values up to 16 bits.
        inverted: whether 0 is white, which Pillow respects only for 8 bits.
    """

    raw_mode: str
    limit: float
    stretched: bool
    inverted: bool

    @classmethod
    def of(cls, file: Image.Image) -> Form:
        """Determine the form before the pixels are decoded."""
        arguments = [tile[3] for tile in getattr(file, "tile", ())]
        raw_modes = {args if isinstance(args, str) else str(args[0]) for args in arguments if args}
        raw_mode = raw_modes.pop() if len(raw_modes) == 1 else ""
        tags = getattr(file, "tag_v2", {})
        bits = max(tags.get(BITS_PER_SAMPLE, (16,)))
        limit = 1 if file.mode == "F" else 2**bits - 1 if 8 < bits < 16 else 65535
        stretched = file.format == "PPM" and file.mode == "I" and isinstance(arguments[0], tuple)
        return cls(raw_mode, int(arguments[0][1]) if stretched else limit, stretched, tags.get(PHOTOMETRIC) == 0)


def _has_several_frames(file: Image.Image) -> bool:
    try:
        return bool(getattr(file, "is_animated", False))
    except Exception:  # the second frame is damaged; the first may be intact
        return True


def _upright(file: Image.Image) -> Image.Image:
    """Load an image and rotate it by its EXIF orientation.

    The orientation is removed from the metadata first: otherwise Pillow rewrites them, which fails if they are odd.
    """
    try:
        orientation = file.getexif().pop(ORIENTATION, 1)
    except Exception:  # unreadable metadata are ignored, as in image viewers
        orientation = 1
    file.load()
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return file.copy() if turn is None else file.transpose(turn)


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    args = raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])
    return tile._replace(args=args)


def _single(image: Image.Image, form: Form) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values of one channel, and the alpha channel."""
    values = np.asarray(image)
    if form.stretched:
        values = np.rint(values * (form.limit / 65535)).astype(np.int32)
    return values, _keyed_alpha(values, image)


def _combined(high: Image.Image, low: Image.Image, form: Form) -> tuple[np.ndarray, np.ndarray | None]:
    """Combine the channels' high and low bytes, and return the alpha channel's high bytes."""
    upper, lower = np.asarray(high), np.asarray(low)
    if form.raw_mode == "LA;16B":  # the four bytes of each pixel
        return lower[..., 0].astype(np.uint16) * 256 + lower[..., 1], lower[..., 2]
    values = upper[..., :3].astype(np.uint16) * 256 + lower[..., :3]
    return values, upper[..., 3] if upper.shape[2] == 4 else _keyed_alpha(values, high)


def _keyed_alpha(values: np.ndarray, image: Image.Image) -> np.ndarray | None:
    """Return the alpha channel of an image in which one value or colour is transparent."""
    key = image.info.get("transparency")
    if key is None:
        return None
    transparent = values == np.array(key)
    return np.where(transparent.all(-1) if values.ndim == 3 else transparent, 0, 255).astype(np.uint8)


def _with_scaled_key(image: Image.Image, scale: int) -> Image.Image:
    key = image.info.pop("transparency", None)
    image = image.convert("L")
    if key is not None:
        image.info["transparency"] = min(key * scale, 255)
    return image


def _scaled(
    values: np.ndarray, alpha: np.ndarray | None, form: Form, settings: PixelSettings, notes: Notes
) -> Image.Image:
    """Scale values, ``(height, width)`` or ``(height, width, 3)``, to 8 bits and add the alpha channel."""
    limit, lowest, highest = form.limit, values.min().item(), values.max().item()
    if not np.isfinite([lowest, highest]).all():
        raise ValueError("some of its values are not finite numbers")
    if settings.value_range is None and not 0 <= lowest <= highest <= limit:
        raise ValueError(
            f"its values go from {lowest:g} to {highest:g}, expected 0 to {limit:g}; `--data.value_range"
            f" '[{lowest:g},{highest:g}]'` reads it"
        )
    start, end = settings.value_range or (0, limit)
    levels = np.floor((values - np.float64(start)) * (256 / (end - start)))  # bins of one width: 16 bits lose the low 8
    pixels = levels.clip(0, 255).astype(np.uint8)
    image = Image.fromarray(255 - pixels if form.inverted else pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    notes.depths = merged([*notes.depths, Depth(limit, 1, lowest, highest)])
    return image


def _opaque(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Compose an image over a colour if it is transparent; the result has mode L or RGB."""
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")
