"""The 19 image corruptions of CIFAR-10-C and CIFAR-100-C, each in five severities.

Hendrycks and Dietterich, arXiv:1903.12261. The constants are those of CIFAR-10-C, far milder than those of
ImageNet-C; the formulas are reimplemented with numpy, scipy and Pillow, and every random draw comes from a given
generator. Differences from the published images, besides the draws themselves:

- frost: the authors blend photographs of frozen windows, which this package does not ship. It draws a texture
  instead, with the range of brightness, the bluish tint and the grain of such photographs.
- spatter by water (severities 1 to 3): morphology instead of Canny's detector finds the outline of the drops.
- blurs: ImageMagick and OpenCV, which the authors use, round intermediate pixels to 8 bits; the blurs here do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Literal, get_args

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

Corruption = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
]  # fmt: skip
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
"""The 15 of the benchmark, then the four extra ones; the names are those of the archive's files."""

Severity = Literal[1, 2, 3, 4, 5]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

GREY = np.array([0.299, 0.587, 0.114])
WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255
FROST_TINT = np.array([-0.05, 0.0, 0.04])


Change = Callable[[np.ndarray, Any, Generator], np.ndarray]
CHANGES: dict[str, tuple[Change, Sequence[Any]]] = {}
"""The function of every corruption, and its constants for the severities 1 to 5."""


def severities(*constants: Any) -> Callable[[Change], Change]:
    """Register a corruption with its constants for the severities 1 to 5."""

    def register(change: Change) -> Change:
        CHANGES[change.__name__] = change, constants
        return change

    return register


