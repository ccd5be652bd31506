"""Confidence intervals of means over clients and seeds: crossed random effects, as in multi-reader multi-case studies.

A study has S seeds (repeated training) and C clients (the same for every seed). Both are random samples: of all
possible seeds, and of all clients that might take part. The value of seed s and client c is modelled as::

    y[s, c] = mean + seed[s] + client[c] + error[s, c]

with independent effects. The error contains the interaction of client and seed, and the noise of the client's test
samples. docs/certainty.md describes the analysis, its sources, and the measured coverage of its intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats, which has the same, takes a second to import

Array = NDArray[np.float64]
Word = Literal["better", "worse", "equivalent", "undecided"]
Better = Literal["higher", "lower"]

EQUIVALENCE = 1.0
"""Half width of the region of practical equivalence, in percentage points."""
LEVEL = 0.95
"""Confidence level of all intervals shown."""
SIGNIFICANT = 0.05
"""A difference is significant if its p-value, adjusted for the number of methods, is below this."""


@dataclass(frozen=True)
class Estimate:
    """A mean over clients and seeds with its standard error.

    Args:
        mean: mean of all values used.
        std_error: standard error of the mean; NaN if it cannot be estimated.
        df: degrees of freedom of its t distribution; NaN if the standard error is.
        num_seeds: number of seeds used, S.
        num_clients: number of clients used, C.
    """

    mean: float
    std_error: float
    df: float
    num_seeds: int
    num_clients: int

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.interval()[1]

    @property
    def margin(self) -> float:
        """Half the width of the 95% interval."""
        return self._margin(LEVEL)

    @property
    def clients_only(self) -> bool:
        """Whether the interval is over clients only, so that another seed may give a value outside it."""
        return self.num_seeds == 1

    @property
    def p(self) -> float:
        """Two-sided p-value of a mean of 0; NaN without a standard error."""
        if self.std_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(self.df, -abs(self.mean) / self.std_error))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return both ends of the interval at a confidence level."""
        margin = self._margin(level)
        return self.mean - margin, self.mean + margin

    def _margin(self, level: float) -> float:
        return float(self.std_error * stdtrit(self.df, (1 + level) / 2))


def estimate(values: ArrayLike) -> Estimate:
    """Estimate the mean over clients and seeds.

    With one seed, the interval is over the clients only; with one client, over the seeds only.

    Args:
        values: a metric, or a paired difference of two methods, by seed and client, ``(S, C)``. Undefined values are
            NaN: `complete_block` selects the values used.

    Returns:
        The estimate. For a single value, its interval is NaN; without values, its mean is NaN as well.

    Raises:
        ValueError: if `values` is not two-dimensional.

    >>> one = estimate([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    >>> one.mean, round(one.std_error**2, 6), round(one.df, 6)
    (3.0, 1.333333, 1.684211)
    """
    block = complete_block(values)
    if not block.size:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    mean, std_error, df = crossed(block)
    return Estimate(float(mean), float(std_error), float(df), *block.shape)


def complete_block(values: ArrayLike) -> Array:
    """Select seeds and clients so that no value is NaN.

    A client without test samples is NaN for every seed and is dropped as a column; a missing seed is NaN for every
    client and is dropped as a row. While values are missing, the row or column with the largest share of missing values
    is dropped (the column if shares are equal).

    >>> complete_block([[1.0, np.nan, 3.0], [4.0, np.nan, 6.0], [np.nan, np.nan, np.nan]])
    array([[1., 3.],
           [4., 6.]])
    """
    block = np.array(values, dtype=np.float64)
    if block.ndim != 2:
        raise ValueError(f"Values by seed and client have two dimensions, not {block.ndim}. HINT: one seed is `[row]`.")
    block = block[~np.isnan(block).all(axis=1)]
    block = block[:, ~np.isnan(block).all(axis=0)]
    while np.isnan(block).any():
        of_seeds, of_clients = (np.isnan(block).mean(axis=axis) for axis in (1, 0))
        if of_clients.max() >= of_seeds.max():
            block = np.delete(block, of_clients.argmax(), axis=1)
        else:
            block = np.delete(block, of_seeds.argmax(), axis=0)
    return block


