"""Accuracy by group, and of the worst group of samples instead of the average sample.

Groups are the data's, such as the four combinations of class and attribute. A cell holds, for each group, its model's
accuracy over the client's own test set (``local``) and over the pooled test sets of all clients (``all``).

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
"""By a group's name ``local`` and ``all`` in percent (None without samples), ``num_local`` and ``num_all``."""


def by_group(names: Sequence[str], hits: NDArray[np.int64], sizes: NDArray[np.int64], own: int) -> dict[str, Any]:
    """Turn counts of one model into the accuracies of a cell.

    Args:
        names: names of the groups.
        hits: correct predictions on every client's test samples of each group, ``(C, G)``.
        sizes: number of these samples, ``(C, G)``.
        own: position of the model's own client.

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
    """Return the lowest accuracy of a group that has samples, percent; None if no group has any.

    >>> groups = {"men": {"local": 75.0, "all": 50.0}, "women": {"local": None, "all": 100.0}}
    >>> worst_group(groups, "local"), worst_group(groups, "all")
    (75.0, 50.0)
    """
    return min((figures[where] for figures in groups.values() if figures[where] is not None), default=None)