def corrupt(image: np.ndarray, corruption: Corruption, severity: Severity, rng: Generator) -> np.ndarray:
    """Corrupt one image, uint8, ``(size, size, 3)``, with a severity from 1 (mild) to 5.

    The constants are meant for 32x32 pixels. Raises ValueError if image or severity have another form.

    >>> corrupt(np.full((32, 32, 3), 100, np.uint8), "brightness", 5, np.random.default_rng(0))[0, 0]
    array([176, 176, 176], dtype=uint8)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (len(image), len(image), 3):
        raise ValueError(
            f"An image to corrupt is {image.dtype} of shape {image.shape}, expected uint8 (size, size, 3)."
        )
    if severity not in SEVERITIES:
        raise ValueError(f"`severity={severity}` is none of {', '.join(map(str, SEVERITIES))}.")
    change, levels = CHANGES[corruption]
    if change in (pixelate, jpeg_compression):  # these are operations on bytes
        changed: np.ndarray = change(image, levels[severity - 1], rng)
        return changed
    return (np.clip(change(image / 255, levels[severity - 1], rng), 0, 1) * 255).astype(np.uint8)


@severities(0.04, 0.06, 0.08, 0.09, 0.1)
def gaussian_noise(x: np.ndarray, std: float, rng: Generator) -> np.ndarray:
    """Add Gaussian noise."""
    return x + rng.normal(0, std, x.shape)


@severities(500, 250, 100, 75, 50)
def shot_noise(x: np.ndarray, photons: float, rng: Generator) -> np.ndarray:
    """Count photons; a white pixel gets `photons` on average."""
    return rng.poisson(x * photons) / photons


@severities(0.01, 0.02, 0.03, 0.05, 0.07)
def impulse_noise(x: np.ndarray, share: float, rng: Generator) -> np.ndarray:
    """Set a share of all values to black or white."""
    hit, white = rng.random((2, *x.shape)) < np.array([share, 0.5]).reshape(2, 1, 1, 1)
    return np.where(hit, white, x)


@severities(0.06, 0.1, 0.12, 0.16, 0.2)
def speckle_noise(x: np.ndarray, std: float, rng: Generator) -> np.ndarray:
    """Multiply by noise around one."""
    return x * (1 + rng.normal(0, std, x.shape))


@severities(0.4, 0.6, 0.7, 0.8, 1)
def gaussian_blur(x: np.ndarray, sigma: float, rng: Generator) -> np.ndarray:
    """Blur by a Gaussian."""
    return _blurred(x, sigma)


@severities((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
def defocus_blur(x: np.ndarray, level: tuple[float, float], rng: Generator) -> np.ndarray:
    """Blur by a disk of a given radius, smoothed by a 3x3 Gaussian."""
    radius, sigma = level
    distance = np.arange(-4, 5)
    disk = (distance[:, None] ** 2 + distance**2 <= radius**2).astype(float)
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2, mode="constant")
    return ndimage.convolve(x, kernel[..., None], mode="mirror")


@severities((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
def glass_blur(x: np.ndarray, level: tuple[float, int], rng: Generator) -> np.ndarray:
    """Blur, replace pixels several times by a random neighbour above or left, and blur again.

    The two rows and columns at the upper and left edge stay. The authors' code intends to swap the two pixels, but
    copies one of them, since numpy's slices are views; the published images were made this way.
    """
    sigma, times = level
    x = np.floor(_blurred(x, sigma) * 255) / 255
    rows, columns = np.indices((len(x) - 2, len(x) - 2)) + 2
    for _ in range(times):
        up, left = rng.integers(0, 2, (2, *rows.shape))
        x[2:, 2:] = x[rows - up, columns - left]
    return _blurred(x, sigma)


@severities((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
def motion_blur(x: np.ndarray, level: tuple[int, float], rng: Generator) -> np.ndarray:
    """Blur in one direction, up to 45 degrees from the horizontal."""
    return _streaked(x, *level, rng.uniform(-45, 45))


@severities(*(1 + np.arange(num) / 100 for num in (7, 12, 16, 21, 26)))
def zoom_blur(x: np.ndarray, zooms: Sequence[float], rng: Generator) -> np.ndarray:
    """Average the image and enlargements of its middle."""
    return np.mean([x, *(_enlarged(x, zoom) for zoom in zooms)], axis=0)


@severities(
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
def snow(x: np.ndarray, level: tuple[float, float, float, float, int, int, float], rng: Generator) -> np.ndarray:
    """Whiten the image a little and add enlarged, streaked flakes twice, once rotated by 180 degrees."""
    mean, std, zoom, least, radius, sigma, share = level
    flakes = _enlarged(rng.normal(mean, std, x.shape[:2])[..., None], zoom)
    flakes = np.floor(np.where(flakes < least, 0, np.clip(flakes, 0, 1)) * 255) / 255
    flakes = _streaked(flakes, radius, sigma, rng.uniform(-135, -45))
    whitened = np.maximum(x, (x @ GREY)[..., None] * 1.5 + 0.5)
    return share * x + (1 - share) * whitened + flakes + flakes[::-1, ::-1]


@severities((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
def frost(x: np.ndarray, level: tuple[float, float], rng: Generator) -> np.ndarray:
    """Add a part of a frosty texture to a part of the image."""
    share, strength = level
    return share * x + strength * _frosty(len(x), rng)


@severities((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
def fog(x: np.ndarray, level: tuple[float, float], rng: Generator) -> np.ndarray:
    """Add a cloudy fractal and scale the result back to the image's maximum."""
    strength, decay = level
    side = 2 ** int(np.ceil(np.log2(max(len(x), 2))))
    cloud = _plasma(max(side, 32), decay, rng)[: len(x), : len(x), None]
    return (x + strength * cloud) * x.max() / (x.max() + strength)