def crossed(values: Array) -> tuple[Any, Any, Any]:
    """Analyze studies by their mean squares: the two-way crossed random-effects analysis of variance.

    The variance of the mean is ``(MS_seed + MS_client - MS_error) / (S C)``. Variance components cannot be negative: if
    a mean square is below ``MS_error``, its component is set to zero, which leaves ``MS_client``, ``MS_seed`` or (if
    both are below) ``MS_error`` in the numerator. Degrees of freedom are Satterthwaite's for the remaining mean
    squares, but at least the minimum of S - 1 and C - 1. With one seed or client, it is the one-way analysis: a t
    interval.

    Args:
        values: values of any number of studies without NaN, ``(..., S, C)``.

    Returns:
        Mean, standard error and degrees of freedom, ``(...)`` each; the last two NaN for S = C = 1.

    References:
        Satterthwaite (1946); Obuchowski and Rockette (1995); Hillis (2007); Gallas et al. (2009).
    """
    num_seeds, num_clients = values.shape[-2:]
    mean = values.mean(axis=(-2, -1))
    if num_seeds == 1 or num_clients == 1:
        return mean, *_one_way(values.reshape(*values.shape[:-2], -1))
    seeds, clients, error = mean_squares(values)
    df_seeds, df_clients = num_seeds - 1, num_clients - 1
    df_error = df_seeds * df_clients

    numerator = seeds + clients - error
    squares = seeds**2 / df_seeds + clients**2 / df_clients + error**2 / df_error
    df = np.divide(numerator**2, squares, out=np.zeros_like(squares), where=squares > 0)
    no_seeds, no_clients = seeds <= error, clients <= error
    numerator = np.where(no_seeds, clients, np.where(no_clients, seeds, numerator))
    numerator = np.where(no_seeds & no_clients, error, numerator)
    df = np.where(no_seeds, df_clients, np.where(no_clients, df_seeds, df))
    df = np.where(no_seeds & no_clients, df_error, df)
    return mean, np.sqrt(numerator / (num_seeds * num_clients)), np.maximum(df, min(df_seeds, df_clients))


def mean_squares(values: Array) -> tuple[Any, Any, Any]:
    """Return the mean squares of seeds, clients and error, ``(...)`` each, of ``(..., S, C)`` with S, C > 1."""
    num_seeds, num_clients = values.shape[-2:]
    mean = values.mean(axis=(-2, -1), keepdims=True)
    of_seeds = values.mean(axis=-1, keepdims=True) - mean
    of_clients = values.mean(axis=-2, keepdims=True) - mean
    residuals = values - mean - of_seeds - of_clients
    return (
        num_clients * (of_seeds**2).sum(axis=(-2, -1)) / (num_seeds - 1),
        num_seeds * (of_clients**2).sum(axis=(-2, -1)) / (num_clients - 1),
        (residuals**2).sum(axis=(-2, -1)) / ((num_seeds - 1) * (num_clients - 1)),
    )


def _one_way(values: Array) -> tuple[Any, Any]:
    """Return standard error and degrees of freedom of a mean over the last axis."""
    number = values.shape[-1]
    if number == 1:
        undefined = np.full(values.shape[:-1], math.nan)
        return undefined, undefined
    return values.std(axis=-1, ddof=1) / math.sqrt(number), np.full(values.shape[:-1], float(number - 1))


# Verdicts


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests by Holm's method, which controls the family-wise error rate.

    Args:
        p_values: one per method; NaN means no test, stays NaN and does not count.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    tests = sorted((p, position) for position, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, position) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        adjusted[position] = largest
    return adjusted


def verdict(difference: Estimate, p_holm: float, better: Better = "higher", equivalence: float = EQUIVALENCE) -> Word:
    """Return the verdict on a paired difference of two methods: the first of these that applies.

    - ``equivalent``: the 90% interval lies inside the region of practical equivalence (two one-sided tests at 5%), even
      if the difference is significant, since it is too small to matter; also if the methods never differ.
    - ``better`` or ``worse``: the p-value, adjusted for the number of methods, is below 0.05.
    - ``undecided``: more seeds or clients are needed.

    Args:
        difference: method minus reference.
        p_holm: p-value of the difference, adjusted by `holm`.
        better: whether higher or lower values of the metric are better.
        equivalence: half width of the region of practical equivalence, in the metric's unit; 0 for no region.

    References:
        Schuirmann (1987), two one-sided tests.

    >>> verdict(Estimate(mean=0.4, std_error=0.1, df=10, num_seeds=3, num_clients=10), p_holm=0.01)
    'equivalent'
    """
    low, high = difference.interval(1 - 2 * SIGNIFICANT)
    if (-equivalence < low and high < equivalence) or low == high == 0:
        return "equivalent"
    if p_holm < SIGNIFICANT:
        return "better" if (difference.mean > 0) == (better == "higher") else "worse"
    return "undecided"
