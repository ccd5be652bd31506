"""Label shift by Dirichlet draws."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

from lpft.data.partition.base import SkewedPartition, apportion, check_enough, deal_counts


class Dirichlet(SkewedPartition):
    """Label shift: every class is spread over the clients by a Dirichlet draw, so sizes differ too.

    The shares of class c that the clients get are one draw from a symmetric Dirichlet distribution (Yurochkin et al.,
    as in PFLlib and NIID-Bench). Such a draw leaves some clients nearly empty, and drawing again until the smallest of
    many clients is large enough would hardly ever end. Here a client that lacks samples draws the classes of further
    ones from its own class mix, which is a Dirichlet draw too (Hsu et al.), and takes each from the largest client that
    has one. So any `min_samples` up to the average size is reached; at the average size itself all clients are equally
    large, as in Hsu et al.

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
        # the logarithm of Gamma(alpha) draws, which themselves are too small for floats if alpha is
        log_weights = np.log(rng.gamma(self.alpha + 1, size=shape)) + np.log1p(-rng.random(shape)) / self.alpha
        log_shares = log_softmax(log_weights, axis=0)
        columns = [apportion(np.exp(log_shares[:, c]), size, rng) for c, size in enumerate(class_sizes)]
        mixes = softmax(log_shares + np.log(class_sizes), axis=1)
        return deal_counts(labels, fill_up(np.stack(columns, axis=1), mixes, self.min_samples, rng), rng)


def fill_up(counts: np.ndarray, mixes: np.ndarray, min_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Move samples from the largest clients to those with fewer than `min_samples`, at most their average size.

    A client draws the classes that it lacks from its mix; `counts` and `mixes` are ``(num_clients, num_classes)``. If
    all classes that others can spare have probability 0, they are equally probable. Sums over clients stay.

    >>> fill_up(np.array([[4, 0], [0, 0]]), np.full((2, 2), 0.5), 1, np.random.default_rng(0))
    array([[3, 0],
           [1, 0]])
    """
    counts, sizes = counts.copy(), counts.sum(1)
    for client in np.flatnonzero(sizes < min_samples):
        while sizes[client] < min_samples:
            spare = (counts > 0) & (sizes > min_samples)[:, None]
            weights = np.where(spare.any(0), mixes[client], 0.0)
            weights = weights if weights.sum() > 0 else spare.any(0).astype(float)
            label = rng.choice(len(weights), p=weights / weights.sum())
            giver = np.argmax(np.where(spare[:, label], sizes, -1))
            for who, change in ((giver, -1), (client, 1)):
                counts[who, label] += change
                sizes[who] += change
    return counts
