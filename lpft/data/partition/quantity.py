"""Clients of unequal sizes."""

from __future__ import annotations

import numpy as np

from lpft.data.partition.base import SkewedPartition, apportion, check_enough
from lpft.data.splits import stratified_order


class QuantitySkew(SkewedPartition):
    """Clients of unequal sizes with the class shares of all samples.

    Every client gets `min_samples`; one draw from a symmetric Dirichlet distribution divides the remaining samples.

    Args:
        alpha: concentration; at small values few clients have nearly all samples.

    >>> [len(part) for part in QuantitySkew(alpha=0.5).deal(np.arange(1000) % 10, 5, np.random.default_rng(0))]
    [206, 41, 414, 186, 153]
    """

    def deal(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw the sizes and cut a stratified order of all samples into parts."""
        check_enough(len(labels), num_clients, self.min_samples)
        shares = rng.dirichlet(np.full(num_clients, self.alpha))
        sizes = self.min_samples + apportion(shares, len(labels) - num_clients * self.min_samples, rng)
        order = stratified_order(labels, rng)
        return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]
