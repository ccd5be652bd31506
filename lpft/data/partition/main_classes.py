"""Label shift by a few main classes of each client."""

from __future__ import annotations

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.partition.base import DealtPartition, apportion, check_enough, deal_counts


class MainClasses(DealtPartition):
    """Label shift: every client has some main classes, and a small share of each other class.

    Each class is a main class of equally many clients (to one), in random combinations. These clients share equally
    what the others leave of it. With 5 clients, 10 classes of equal size, 2 main classes each and a tenth of the
    others, 60% of a client's samples are of its main classes; with 0.025 it is 90%.

    Args:
        num_clients: clients of each domain, or by domain.
        classes_per_client: number of a client's main classes.
        share_of_others: share of a class's samples for each client of which it is not a main class; at most one divided
            by the number of clients, which makes all clients alike.
        within_domains: deal the samples of each domain separately; otherwise all together.
    """

    def __init__(
        self,
        num_clients: PositiveInt | dict[str, PositiveInt] = 10,
        classes_per_client: PositiveInt = 2,
        share_of_others: ClosedUnitInterval = 0.1,
        within_domains: bool = True,
    ) -> None:
        super().__init__(num_clients, within_domains)
        self.classes_per_client, self.share_of_others = int(classes_per_client), float(share_of_others)

    def deal(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal the main classes, then each class by the clients' shares."""
        if self.share_of_others * num_clients > 1:
            raise ValueError(
                f"`share_of_others={self.share_of_others}` is too much for {num_clients} clients: main classes would be"
                f" the rarest. HINT: set `share_of_others` to {1 / num_clients:.3g} at most."
            )
        check_enough(len(labels), num_clients, min_samples=0)
        classes, class_sizes = np.unique(labels, return_counts=True)
        mains = deal_classes(num_clients, len(classes), self.classes_per_client, rng)
        num_holders = mains.sum(0)
        for label, size, num in zip(classes, class_sizes, num_holders, strict=True):
            if size < num:
                raise ValueError(
                    f"Class {label} has {size} samples for {num} clients that should hold it."
                    " HINT: set fewer clients or `classes_per_client`."
                )
        left = 1 - self.share_of_others * (num_clients - num_holders)
        shares = np.where(mains, left / num_holders, self.share_of_others)
        columns = [apportion(shares[:, c], size, rng) for c, size in enumerate(class_sizes)]
        return deal_counts(labels, np.stack(columns, axis=1), rng)


class Pathological(MainClasses):
    """Label shift: every client has samples of only a few classes (McMahan et al., arXiv:1602.05629; PFLlib).

    Args:
        num_clients: clients of each domain, or by domain.
        classes_per_client: number of a client's classes. Clients times this must be at least the number of classes,
            since all samples are dealt; if it is equal, no two clients share a class.
        within_domains: deal the samples of each domain separately; otherwise all together.
    """

    def __init__(
        self,
        num_clients: PositiveInt | dict[str, PositiveInt] = 10,
        classes_per_client: PositiveInt = 2,
        within_domains: bool = True,
    ) -> None:
        super().__init__(num_clients, classes_per_client, 0.0, within_domains)


def deal_classes(num_clients: int, num_classes: int, per_client: int, rng: np.random.Generator) -> np.ndarray:
    """Give every client different classes, each class to equally many clients (to one), in random combinations.

    Returns which client holds which class, bool, ``(num_clients, num_classes)``. Raises ValueError if there are too few
    classes, or no client would hold some.

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
    least, remainder = np.divmod(num_clients * per_client, num_classes)
    places = np.full(num_classes, least)
    places[rng.permutation(num_classes)[:remainder]] += 1
    holds = np.zeros((num_clients, num_classes), bool)
    for client in range(num_clients):
        # the classes with the most places: always possible
        classes = np.lexsort((rng.random(num_classes), -places))[:per_client]
        holds[client, classes] = True
        places[classes] -= 1
    return holds
