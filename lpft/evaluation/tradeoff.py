"""Methods compared as curves: Global at equal Local, and the area under a trade-off curve.

A method's curve has a point for every model that was tested on the line from the global model to the personalized ones.
Local and Global of a point are means over clients and seeds. What is computed from the curves depends on these means in
a way that is not linear; `matched` and `area` therefore return, for every seed and client, its share of the result: its
values on the curve, with what they contribute to the position of the other values taken to first order (the influence
function). The mean of the shares is the result exactly, and their analysis by `lpft.evaluation.certainty.estimate`
accounts for the noise in both axes.
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
            last one the personalized model.
        others: accuracy to keep, such as Global, percent, ``(P, S, C)``.
    """

    local: Array
    others: Array

    @property
    def defined(self) -> Mask:
        """Which seeds and clients have all values, bool, ``(S, C)``."""
        return np.asarray(~np.isnan(self.local + self.others).any(axis=0))

    def of(self, seeds: Mask, clients: Mask) -> Curve:
        """Return the curve of some seeds and clients, given as bool, ``(S,)`` and ``(C,)``."""
        return Curve(self.local[:, seeds][:, :, clients], self.others[:, seeds][:, :, clients])

    def rising(self) -> Curve:
        """Return the points at which mean Local is higher than at all earlier ones, the first one included.

        What follows the highest Local loses on both axes. On the points that are left, Local determines the point.
        """
        means = self.local.mean(axis=(1, 2))
        before = np.maximum.accumulate(np.concatenate([[-np.inf], means[:-1]]))
        keep = means > before
        return Curve(self.local[keep], self.others[keep])

    def up_to(self, level: float) -> Curve:
        """Cut a rising curve off at a mean Local, between two points if need be; both are on its last line then."""
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
        shares: of every seed and client that both methods have, ``(S, C)``, percentage points; NaN without a range.
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
    that both reach, with Global interpolated linearly between the points of the mean curves. The range is taken as
    given: its own uncertainty is not part of the shares'.

    Args:
        one: a method.
        other: the method that it is compared with; both start from the same global models.

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
    """Return the area between a curve and the global model's point, in shares of seeds and clients, ``(S, C)``.

    It is the integral of ``Global(L) - Global(global model)`` over L from the global model's Local to the curve's
    highest, in squared percentage points: positive where personalizing gains everywhere, negative where it forgets.
    """
    seeds, clients = _complete(curve.defined)
    return _integral(curve.of(seeds, clients).rising()) if clients.any() else np.full((1, 1), np.nan)


def _integral(curve: Curve) -> Array:
    """Return each seed's and client's share of the integral of Global, less the start's, over Local: ``(S, C)``."""
    kept = curve.others - curve.others[0]
    mean_kept, mean_local = kept.mean(axis=(1, 2)), curve.local.mean(axis=(1, 2))
    steps, mean_steps = np.diff(curve.local, axis=0), np.diff(mean_local)
    own_heights = (kept[1:] + kept[:-1]) / 2
    mean_heights = (mean_kept[1:] + mean_kept[:-1]) / 2
    by_height = np.tensordot(mean_steps, own_heights, axes=1)
    by_step = np.tensordot(mean_heights, steps - mean_steps[:, None, None], axes=1)
    shares: Array = by_height + by_step
    return shares


def _end(curve: Curve) -> Array:
    """Return what is taken off the shares where the curve ends at a given Local instead of its own, ``(S, C)``."""
    kept = (curve.others[-1] - curve.others[0]).mean()
    shares: Array = kept * (curve.local[-1] - curve.local[-1].mean())
    return shares


def _complete(defined: Mask) -> tuple[Mask, Mask]:
    """Return which seeds and clients to use, bool: seeds that have anything, clients that all of these have."""
    seeds = np.asarray(defined.any(axis=1))
    return seeds, np.asarray(defined[seeds].all(axis=0) & seeds.any())


def best_point(val: Array) -> NDArray[np.int64]:
    """Return the point with the highest validation accuracy; of equal ones the first, which changes least.

    Args:
        val: percent, ``(P, ...)``; where it is NaN, the last point is returned: the personalized model.
    """
    best = np.nan_to_num(val, nan=-np.inf).argmax(axis=0)
    return np.where(np.isnan(val).any(axis=0), len(val) - 1, best)
