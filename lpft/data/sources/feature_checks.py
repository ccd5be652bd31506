"""Checks all values of feature arrays before they are cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lpft.data.sources.feature_files import Features

LARGEST, SMALLEST = 1e30, 1e-30
"""Values beyond these magnitudes cannot be standardized in float32."""

LEAST_DIGITS = 1e-3
"""Largest rounding error of float32, as a share of a feature's range."""

CHUNK_NUMBERS = 2**22
"""How many numbers are checked at once."""


class Checks:
    """Checks the rows of all files for missing and infinite values, and for values that do not fit float32.

    Args:
        permits_missing: whether values may be missing.
    """

    def __init__(self, permits_missing: bool) -> None:
        self.permits_missing = permits_missing
        self._lowest: Any = np.inf
        self._highest: Any = -np.inf
        self._rounding: Any = 0.0

    def look(self, features: Features, path: Path) -> None:
        """Check the rows of a file.

        Raises:
            ValueError: if a value is infinite, too large, or missing without permission.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            for start, rows in chunks(features.values):
                exact, rounded = rows.astype(np.float64), rows.astype(np.float32).astype(np.float64)
                sizes = np.abs(exact)
                self._refuse(np.isinf(exact), "is infinite", "replace or remove such values", start, features, path)
                large = (sizes > LARGEST) | ((sizes > 0) & (sizes < SMALLEST))
                self._refuse(large, f"is beyond {SMALLEST:g} to {LARGEST:g}", "use other units", start, features, path)
                if not self.permits_missing:
                    hint = "`missing: mean` takes the mean of the training data, `missing: leave_out` leaves rows out"
                    self._refuse(np.isnan(exact), "is missing", hint, start, features, path)
                self._lowest = np.fmin(self._lowest, np.fmin.reduce(exact))
                self._highest = np.fmax(self._highest, np.fmax.reduce(exact))
                self._rounding = np.fmax(self._rounding, np.fmax.reduce(np.abs(exact - rounded)))

    def _refuse(self, wrong: np.ndarray, problem: str, hint: str, start: int, features: Features, path: Path) -> None:
        if wrong.any():
            row, number = np.argwhere(wrong)[0].tolist()
            columns = len(np.flatnonzero(wrong.any(0)))
            raise ValueError(
                f"{path}, row {start + row} (from 0): feature {name_of(features.names, number)} {problem};"
                f" {int(wrong.sum())} such values in {columns} of {wrong.shape[1]} features from there to row"
                f" {start + len(wrong) - 1}. HINT: {hint}."
            )

    def finish(self, names: Sequence[str]) -> None:
        """Raise ValueError if a feature's distinct values become equal in float32."""
        spread = self._highest - self._lowest
        lossy = np.flatnonzero((spread > 0) & (self._rounding > LEAST_DIGITS * spread))
        if len(lossy):
            number = int(lossy[0])
            raise ValueError(
                f"Feature {name_of(names, number)} goes from {self._lowest[number]:.17g} to"
                f" {self._highest[number]:.17g}: float32 does not hold the digits that tell its values apart"
                f" ({len(lossy)} such features)."
                " HINT: subtract a number near its mean in the file, or leave it out by `ignore` (a time, an id?)."
            )


def name_of(names: Sequence[str], number: int) -> str:
    """Return the name of a feature for messages."""
    return repr(names[number]) if names else str(number)


def chunks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield rows in chunks, with the number of the first row."""
    size = max(1, CHUNK_NUMBERS // max(values.shape[1], 1))
    for start in range(0, len(values), size):
        yield start, values[start : start + size]


def lacks_values(values: np.ndarray) -> np.ndarray:
    """Return which rows ``(n, d)`` lack a value, bool, ``(n,)``.

    >>> lacks_values(np.array([[1.0, np.nan], [2.0, 3.0]])).tolist()
    [True, False]
    """
    parts = [np.isnan(rows.astype(np.float64)).any(1) for _, rows in chunks(values)]
    return np.concatenate(parts) if parts else np.zeros(0, bool)
