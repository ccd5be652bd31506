"""Label shift by Dirichlet draws."""

from __future__ import annotations

import heapq

import numpy as np
from scipy.special import log_softmax, softmax

from lpft.data.partition.base import SkewedPartition, apportion, check_enough, deal_counts


class Dirichlet(SkewedPartition):
    """Label shift: every class is spread over the clients by a Dirichlet draw, so sizes differ too.

    The clients' shares of class c are one draw from a symmetric Dirichlet distribution (Yurochkin et al., as in PFLlib
    and NIID-Bench). Such a draw leaves some clients nearly empty, and with many clients, redrawing until the smallest
    is large enough hardly ever ends. Instead, a client with too few samples draws the classes of further ones from its
    class mix, which is a Dirichlet draw too (Hsu et al.), and takes each from the largest client that has one. This
    reaches any `min_samples` up to the average size, at which all clients are equally large, as in Hsu et al.

    Args:
        alpha: concentration; below 1 a client sees few classes, above 100 all clients look alike.

    References:
        Hsu et al., arXiv:1909.06335; Yurochkin et al., arXiv:1905.12022.

    >>> labels = np.arange(1000) % 10
    >>> [len(part) for part in Dirichlet(alpha=0.1).deal(labels, 5, np.random.default_rng(1))]
    [266, 111, 108, 251, 264]
    """

    def deal(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw the shares of every class, round them to samples, fill up small clients."""
        check_enough(len(labels), num_clients, self.min_samples)
        class_sizes = np.unique(labels, return_counts=True)[1]
        shape = (num_clients, len(class_sizes))
        # logarithms of Gamma(alpha) draws, which underflow for small alpha
        log_weights = np.log(rng.gamma(self.alpha + 1, size=shape)) + np.log1p(-rng.random(shape)) / self.alpha
        log_shares = log_softmax(log_weights, axis=0)
        columns = [apportion(np.exp(log_shares[:, c]), size, rng) for c, size in enumerate(class_sizes)]
        mixes = softmax(log_shares + np.log(class_sizes), axis=1)
        return deal_counts(labels, fill_up(np.stack(columns, axis=1), mixes, self.min_samples, rng), rng)


def fill_up(counts: np.ndarray, mixes: np.ndarray, min_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Move samples from the largest clients to those with fewer than `min_samples` (at most the average size).

    A client draws the classes of its new samples from its mix; `counts` and `mixes` are ``(num_clients, num_classes)``.
    If all classes that others can spare have probability 0, they are equally probable. Sums over clients stay.

    >>> fill_up(np.array([[4, 0], [0, 0]]), np.full((2, 2), 0.5), 1, np.random.default_rng(0))
    array([[3, 0],
           [1, 0]])
    """
    counts, sizes = counts.copy(), counts.sum(1)
    givers = [_Givers(counts[:, label], sizes, min_samples) for label in range(counts.shape[1])]
    for client in np.flatnonzero(sizes < min_samples):
        while sizes[client] < min_samples:
            largest = [of_class.largest() for of_class in givers]
            spare = np.array([giver is not None for giver in largest])
            weights = np.where(spare, mixes[client], 0.0)
            weights = weights if weights.sum() > 0 else spare.astype(float)
            label = rng.choice(len(weights), p=weights / weights.sum())
            for changed, change in ((largest[label], -1), (client, 1)):
                counts[changed, label] += change
                sizes[changed] += change
    return counts


class _Givers:
    """Clients with samples of a class and more than `min_samples` samples in total, the largest first.

    `of_class` and `sizes`, ``(num_clients,)``, may change between calls. Givers only shrink and never come back once
    they are too small: therefore a heap of their last known sizes suffices.
    """

    def __init__(self, of_class: np.ndarray, sizes: np.ndarray, min_samples: int) -> None:
        self.of_class, self.sizes, self.min_samples = of_class, sizes, min_samples
        self.heap = [(-int(sizes[client]), client) for client in np.flatnonzero(sizes > min_samples).tolist()]
        heapq.heapify(self.heap)

    def largest(self) -> int | None:
        """Return the largest client, the first one of equal size; None if no client can spare a sample."""
        while self.heap:
            last_size, client = self.heap[0]
            size = int(self.sizes[client])
            if size <= self.min_samples or not self.of_class[client]:
                heapq.heappop(self.heap)
            elif -last_size != size:
                heapq.heapreplace(self.heap, (-size, client))
            else:
                return client
        return None
