"""Who gets which samples: pure functions of labels or groups, and partitioners that YAML chooses by ``class_path``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.special import log_softmax, softmax


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


def train_val_test(
    labels: np.ndarray, test_share: float, val_share: float, rng: np.random.Generator, most: int | None = None
) -> Partition:
    """Split one client's samples into train, val and test, stratified by class.

    Args:
        labels: class of every sample, ``(num_samples,)``.
        test_share: share of all samples that is tested on.
        val_share: share of the rest on which choices are made.
        rng: source of all randomness.
        most: most samples that are trained and chosen on, a stratified draw; what is left over is in no part.

    >>> [len(part) for part in train_val_test(np.arange(100) % 10, 0.25, 0.1, np.random.default_rng(0))]
    [67, 8, 25]
    """
    rest, test = split_stratified(labels, test_share, rng)
    if most is not None:
        rest = np.sort(rest[stratified_order(labels[rest], rng)[:most]])
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


class Partitioner(ABC):
    """Deals the samples of a pool to clients; makes label shift or skewed sizes where the images are alike.

    A subclass is a plug-in. Its settings are its attributes, as JSON has them, for they are part of the cache's key.
    """

    @abstractmethod
    def __call__(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal all samples.

        Args:
            labels: class of every sample, ``(num_samples,)``.
            num_clients: number of clients.
            rng: source of all randomness.

        Returns:
            Positions of every client's samples, int64, sorted; disjoint, together all samples.

        Raises:
            ValueError: if the samples do not suffice for what the settings ask.
        """

    def settings(self) -> dict[str, object]:
        """Return class and settings, JSON-serialisable."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **vars(self)}


class Iid(Partitioner):
    """Clients of equal size with the class shares of the whole.

    >>> [part.tolist() for part in Iid()(np.array([0, 0, 1, 1]), 2, np.random.default_rng(0))]
    [[0, 2], [1, 3]]
    """

    def __call__(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal equal, stratified parts."""
        return equal_parts(labels, num_clients, rng)


