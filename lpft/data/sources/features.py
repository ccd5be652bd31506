"""Sources whose samples are rows of numbers instead of images: embeddings, tables of sites."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from lpft.data.sources.base import Source
from lpft.data.sources.image_files import Decoded
from lpft.data.sources.pixels import PixelSettings


class FeatureSource(Source):
    """A source of rows of features. Subclasses implement `table` and `rows`.

    Rows are stored unchanged, in float32; they are standardized with the training data
    (`lpft.data.normalization.Standardization`).
    """

    draws = "features"
    has_features = True
    channels = 0

    @property
    @abstractmethod
    def feature_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the features, in order."""

    @abstractmethod
    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the features of rows of the table, given in ascending order: float32, ``(n, num_features)``."""

    def read(self, positions: np.ndarray, channels: int, size: int, settings: PixelSettings) -> Decoded:
        """Return the features of rows; see `rows`."""
        return Decoded(stored(self.rows(positions)), np.ones(len(positions), bool), [])


def stored(rows: np.ndarray) -> np.ndarray:
    """Return rows in float32 so that equal rows have equal bytes: with one kind of zero and one kind of NaN.

    >>> stored(np.array([[-0.0, 1.0]])).tobytes() == stored(np.array([[0.0, 1.0]])).tobytes()
    True
    """
    unsigned = np.ascontiguousarray(rows, np.float32) + np.float32(0)
    unsigned[np.isnan(unsigned)] = np.nan
    return unsigned