@severities(0.05, 0.1, 0.15, 0.2, 0.3)
def brightness(x: np.ndarray, more: float, rng: Generator) -> np.ndarray:
    """Raise V of HSV: with H and S kept, all channels are scaled alike."""
    value = x.max(2, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


@severities(0.75, 0.5, 0.4, 0.3, 0.15)
def contrast(x: np.ndarray, factor: float, rng: Generator) -> np.ndarray:
    """Move every channel towards its mean."""
    mean = x.mean((0, 1))
    return mean + factor * (x - mean)


@severities((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
def saturate(x: np.ndarray, level: tuple[float, float], rng: Generator) -> np.ndarray:
    """Change S of HSV: with H and V kept, the distances of the channels from the largest are scaled alike.

    A grey pixel has the hue of red.
    """
    factor, more = level
    value = x.max(2, keepdims=True)
    chroma = value - x.min(2, keepdims=True)
    saturation = chroma / np.where(value > 0, value, 1)
    changed = np.clip(factor * saturation + more, 0, 1)
    coloured = value - (value - x) * changed / np.where(chroma > 0, saturation, 1)
    return np.where(chroma > 0, coloured, value * (1 - changed * np.array([0, 1, 1])))


@severities(80, 65, 58, 50, 40)
def jpeg_compression(image: np.ndarray, quality: int, rng: Generator) -> np.ndarray:
    """Compress and decompress as JPEG; uint8 in and out."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


@severities(0.95, 0.9, 0.85, 0.75, 0.65)
def pixelate(image: np.ndarray, factor: float, rng: Generator) -> np.ndarray:
    """Resize to a part of the size and back, by box filters; uint8 in and out."""
    size, small = len(image), int(len(image) * factor)
    resized = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
    return np.array(resized.resize((size, size), Image.Resampling.BOX))


@severities((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
def elastic_transform(x: np.ndarray, level: tuple[float, float, float], rng: Generator) -> np.ndarray:
    """Warp by a random affine map that moves three corners, then by a smooth random field.

    Lengths are shares of the image's side: strength and smoothness of the field, most that a corner moves.
    """
    strength, smoothness, most = (part * len(x) for part in level)
    middle, reach = len(x) // 2, len(x) // 3
    corners = middle + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = corners + rng.uniform(-most, most, corners.shape)
    back = np.linalg.solve(np.c_[moved, np.ones(3)], corners).T  # from new to old coordinates, (2, 3)
    at = np.indices(x.shape[:2]).astype(float)
    x = _sampled(x, np.einsum("ij,jhw->ihw", back[:, :2], at) + back[:, 2, None, None], mode="mirror")
    field = rng.uniform(-1, 1, at.shape)
    shift = [ndimage.gaussian_filter(part, smoothness, mode="reflect", truncate=3) for part in field]
    return _sampled(x, at + strength * np.array(shift), mode="reflect")


@severities(
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
)
def spatter(x: np.ndarray, level: tuple[float, float, float, float, float, bool], rng: Generator) -> np.ndarray:
    """Spatter with water, whose drops are shaded at their rims, or with mud."""
    mean, std, sigma, least, strength, mud = level
    liquid = _blurred(rng.normal(mean, std, x.shape[:2]), sigma)
    liquid[liquid < least] = 0
    if mud:
        cover = _blurred((liquid > least).astype(float), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return x * (1 - cover) + MUD * cover
    shine = np.floor(np.clip(liquid, 0, 1) * 255) * _shaded(liquid > 0)
    return x + strength * shine[..., None] / max(shine.max(), 1) * WATER


def _shaded(drops: np.ndarray) -> np.ndarray:
    """Shade drops as if lit from one corner, by their distance from the rims; 0 to 255, ``(size, size)``."""
    rims = drops & ~ndimage.binary_erosion(drops, border_value=1)
    distance = ndimage.distance_transform_edt(~rims) if rims.any() else np.full(drops.shape, 20.0)
    heights = ndimage.uniform_filter(np.minimum(distance, 20), 3, mode="mirror").astype(int)
    shares = np.cumsum(np.bincount(heights.ravel(), minlength=256))
    lowest = shares[heights.min()]
    equalized = np.rint((shares[heights] - lowest) / max(heights.size - lowest, 1) * 255)
    lit = ndimage.correlate(equalized, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    return ndimage.uniform_filter(np.clip(lit, 0, 255), 3, mode="mirror")


def _blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian over height and width."""
    return ndimage.gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], mode="nearest", truncate=4)


def _streaked(x: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Blur along a line from each pixel to one side, with weights of half a Gaussian.

    As in ImageMagick, the line has two times the radius plus one pixels, and the image's edges are repeated.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    right, down = (np.ceil(steps * part - 0.5) for part in (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))))
    rows, columns = (np.arange(len(x)) + way.astype(int)[:, None] for way in (down, right))
    rows, columns = (np.clip(indices, 0, len(x) - 1) for indices in (rows, columns))
    return np.einsum("shwc,s->hwc", x[rows[:, :, None], columns[:, None, :]], weights / weights.sum())


def _enlarged(x: np.ndarray, zoom: float) -> np.ndarray:
    """Crop the middle of ``(size, size, channels)`` and enlarge it linearly to the same size."""
    size, side = len(x), int(np.ceil(len(x) / zoom))
    large = round(side * zoom)
    at = (size - side) // 2 + np.linspace(0, side - 1, large)[(large - size) // 2 :][:size]
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(size)), 0)  # of every pixel in every new one, on one axis
    return (weights @ x.transpose(2, 0, 1) @ weights.T).transpose(1, 2, 0)