class Dirichlet(Partitioner):
    """Label shift: every class is spread over the clients by a Dirichlet draw, so sizes differ too.

    The shares of class c that the clients get are one draw from a symmetric Dirichlet distribution (Yurochkin et al.,
    as in PFLlib and NIID-Bench). Such a draw leaves some clients nearly empty: with ten classes and `alpha` 0.1, sizes
    are spread like an exponential variable, and drawing again until the smallest of many clients is large enough would
    hardly ever end. Here nothing is drawn again. A client that lacks samples draws the classes of further ones from its
    own class mix, which is a Dirichlet draw too (Hsu et al.), and takes each from the largest client that has one. So
    any `min_samples` up to the average size is reached, in as many steps as samples are lacking; at the average size
    itself all clients are equally large, as in Hsu et al.

    Args:
        alpha: concentration; below 1 a client sees few classes, above 100 all clients look alike.
        min_samples: least number of samples of a client, before they are split into train, val and test.

    References:
        Hsu et al., arXiv:1909.06335; Yurochkin et al., arXiv:1905.12022.

    >>> labels = np.arange(1000) % 10
    >>> [len(part) for part in Dirichlet(alpha=0.1)(labels, 5, np.random.default_rng(1))]
    [266, 111, 108, 251, 264]
    """

    def __init__(self, alpha: PositiveFloat = 0.5, min_samples: NonNegativeInt = 40) -> None:
        self.alpha, self.min_samples = float(alpha), int(min_samples)

    def __call__(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw the shares of every class, round them to samples, fill up small clients."""
        check_enough(len(labels), num_clients, self.min_samples)
        class_sizes = np.unique(labels, return_counts=True)[1]
        shape = (num_clients, len(class_sizes))
        # the logarithm of Gamma(alpha) draws, which themselves are too small for floats if alpha is
        log_weights = np.log(rng.gamma(self.alpha + 1, size=shape)) + np.log1p(-rng.random(shape)) / self.alpha
        log_shares = log_softmax(log_weights, axis=0)
        columns = [apportion(np.exp(log_shares[:, c]), size, rng) for c, size in enumerate(class_sizes)]
        mixes = softmax(log_shares + np.log(class_sizes), axis=1)
        return deal(labels, fill_up(np.stack(columns, axis=1), mixes, self.min_samples, rng), rng)


class MainClasses(Partitioner):
    """Label shift: every client has some main classes, and of each other class a small share.

    Classes are dealt so that each is a main class of equally many clients (to one), in random company. The clients
    whose main class it is share equally what the others leave of it. With 5 clients, 10 classes of equal size, 2 main
    classes each and a tenth of the others, 60% of a client's samples are of its main classes; with 0.025 it is 90%.

    Args:
        classes_per_client: number of a client's main classes.
        share_of_others: share of the samples of a class that goes to each client whose main class it is not; at most
            one by the number of clients, which makes all clients alike.
    """

    def __init__(self, classes_per_client: PositiveInt = 2, share_of_others: ClosedUnitInterval = 0.1) -> None:
        self.classes_per_client, self.share_of_others = int(classes_per_client), float(share_of_others)

    def __call__(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal the main classes, then each class by the clients' shares of it."""
        if self.share_of_others * num_clients > 1:
            raise ValueError(
                f"`share_of_others={self.share_of_others}` is too much for {num_clients} clients: main classes would be"
                f" the rarest. HINT: set `share_of_others` to {1 / num_clients:.3g} at most."
            )
        check_enough(len(labels), num_clients, min_samples=0)
        classes, class_sizes = np.unique(labels, return_counts=True)
        mains = deal_classes(num_clients, len(classes), self.classes_per_client, rng)
        for label, size, holders in zip(classes, class_sizes, mains.sum(0), strict=True):
            if size < holders:
                raise ValueError(
                    f"Class {label} has {size} samples for {holders} clients that should hold it."
                    " HINT: set fewer clients or `classes_per_client`."
                )
        left = 1 - self.share_of_others * (num_clients - mains.sum(0))
        shares = np.where(mains, left / mains.sum(0), self.share_of_others)
        columns = [apportion(shares[:, c], size, rng) for c, size in enumerate(class_sizes)]
        return deal(labels, np.stack(columns, axis=1), rng)


class Pathological(MainClasses):
    """Label shift: every client has samples of a few classes only (McMahan et al., arXiv:1602.05629; PFLlib).

    Args:
        classes_per_client: number of a client's classes. Clients times this must reach the number of classes, for all
            samples are dealt; where it is equal to it, no two clients share a class.
    """

    def __init__(self, classes_per_client: PositiveInt = 2) -> None:
        super().__init__(classes_per_client, share_of_others=0.0)


class QuantitySkew(Partitioner):
    """Clients of unequal sizes with the class shares of the whole.

    Every client gets `min_samples`; the rest is shared out by one draw from a symmetric Dirichlet distribution.

    Args:
        alpha: concentration; the smaller, the more a few clients have nearly all.
        min_samples: least number of samples of a client, before they are split into train, val and test.

    >>> [len(part) for part in QuantitySkew(alpha=0.5)(np.arange(1000) % 10, 5, np.random.default_rng(0))]
    [206, 41, 414, 186, 153]
    """

    def __init__(self, alpha: PositiveFloat = 0.5, min_samples: NonNegativeInt = 40) -> None:
        self.alpha, self.min_samples = float(alpha), int(min_samples)

    def __call__(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw the sizes and cut a stratified order of all samples into them."""
        check_enough(len(labels), num_clients, self.min_samples)
        shares = rng.dirichlet(np.full(num_clients, self.alpha))
        sizes = self.min_samples + apportion(shares, len(labels) - num_clients * self.min_samples, rng)
        order = stratified_order(labels, rng)
        return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def follow(
    parts: Sequence[np.ndarray], labels: np.ndarray, other_labels: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Deal other samples (a test set, say) so that each client gets the class mix of the part it has.

    Args:
        parts: positions of every client's samples.
        labels: class of every sample that `parts` names.
        other_labels: class of every sample that is to be dealt. A class is shared out in proportion to how much of it
            the clients have; equally, if none has any.
        rng: source of all randomness.

    Returns:
        Positions of every client's other samples, sorted; disjoint, together all.

    >>> parts = [np.array([0, 1, 2]), np.array([3])]
    >>> tests = follow(parts, np.array([5, 5, 7, 7]), np.array([7, 7, 5, 5]), np.random.default_rng(0))
    >>> [len(part) for part in tests], tests[0][1:].tolist()
    ([3, 1], [2, 3])
    """
    classes, sizes = np.unique(other_labels, return_counts=True)
    counts = np.zeros((len(parts), len(classes)), np.int64)
    for c, (label, size) in enumerate(zip(classes, sizes, strict=True)):
        had = np.array([np.count_nonzero(labels[part] == label) for part in parts])
        counts[:, c] = apportion(had if had.any() else np.ones(len(parts)), size, rng)
    return deal(other_labels, counts, rng)


def deal(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Give every client random samples of each class.

    Args:
        labels: class of every sample, ``(num_samples,)``.
        counts: number of samples of a class for each client, ``(num_clients, num_classes)``, the classes being those in
            `labels`, sorted. A column's sum is the number of samples of the class.
        rng: source of all randomness.

    Returns:
        Positions of every client's samples, sorted.
    """
    parts = [[np.empty(0, np.int64)] for _ in counts]
    for label, column in zip(np.unique(labels), counts.T, strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(members, np.cumsum(column)[:-1]), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def apportion(shares: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Round shares of a total to whole numbers that add up to it (largest remainders first, ties at random).

    >>> apportion(np.array([0.5, 0.3, 0.2]), 4, np.random.default_rng(0))
    array([2, 1, 1])
    """
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    order = np.lexsort((rng.random(len(shares)), counts - exact))
    counts[order[: total - counts.sum()]] += 1
    return counts


def fill_up(counts: np.ndarray, mixes: np.ndarray, min_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Move samples from the largest clients to those with fewer than `min_samples`.

    Args:
        counts: number of samples of every client and class, ``(num_clients, num_classes)``.
        mixes: probability of each class for a sample that a client still lacks, same shape. If all classes that others
            can spare have probability 0, they are equally probable.
        min_samples: size that all clients reach, at most their average size.
        rng: source of all randomness.

    Returns:
        The new counts; sums over clients are the old ones.

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


def deal_classes(num_clients: int, num_classes: int, per_client: int, rng: np.random.Generator) -> np.ndarray:
    """Give every client different classes, each class to equally many clients (to one), in random company.

    Returns:
        Who holds what, bool, ``(num_clients, num_classes)``.

    Raises:
        ValueError: if there are not so many classes, or some would be held by nobody.

    >>> deal_classes(3, 3, 1, np.random.default_rng(0)).sum(0)
    array([1, 1, 1])
    """
    if per_client > num_classes:
        raise ValueError(
            f"`classes_per_client={per_client}`, but there are {num_classes} classes."
            f" HINT: set `classes_per_client` to {num_classes} or less."
        )
    if num_clients * per_client < num_classes:
        raise ValueError(
            f"`num_clients={num_clients}` times `classes_per_client={per_client}` is less than the {num_classes}"
            f" classes, so some would belong to nobody. HINT: set at least {-(-num_classes // per_client)} clients."
        )
    room, more = np.divmod(num_clients * per_client, num_classes)
    left = np.full(num_classes, room)
    left[rng.permutation(num_classes)[:more]] += 1
    holds = np.zeros((num_clients, num_classes), bool)
    for client in range(num_clients):
        chosen = np.lexsort((rng.random(num_classes), -left))[:per_client]  # of which most is left: always works out
        holds[client, chosen] = True
        left[chosen] -= 1
    return holds


def check_enough(num_samples: int, num_clients: int, min_samples: int) -> None:
    """Raise ValueError if there are no samples at all, or not `min_samples` for every client."""
    if not num_samples:
        raise ValueError(f"There are no samples to deal to {num_clients} clients.")
    if num_clients * min_samples > num_samples:
        raise ValueError(
            f"`min_samples={min_samples}` for each of {num_clients} clients is {num_clients * min_samples} samples, but"
            f" there are {num_samples}. HINT: set `min_samples` to {num_samples // num_clients} or less,"
            f" or `num_clients` to {num_samples // min_samples} or less."
        )
