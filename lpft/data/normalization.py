"""Normalization of stored inputs for networks."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lpft.data.messages import shortened

CHUNK_NUMBERS = 2**22
"""How many numbers of feature arrays are processed at once."""

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class Normalize(ABC):
    """Subtracts `mean` and divides by `std`, of every channel of images or of every feature."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @abstractmethod
    def __call__(self, inputs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalize inputs ``(..., *shape)`` on their device."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that results depend on."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Normalization(Normalize):
    """Normalizes uint8 images ``(..., channels, size, size)`` to ``(x / 255 - mean) / std``.

    `mean` and `std` have one value per channel, on the scale from 0 to 1.
    """

    @classmethod
    def of(cls, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization:
        """Check the settings, by default 0.5 and 0.5; raise ValueError if they do not fit the channels.

        >>> Normalization.of(1, [0.1307], None)
        Normalization(mean=(0.1307,), std=(0.5,))
        """
        if channels not in (1, 3):
            raise ValueError(f"`channels={channels}` is neither 1 (grey) nor 3 (RGB).")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"`{name}={values}` is not one number for each of `channels={channels}`.")
        if std is not None and min(std) <= 0:
            raise ValueError(f"`std={std}` is not above 0. HINT: `mean` and `std` are on the scale from 0 to 1.")
        return cls(tuple(mean or (0.5,) * channels), tuple(std or (0.5,) * channels))

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalize on the images' device."""
        mean, std = (_on_device(values, dtype, images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return images.to(dtype, copy=True).div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Standardization(Normalize):
    """Standardizes rows of features ``(..., num_features)`` to ``(x - mean) / std``.

    Args:
        mean: mean of every feature.
        std: standard deviation of every feature; 1 for constant ones.
        fills: whether missing values (NaN) become the mean, 0 after standardization.
        measured: which of `mean` and `std` come from the training data instead of settings.
    """

    fills: bool = False
    measured: tuple[str, ...] = ("mean", "std")

    def __call__(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standardize on the rows' device."""
        mean, std = (_on_device(values, dtype, rows.device) for values in (self.mean, self.std))
        standardized = rows.to(dtype, copy=True).sub_(mean).div_(std)
        return standardized.masked_fill_(standardized.isnan(), 0) if self.fills else standardized

    def settings(self) -> dict[str, Any]:
        """Leave out measured values: they follow from the data, but their last bits differ between machines."""
        return {**super().settings(), **dict.fromkeys(self.measured, "training data")}


@lru_cache
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def standardization(
    rows: Tensor,
    train: np.ndarray,
    names: Sequence[str],
    fills: bool,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Standardization:
    """Compute mean and standard deviation of the training data, unless they are set.

    Args:
        rows: all rows, float32, ``(n, num_features)``.
        train: positions of the training data, ``(m,)``.
        names: names of the features, for messages.
        fills: whether missing values become the mean.
        mean: values to subtract instead; a single number is for all features.
        std: values to divide by instead, likewise.

    Raises:
        ValueError: if `mean` or `std` do not fit the features.
    """
    num_features = rows.shape[1]
    for setting, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, num_features):
            raise ValueError(
                f"`{setting}` has {len(values)} numbers, but there are {num_features} features. HINT: give one number"
                f" for each, one for all, or leave `{setting}` out: then it is that of the training data."
            )
    if std is not None and not min(std) > 0:
        raise ValueError(f"`std` has {min(std):g}, which is not above 0.")
    settings = [None if values is None else _for_all(values, num_features) for values in (mean, std)]
    if settings[0] is not None and settings[1] is not None:
        return Standardization(tuple(settings[0]), tuple(settings[1]), fills, measured=())
    measured_mean, measured_std, constant = _moments(rows, np.sort(train))
    if len(constant):
        log.warning(
            "%d of %d features are constant in the training data and tell nothing: %s.",
            len(constant), num_features, shortened([names[number] for number in constant]),
        )  # fmt: skip
    return Standardization(
        tuple(measured_mean.tolist() if settings[0] is None else settings[0]),
        tuple(measured_std.tolist() if settings[1] is None else settings[1]),
        fills,
        tuple(name for name, values in zip(("mean", "std"), settings, strict=True) if values is None),
    )


def _for_all(values: Sequence[float], num_features: int) -> list[float]:
    return [float(value) for value in values] * (1 if len(values) == num_features else num_features)


def _moments(rows: Tensor, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and deviation of every feature, ``(num_features,)``, and the numbers of the constant ones.

    Missing values are ignored. The deviation of a constant feature is 1. Two passes in float64.
    """
    counts, sums = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for values, present in _parts(rows, train):
        counts += present.sum(0)
        sums += values.sum(0)
    counts = np.maximum(counts, 1)
    mean = sums / counts
    squares = np.zeros(rows.shape[1])
    for values, present in _parts(rows, train):
        squares += np.square(np.where(present, values - mean, 0)).sum(0)
    variance = squares / counts
    rounding = counts * np.finfo(np.float64).eps
    constant = variance <= rounding * variance + (rounding * mean) ** 2  # as scikit-learn's StandardScaler
    return mean, np.where(constant, 1.0, np.sqrt(variance)), np.flatnonzero(constant)


def _parts(rows: Tensor, train: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield values in float64, 0 if missing, and a mask of the present ones."""
    for chunk in row_slices(len(train), rows.shape[1]):
        values = rows.numpy()[train[chunk]].astype(np.float64)
        present = ~np.isnan(values)
        yield np.where(present, values, 0), present


def row_slices(num_rows: int, num_features: int) -> Iterator[slice]:
    """Yield slices of rows of feature arrays that are small enough to be processed at once.

    >>> list(row_slices(3, CHUNK_NUMBERS // 2))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    size = max(1, CHUNK_NUMBERS // max(num_features, 1))
    for start in range(0, num_rows, size):
        yield slice(start, start + size)
