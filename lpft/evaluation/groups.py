"""Accuracy of groups of samples, and of the worst group.

The data define the groups, such as the four combinations of class and attribute. A client result contains the model's
accuracy for each group, on the client's own test set (``local``) and on the pooled test sets of all clients (``all``).

References:
    Sagawa et al., arXiv:1911.08731.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Where = Literal["local", "all"]
Groups = Mapping[str, Mapping[str, Any]]
"""For each group, by name: ``local`` and ``all`` in percent (None without samples), ``num_local`` and ``num_all``."""


def by_group(names: Sequence[str], hits: NDArray[np.int64], sizes: NDArray[np.int64], own: int) -> dict[str, Any]:
    """Compute the accuracies of a model on all groups.

    Args:
        names: names of the groups.
        hits: correct predictions on every client's test samples of each group, ``(C, G)``.
        sizes: number of every client's test samples of each group, ``(C, G)``.
        own: position of the model's client.

    >>> by_group(["men", "women"], np.array([[3, 0], [1, 2]]), np.array([[4, 0], [4, 2]]), own=0)["men"]
    {'local': 75.0, 'all': 50.0, 'num_local': 4, 'num_all': 8}
    """
    counts = {"local": (hits[own], sizes[own]), "all": (hits.sum(0), sizes.sum(0))}
    return {
        name: {where: 100 * int(right[g]) / int(num[g]) if num[g] else None for where, (right, num) in counts.items()}
        | {f"num_{where}": int(num[g]) for where, (_, num) in counts.items()}
        for g, name in enumerate(names)
    }


def worst_group(groups: Groups, where: Where) -> float | None:
    """Return the lowest accuracy among groups with samples, percent; None if no group has samples.

    >>> groups = {"men": {"local": 75.0, "all": 50.0}, "women": {"local": None, "all": 100.0}}
    >>> worst_group(groups, "local"), worst_group(groups, "all")
    (75.0, 50.0)
    """
    return min((figures[where] for figures in groups.values() if figures[where] is not None), default=None)
