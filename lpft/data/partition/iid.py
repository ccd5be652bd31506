"""Clients with the same distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpft.data.partition.base import DealtPartition
from lpft.data.splits import stratified_order


class Iid(DealtPartition):
    """Clients of equal size with the class shares of all samples.

    >>> [part.tolist() for part in Iid(2).deal(np.array([0, 0, 1, 1]), 2, np.random.default_rng(0))]
    [[0, 2], [1, 3]]
    """

    def deal(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal equal, stratified parts."""
        return equal_parts(labels, num_clients, rng)

    def deal_held_out(
        self, parts: Sequence[np.ndarray], labels: np.ndarray, held_out: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Deal equal, stratified parts."""
        return equal_parts(held_out, len(parts), rng)


def equal_parts(labels: np.ndarray, num_parts: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal samples to parts of equal size (to one sample), each sorted, with nearly the class shares of all samples.

    >>> [part.tolist() for part in equal_parts(np.array([0, 0, 1, 1]), 2, np.random.default_rng(0))]
    [[0, 2], [1, 3]]
    """
    return [np.sort(part) for part in np.array_split(stratified_order(labels, rng), num_parts)]
