"""Augmentation of training images, batch by batch, on their device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor


class Augment(ABC):
    """An augmentation of a batch of images.

    It is a pure function of images and uniform numbers, which are drawn for every client, epoch and image: its result
    depends neither on stack and device nor on interruptions of a run. Validation and test images are not augmented, nor
    training images from which statistics and exact solutions are computed.
    """

    num_draws: int
    """Number of uniform numbers per image."""

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return changed images of the same shape and type.

        Images must not depend on each other.

        Args:
            images: uint8, ``(n, channels, size, size)``.
            draws: uniform in [0, 1), ``(n, num_draws)``.
        """


def num_draws(augment: Augment | None) -> int:
    """Return the number of uniform numbers per image that `augmented` needs."""
    return augment.num_draws if augment else 0


def augmented(augment: Augment | None, images: Tensor, draws: Tensor) -> Tensor:
    """Augment uint8 images ``(..., channels, size, size)``, given uniform numbers ``(..., num_draws)``.

    Raises:
        ValueError: if the result has another shape or type.
    """
    if augment is None:
        return images
    flat = images.flatten(0, -4)
    result = augment(flat, draws.flatten(0, -2))
    if not isinstance(result, Tensor) or (result.shape, result.dtype) != (flat.shape, flat.dtype):
        given = f"{tuple(result.shape)}, {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"{type(augment).__name__} returned {given}, but must return images like those that it was given,"
            f" {tuple(flat.shape)}, {flat.dtype}. HINT: pixels are whole numbers from 0 to 255:"
            " `images.float()...round().clamp(0, 255).to(torch.uint8)`."
        )
    return result.reshape(images.shape)


def check_augment(augment: Augment, shape: tuple[int, ...]) -> None:
    """Raise ValueError if an augmentation does not work for images of a shape."""
    name, number = type(augment).__name__, getattr(augment, "num_draws", None)
    if not isinstance(number, int) or number < 0:
        raise ValueError(
            f"{name}'s `num_draws` is {number!r}, but must be the number of uniform numbers per image."
            " HINT: set `num_draws = 1` in the class."
        )
    augmented(augment, torch.zeros(2, *shape, dtype=torch.uint8), torch.full((2, number), 0.5))


class FlipCrop(Augment):
    """A horizontal flip with probability 1/2, and a crop of the image's size out of the image padded with black.

    Args:
        flip: whether to flip; digits should not be.
        pad: pixels on every side.

    References:
        He et al., arXiv:1512.03385, section 4.2: 4 pixels on CIFAR-10.
    """

    num_draws = 3

    def __init__(self, flip: bool = True, pad: NonNegativeInt = 4) -> None:
        self.flip = flip
        self.pad = pad

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Flip and crop; see `Augment`."""
        num, channels, height, width = images.shape
        num_offsets = 2 * self.pad + 1
        top, left = (draws[:, 1:] * num_offsets).long().clamp(max=2 * self.pad).unbind(1)
        rows = torch.arange(height, device=images.device).expand(num, -1)
        columns = torch.arange(width, device=images.device).expand(num, -1)
        if self.flip:
            columns = torch.where(draws[:, :1] < 0.5, width - 1 - columns, columns)
        rows, columns = rows + top.view(-1, 1), columns + left.view(-1, 1)
        image = torch.arange(num, device=images.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
        padded = F.pad(images, [self.pad] * 4)
        return padded[image, channel, rows.view(num, 1, -1, 1), columns.view(num, 1, 1, -1)]


class FlipRotate(Augment):
    """A horizontal flip with probability 1/2, and a rotation around the centre; the corners become black.

    Args:
        flip: whether to flip.
        degrees: largest rotation, in either direction.

    References:
        Li et al., arXiv:2102.07623 (FedBN): 30 degrees on DomainNet; nearest pixels, as in torchvision's default.
    """

    num_draws = 2

    def __init__(self, flip: bool = True, degrees: NonNegativeFloat = 30.0) -> None:
        self.flip = flip
        self.degrees: float = degrees

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Rotate every image by its own angle, counter-clockwise if positive."""
        angle = (2 * draws[:, 1] - 1) * math.radians(self.degrees)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        side = _side(draws[:, 0], self.flip)
        return _warp(images, [[side * cos, -side * sin, zero], [sin, cos, zero]], "nearest", "zeros")


class ResizedCrop(Augment):
    """A box of random area and shape, resized to the image's size, and a horizontal flip with probability 1/2.

    Boxes are not rounded to whole pixels. One that is wider or higher than the image is cut to it, while
    torchvision's RandomResizedCrop draws another one.

    Args:
        smallest: smallest area of the box as a share of the image's area, in (0, 1].
        ratio: largest ratio of the box's width to its height, or of height to width; at least 1.
        flip: whether to flip.

    Raises:
        ValueError: if a setting is out of its range.
    """

    num_draws = 5

    def __init__(self, smallest: PositiveFloat = 0.75, ratio: PositiveFloat = 4 / 3, flip: bool = True) -> None:
        if smallest > 1 or ratio < 1:
            raise ValueError(
                f"`smallest={smallest}` must be at most 1, and `ratio={ratio}` at least 1. HINT: 0.75 and 1.33."
            )
        self.smallest: float = smallest
        self.ratio: float = ratio
        self.flip = flip

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop every image to its own box, bilinearly."""
        area = self.smallest + (1 - self.smallest) * draws[:, 1]
        shape = self.ratio ** (2 * draws[:, 2] - 1)
        width, height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
        x, y = (1 - width) * (2 * draws[:, 3] - 1), (1 - height) * (2 * draws[:, 4] - 1)
        zero = torch.zeros_like(area)
        side = _side(draws[:, 0], self.flip)
        return _warp(images, [[side * width, zero, x], [zero, height, y]], "bilinear", "border")


def _side(draws: Tensor, flip: bool) -> Tensor:
    """Return -1 for images to be flipped, else 1."""
    return torch.where(draws < 0.5, -1.0, 1.0) if flip else torch.ones_like(draws)


def _warp(
    images: Tensor, rows: list[list[Tensor]], mode: Literal["nearest", "bilinear"], outside: Literal["zeros", "border"]
) -> Tensor:
    """Warp images by affine maps, given by two rows, in coordinates from -1 to 1."""
    maps = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).float()
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode=mode, padding_mode=outside, align_corners=False)
    return moved.round().to(torch.uint8)
