"""Who gets which samples: pure functions of labels or groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Partition(NamedTuple):
    """Positions of one client's samples, int64, ``(n,)`` each; disjoint."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle samples so that any stretch of the order has nearly the class shares of the whole.

    The n_c samples of a class, shuffled, are laid out evenly over the unit interval from a random start; the order is
    that of all classes' samples on the interval. It works for classes of any size, a single sample included.

    Args:
        labels: class of every sample, ``(num_samples,)``.
        rng: source of all randomness.

    Returns:
        A permutation of the positions, int64, ``(num_samples,)``.

    >>> labels = np.array([0] * 6 + [1] * 3)
    >>> labels[stratified_order(labels, np.random.default_rng(0))]
    array([0, 1, 0, 0, 1, 0, 0, 1, 0])
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return np.argsort(place, kind="stable")


def split_stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split samples in two, each part with nearly the class shares of the whole.

    Args:
        labels: class of every sample, ``(num_samples,)``.
        share: size of the second part, in [0, 1). A share above 0 gives it at least one sample and leaves at least one
            to the first, as far as there are samples.
        rng: source of all randomness.

    Returns:
        Positions of the first and of the second part, sorted.

    >>> rest, part = split_stratified(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, np.random.default_rng(0))
    >>> len(rest), len(part)
    (6, 2)
    """
    num = len(labels)
    size = min(max(round(share * num), 1), num - 1) if share > 0 and num > 1 else 0
    order = stratified_order(labels, rng)
    return np.sort(order[size:]), np.sort(order[:size])


def train_val_test(labels: np.ndarray, test_share: float, val_share: float, rng: np.random.Generator) -> Partition:
    """Split one client's samples into train, val and test, stratified by class.

    Args:
        labels: class of every sample, ``(num_samples,)``.
        test_share: share of all samples that is tested on.
        val_share: share of the rest on which choices are made.
        rng: source of all randomness.

    >>> [len(part) for part in train_val_test(np.arange(100) % 10, 0.25, 0.1, np.random.default_rng(0))]
    [67, 8, 25]
    """
    rest, test = split_stratified(labels, test_share, rng)
    train, val = split_stratified(labels[rest], val_share, rng)
    return Partition(rest[train], rest[val], test)


def equal_parts(labels: np.ndarray, num_parts: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal samples to parts of equal size (to one sample), each with nearly the class shares of the whole.

    Returns:
        Positions of every part, sorted; disjoint, together all samples.

    >>> [part.tolist() for part in equal_parts(np.array([0, 0, 1, 1]), 2, np.random.default_rng(0))]
    [[0, 2], [1, 3]]
    """
    return [np.sort(part) for part in np.array_split(stratified_order(labels, rng), num_parts)]


def by_group(groups: np.ndarray) -> dict[str, np.ndarray]:
    """Collect the positions of every group (a writer, say).

    Args:
        groups: group of every sample, numbers or strings, ``(num_samples,)``.

    Returns:
        Sorted positions by the group's name, in the order of the groups' values.

    >>> {name: where.tolist() for name, where in by_group(np.array([7, 30, 7])).items()}
    {'7': [0, 2], '30': [1]}
    """
    return {str(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
