"""Methods compared as curves: Global at equal Local, and the area under a trade-off curve.

A method's curve has a point for every model that was tested on the line from the global model to the personalized ones.
Local and Global of a point are means over clients and seeds. The results are nonlinear functions of these means. So
`matched` and `area` return the share of every seed and client in the result, with its effect on the position of other
values to first order (the influence function). The mean of the shares is exactly the result, and their analysis by
`lpft.evaluation.certainty.estimate` accounts for the noise in both axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """A method's trade-off, by point, seed and client.

    Args:
        local: accuracy on the client's own test set, percent, ``(P, S, C)``; the first point is the global model, the
            last point the personalized model.
        others: accuracy to preserve, such as Global, percent, ``(P, S, C)``.
    """

    local: Array
    others: Array

    @property
    def defined(self) -> Mask:
        """Which seeds and clients have all values, bool, ``(S, C)``."""
        return np.asarray(~np.isnan(self.local + self.others).any(axis=0))

    def of(self, seeds: Mask, clients: Mask) -> Curve:
        """Return the curve of selected seeds and clients, bool, ``(S,)`` and ``(C,)``."""
        return Curve(self.local[:, seeds][:, :, clients], self.others[:, seeds][:, :, clients])

    def rising(self) -> Curve:
        """Return the points, including the first, at which mean Local is higher than at all earlier points.

        Points after the highest Local lose on both axes. On the remaining points, Local is a unique coordinate.
        """
        means = self.local.mean(axis=(1, 2))
        before = np.maximum.accumulate(np.concatenate([[-np.inf], means[:-1]]))
        is_higher = means > before
        return Curve(self.local[is_higher], self.others[is_higher])

    def up_to(self, level: float) -> Curve:
        """Truncate a rising curve at a mean Local; if it is between two points, the last point is interpolated."""
        means = self.local.mean(axis=(1, 2))
        after = int(np.searchsorted(means, level))
        if after >= len(means):
            return self
        if after == 0:
            return Curve(self.local[:1], self.others[:1])
        share = (level - means[after - 1]) / (means[after] - means[after - 1])
        cut = [(1 - share) * t[after - 1] + share * t[after] for t in (self.local, self.others)]
        local, others = (np.concatenate([t[:after], [c]]) for t, c in zip((self.local, self.others), cut, strict=True))
        return Curve(local, others)


@dataclass(frozen=True)
class Matched:
    """The difference of two methods in Global at equal Local, averaged over a range of Local.

    Args:
        shares: share of every seed and client that both methods have, ``(S, C)``, percentage points; NaN if the range
            is empty.
        low: mean Local of the global model, percent.
        high: the highest mean Local that both methods reach, percent.
    """

    shares: Array
    low: float
    high: float

    @property
    def overlaps(self) -> bool:
        """Whether both methods reach a Local above the global model's."""
        return self.high > self.low


def matched(one: Curve, other: Curve) -> Matched:
    """Compare two methods at equal Local, on the part of the Local axis that both curves reach.

    The result is the mean of ``Global_one(L) - Global_other(L)`` over L from the global model's Local to the highest
    Local that both reach, with Global interpolated linearly between the points of the mean curves. The shares do not
    include the uncertainty of the range itself.

    Args:
        one: curve of a method.
        other: curve of the method to compare with; both start from the same global models.

    >>> start, end = np.array([[80.0]]), np.array([[90.0]])
    >>> keeps = Curve(np.stack([start, end]), np.stack([start, start]))
    >>> forgets = Curve(np.stack([start, end]), np.stack([start, start - 4]))
    >>> matched(keeps, forgets).shares.item(), matched(keeps, forgets).high
    (2.0, 90.0)
    """
    seeds, clients = _complete(one.defined & other.defined)
    if not clients.any():
        return Matched(np.full((1, 1), np.nan), np.nan, np.nan)
    one, other = one.of(seeds, clients).rising(), other.of(seeds, clients).rising()
    low = max(float(curve.local[0].mean()) for curve in (one, other))
    high = min(float(curve.local[-1].mean()) for curve in (one, other))
    if high <= low:
        return Matched(np.full(one.local.shape[1:], np.nan), low, high)
    shares = [_integral(curve.up_to(high)) - _end(curve.up_to(high)) for curve in (one, other)]
    return Matched((shares[0] - shares[1]) / (high - low), low, high)


def area(curve: Curve) -> Array:
    """Return the area between a curve and the global model's point, as shares of seeds and clients, ``(S, C)``.

    It is the integral of ``Global(L) - Global(global model)`` over L from the global model's Local to the curve's
    highest Local, in squared percentage points: positive if personalization improves Global, negative if it forgets.
    """
    seeds, clients = _complete(curve.defined)
    return _integral(curve.of(seeds, clients).rising()) if clients.any() else np.full((1, 1), np.nan)


def _integral(curve: Curve) -> Array:
    """Return the shares of seeds and clients in the integral of Global minus its start over Local, ``(S, C)``."""
    change = curve.others - curve.others[0]
    mean_change, mean_local = change.mean(axis=(1, 2)), curve.local.mean(axis=(1, 2))
    steps, mean_steps = np.diff(curve.local, axis=0), np.diff(mean_local)
    own_heights = (change[1:] + change[:-1]) / 2
    mean_heights = (mean_change[1:] + mean_change[:-1]) / 2
    by_height = np.tensordot(mean_steps, own_heights, axes=1)
    by_step = np.tensordot(mean_heights, steps - mean_steps[:, None, None], axes=1)
    shares: Array = by_height + by_step
    return shares


def _end(curve: Curve) -> Array:
    """Return the correction of the shares for a curve that ends at a fixed Local instead of its own, ``(S, C)``."""
    change = (curve.others[-1] - curve.others[0]).mean()
    shares: Array = change * (curve.local[-1] - curve.local[-1].mean())
    return shares


def _complete(defined: Mask) -> tuple[Mask, Mask]:
    """Return which seeds and clients to use, bool: seeds with any values, and clients that all these seeds have."""
    seeds = np.asarray(defined.any(axis=1))
    return seeds, np.asarray(defined[seeds].all(axis=0) & seeds.any())


def best_point(val: Array) -> NDArray[np.int64]:
    """Return the point with the highest validation accuracy; among equal points the first, which changes least.

    Args:
        val: validation accuracy, percent, ``(P, ...)``; if any is NaN, the last point, the personalized model, is best.
    """
    best = np.nan_to_num(val, nan=-np.inf).argmax(axis=0)
    return np.where(np.isnan(val).any(axis=0), len(val) - 1, best)
