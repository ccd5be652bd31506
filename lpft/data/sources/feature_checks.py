"""Checks all values of feature arrays before they are cached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lpft.data.normalization import row_slices
from lpft.data.sources.feature_files import Features

LARGEST, SMALLEST = 1e30, 1e-30
"""Values beyond these magnitudes cannot be standardized in float32."""

LEAST_DIGITS = 1e-3
"""Largest rounding error of float32, as a share of a feature's range."""


def check_values(files: Sequence[tuple[Path, Features]], names: Sequence[str], permits_missing: bool) -> None:
    """Check the features of all files.

    Args:
        files: path and features of each.
        names: names of the features, in order.
        permits_missing: whether values may be missing.

    Raises:
        ValueError: if a value is infinite, too large, or missing without permission, or if float32 makes a feature's
            distinct values equal.
    """
    lowest: Any = np.inf
    highest: Any = -np.inf
    rounding: Any = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for path, features in files:
            for chunk in row_slices(*features.values.shape):
                rows = features.values[chunk]
                exact = rows.astype(np.float64)
                _refuse_values(exact, chunk.start, features, path, permits_missing)
                lowest = np.fmin(lowest, np.fmin.reduce(exact))
                highest = np.fmax(highest, np.fmax.reduce(exact))
                rounding = np.fmax(rounding, np.fmax.reduce(np.abs(exact - rows.astype(np.float32))))
    spread = highest - lowest
    lossy = np.flatnonzero((spread > 0) & (rounding > LEAST_DIGITS * spread))
    if len(lossy):
        number = int(lossy[0])
        raise ValueError(
            f"Feature {name_of(names, number)} goes from {lowest[number]:.17g} to {highest[number]:.17g}: float32 does"
            f" not hold the digits that tell its values apart ({len(lossy)} such features)."
            " HINT: subtract a number near its mean in the file, or leave it out by `ignore` (a time, an id?)."
        )


def _refuse_values(exact: np.ndarray, start: int, features: Features, path: Path, permits_missing: bool) -> None:
    """Raise ValueError if some rows of a file, in float64, the first one being number `start`, cannot be used."""
    sizes = np.abs(exact)
    problems = [
        (np.isinf(exact), "is infinite", "replace or remove such values"),
        (
            (sizes > LARGEST) | ((sizes > 0) & (sizes < SMALLEST)),
            f"is beyond {SMALLEST:g} to {LARGEST:g}",
            "use other units",
        ),
        (
            np.isnan(exact) & (not permits_missing),
            "is missing",
            "`missing: mean` takes the mean of the training data, `missing: leave_out` leaves rows out",
        ),
    ]
    for wrong, problem, hint in problems:
        if wrong.any():
            row, number = np.argwhere(wrong)[0].tolist()
            columns = len(np.flatnonzero(wrong.any(0)))
            raise ValueError(
                f"{path}, row {start + row} (from 0): feature {name_of(features.names, number)} {problem};"
                f" {int(wrong.sum())} such values in {columns} of {wrong.shape[1]} features from there to row"
                f" {start + len(wrong) - 1}. HINT: {hint}."
            )


def name_of(names: Sequence[str], number: int) -> str:
    """Return the name of a feature for messages."""
    return repr(names[number]) if names else str(number)


def lacks_values(values: np.ndarray) -> np.ndarray:
    """Return which rows ``(n, d)`` lack a value, bool, ``(n,)``.

    >>> lacks_values(np.array([[1.0, np.nan], [2.0, 3.0]])).tolist()
    [True, False]
    """
    parts = [np.isnan(values[chunk].astype(np.float64)).any(1) for chunk in row_slices(*values.shape)]
    return np.concatenate(parts) if parts else np.zeros(0, bool)