def _sampled(x: np.ndarray, at: np.ndarray, mode: str) -> np.ndarray:
    """Interpolate ``(size, size, 3)`` linearly at positions ``(2, size, size)`` (row, column)."""
    return np.stack([ndimage.map_coordinates(channel, at, order=1, mode=mode) for channel in x.transpose(2, 0, 1)], 2)


def _plasma(size: int, decay: float, rng: Generator) -> np.ndarray:
    """Draw a cloudy fractal by diamonds and squares on a torus: from 0 to 1, ``(size, size)``, a power of two.

    Every new point is the mean of four neighbours plus a uniform draw, whose range shrinks by the square of `decay`
    whenever the distance between points is halved.
    """
    heights, spread = np.zeros((1, 1)), 1.0
    while len(heights) < size:
        side = len(heights)
        finer = np.zeros((2 * side, 2 * side))
        finer[::2, ::2] = heights
        rows = heights + np.roll(heights, -1, 0)
        middles = (rows + np.roll(rows, -1, 1)) / 4 + spread * rng.uniform(-1, 1, (side, side))
        finer[1::2, 1::2] = middles
        across = heights + np.roll(heights, -1, 1) + middles + np.roll(middles, 1, 0)
        along = heights + np.roll(heights, -1, 0) + middles + np.roll(middles, 1, 1)
        finer[::2, 1::2] = across / 4 + spread * rng.uniform(-1, 1, (side, side))
        finer[1::2, ::2] = along / 4 + spread * rng.uniform(-1, 1, (side, side))
        heights, spread = finer, spread / decay**2
    heights -= heights.min()
    return heights / heights.max()


def _frosty(size: int, rng: Generator) -> np.ndarray:
    """Draw a texture like frost on glass: needles in a few directions over a cloudy ground, ``(size, size, 3)``."""
    side = 2 ** int(np.ceil(np.log2(max(size, 32))))
    ground = _plasma(side, 1.5, rng)[:size, :size]
    grain = rng.standard_normal((size, size, 1))
    needles = np.max([_streaked(grain, 4, 2.5, degrees)[..., 0] for degrees in rng.uniform(0, 360, 3)], axis=0)
    parts = [(part - part.mean()) / part.std() for part in (ground, needles, grain[..., 0])]
    level, spread = rng.uniform(0.45, 0.8), rng.uniform(0.05, 0.12)
    texture = level + spread * (np.array([0.6, 0.7, 0.4]) @ np.reshape(parts, (3, -1))).reshape(size, size)
    return np.clip(texture[..., None] + FROST_TINT, 0, 1)
