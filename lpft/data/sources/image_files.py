"""Image files, decoded into arrays of one form. Imports nothing heavy: processes that help to decode start quickly."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lpft.data.messages import printable, shortened
from lpft.data.sources.pixels import DEFAULT_PIXELS, Notes, PixelSettings, read_pixels

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Endings of image files, in lower case."""

OTHER_KINDS = (
    (0, b"version https://git-lfs", "it is a pointer of Git LFS. HINT: fetch the file with `git lfs pull`"),
    (0, b"<", "it is a page of text, not an image. HINT: download it again"),
    (4, b"ftyp", "it is a HEIC or AVIF image, which Pillow cannot read here. HINT: convert it to PNG or JPEG"),
    (128, b"DICM", "it is a DICOM file. HINT: convert it to PNG of 16 bits"),
)
"""Other files that are often named like images: position and bytes of their signature, and a description."""


class Decoded(NamedTuple):
    """The result of decoding image files.

    Args:
        images: decoded images, uint8, ``(n, channels, size, size)``; of feature arrays float32 rows,
            ``(n, num_features)``.
        good: which files could be decoded, bool, one for each file.
        bad: path and reason of every other file.
        notes: properties of the decoded images that the user should know.
    """

    images: np.ndarray
    good: np.ndarray
    bad: list[str]
    notes: Notes = Notes()


def decode_files(
    root: Path,
    names: Sequence[str],
    channels: int,
    size: int,
    crop: int | None = None,
    settings: PixelSettings = DEFAULT_PIXELS,
) -> Decoded:
    """Read image files; any exception of the decoder marks the file as bad.

    Args:
        root: folder that the names are relative to.
        names: paths of the files, relative to `root`.
        channels: 1 or 3; RGB becomes grey by luminance (ITU-R 601), grey becomes RGB by repetition.
        size: height and width to which the images are resized, bilinearly with antialiasing.
        crop: side in pixels of a center crop before resizing; by default the whole image is used.
        settings: how transparent images and those of more than 8 bits become opaque ones of 8 bits.
    """
    notes = Notes()
    images, good, bad = [], [], []
    for name in names:
        path = root / name
        try:
            images.append(read_image(path, channels, size, crop, settings, notes))
            good.append(True)
        except Exception as error:  # decoders raise struct.error, KeyError, ZeroDivisionError, ...
            bad.append(f"{printable(str(path))} ({reason(path, error)})")
            good.append(False)
    stacked = np.stack(images) if images else np.empty((0, channels, size, size), np.uint8)
    return Decoded(stacked, np.array(good, bool), bad, notes)


def read_image(
    path: Path,
    channels: int,
    size: int,
    crop: int | None = None,
    settings: PixelSettings = DEFAULT_PIXELS,
    notes: Notes | None = None,
) -> np.ndarray:
    """Read one image file as uint8, ``(channels, size, size)``; raise an exception, of any kind, if that fails.

    Only the first of several frames (pages) is read. It is rotated by its EXIF orientation and composed over the
    background; images of more than 8 bits per channel are scaled to 8 (see `PixelSettings`). `notes` collects what the
    user should know.
    """
    image = read_pixels(path, settings, Notes() if notes is None else notes)
    if crop:
        width, height = (max(side - crop, 0) for side in image.size)  # pixels to cut off; none if an image is smaller
        image = ImageOps.crop(image, (width // 2, height // 2, width - width // 2, height - height // 2))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read."""
    if not isinstance(error, UnidentifiedImageError):
        return printable(str(error)) or type(error).__name__
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "the file is empty"
    kinds = (kind for position, signature, kind in OTHER_KINDS if start[position:].lstrip().startswith(signature))
    return next(kinds, "it starts like no image that Pillow knows, or is damaged")


def resize(images: np.ndarray, channels: int, size: int) -> np.ndarray:
    """Convert images, uint8, ``(n, height, width, 1 or 3)``, to the channels and size of `decode_files`.

    Returns:
        uint8, ``(n, channels, size, size)``.

    >>> resize(np.full((2, 4, 6, 3), 7, np.uint8), channels=1, size=8)[:, 0, 0, 0]
    array([7, 7], dtype=uint8)
    """
    import torch  # not needed to decode files
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


def stamp_paths(root: Path, paths: Iterable[Path]) -> str:
    """Hash files as `stamp` does, those below a folder by their path relative to it."""
    names = (path.relative_to(root) if path.is_relative_to(root) else path for path in paths)
    return stamp(root, [name.as_posix() for name in names])
