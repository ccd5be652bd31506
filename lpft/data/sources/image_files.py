"""Image files, decoded into arrays of one form. Imports nothing heavy: processes that help to decode start quickly."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lpft.data.messages import shortened

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""What is taken for an image file, by its ending in lower case."""

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")


class Decoded(NamedTuple):
    """What came of some image files.

    Args:
        images: uint8, ``(n, channels, size, size)``, of those that could be decoded.
        good: which ones could be, bool, one for each file.
        bad: path and reason of those that could not.
    """

    images: np.ndarray
    good: np.ndarray
    bad: list[str]


def decode_files(root: Path, names: Sequence[str], channels: int, size: int, crop: int | None = None) -> Decoded:
    """Read image files.

    Args:
        root: folder that the names start from.
        names: paths of the files, relative to `root`.
        channels: 1 or 3; RGB becomes grey by luminance (ITU-R 601), grey becomes RGB by repetition.
        size: height and width to which the images are resized, bilinearly with antialiasing.
        crop: side of a square that is cut out of the middle before resizing; by default the whole image is taken.
    """
    images, good, bad = [], [], []
    for name in names:
        try:
            images.append(read_image(root / name, channels, size, crop))
            good.append(True)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            bad.append(f"{root / name} ({str(error) or type(error).__name__})")
            good.append(False)
    stacked = np.stack(images) if images else np.empty((0, channels, size, size), np.uint8)
    return Decoded(stacked, np.array(good, bool), bad)


def read_image(path: Path, channels: int, size: int, crop: int | None = None) -> np.ndarray:
    """Read one image file as uint8, ``(channels, size, size)``; raise OSError or ValueError if it is not an image.

    It is turned as its EXIF data say. Images of 16 bits a channel keep the upper 8.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    if image.mode in SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of PIL's mode {image.mode}, expected 8 or 16 bits a channel")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "L":
        image = image.convert("RGB")
    if crop:
        width, height = (max(side - crop, 0) for side in image.size)  # to cut off; nothing where an image is smaller
        image = ImageOps.crop(image, (width // 2, height // 2, width - width // 2, height - height // 2))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def resize(images: np.ndarray, channels: int, size: int) -> np.ndarray:
    """Give images, uint8, ``(n, height, width, 1 or 3)``, channels and size as `decode_files` does.

    Returns:
        uint8, ``(n, channels, size, size)``.

    >>> resize(np.full((2, 4, 6, 3), 7, np.uint8), channels=1, size=8)[:, 0, 0, 0]
    array([7, 7], dtype=uint8)
    """
    import torch  # decoding files does without
    from torch.nn.functional import interpolate

    if channels == 1 and images.shape[3] == 3:
        weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 in units of 2**-16
        images = ((images @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
    pixels = np.require(images.transpose(0, 3, 1, 2), requirements=["C", "W"])
    if pixels.shape[2:] != (size, size):
        resized = interpolate(torch.from_numpy(pixels).float(), size=(size, size), mode="bilinear", antialias=True)
        pixels = resized.round().clamp(0, 255).to(torch.uint8).numpy()
    return np.repeat(pixels, channels, axis=1) if pixels.shape[1] < channels else pixels


def stamp(root: Path, names: Sequence[str], on_missing: Literal["error", "skip"] = "error") -> str:
    """Hash names, sizes and modification times of files below a folder, without reading them.

    Missing files raise a FileNotFoundError, or are hashed as missing.
    """
    digest, missing = hashlib.sha256(), []
    for name in names:
        try:
            stat = os.stat(root / name)  # noqa: PTH116 (twice as fast, and there may be a million)
        except FileNotFoundError:
            missing.append(name)
            state = "missing"
        else:
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        digest.update(os.fsencode(name) + f"\0{state}\n".encode())
    if missing and on_missing == "error":
        raise FileNotFoundError(
            f"{len(missing)} files are missing in {root}: {shortened(missing)}. HINT: unpack the data set again, or"
            " remove them from its list; `--data.on_bad_image skip` leaves them out."
        )
    return digest.hexdigest()
