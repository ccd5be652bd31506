"""The interface of partitions, which assign samples to clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from lpft.data.messages import about
from lpft.data.splits import SplitSettings, members_by_value, members_of

Draw = Callable[..., np.random.Generator]
"""Returns the generator of a key."""


class Partition(ABC):
    """A partition of a table of samples into clients. Its public attributes are its settings, JSON-serializable."""

    makes_splits = False
    """Whether the partition also sets the split of every sample."""

    @abstractmethod
    def assign(self, table: pd.DataFrame, settings: SplitSettings, draw: Draw) -> pd.DataFrame:
        """Return the clients' samples, with a categorical column `client`.

        Args:
            table: one row per sample; see `lpft.data.sources.base.Source.table`. The column `split` exists, and is
                empty for samples without a given split; the index is the sample's position.
            settings: sizes of the splits.
            draw: returns the generator of a key.

        Raises:
            ValueError: if there are too few samples for the settings, or a column is missing.
        """

    def settings(self) -> dict[str, object]:
        """Return class and settings, JSON-serializable."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **public}


class DealtPartition(Partition):
    """Deals samples to a number of clients, within each domain or over all.

    The source's test and val samples are dealt so that each client gets the class mix of its training samples.

    Args:
        num_clients: clients of each domain, called ``DOMAIN-0``, ``DOMAIN-1``, ... (or named like the domain, if it is
            one); a mapping sets the number by domain, with 1 for all others.
        within_domains: deal the samples of each domain separately; otherwise all together, to ``client-0``, ...
    """

    def __init__(self, num_clients: PositiveInt | dict[str, PositiveInt] = 10, within_domains: bool = True) -> None:
        if isinstance(num_clients, dict) and not within_domains:
            raise ValueError(
                f"`num_clients={num_clients}` is by domain, but `within_domains` is false. HINT: give one number."
            )
        self.num_clients = num_clients
        self.within_domains = within_domains

    @abstractmethod
    def deal(self, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Deal samples, given by their classes, ``(num_samples,)``, to clients.

        Returns:
            Positions of every client's samples, int64, sorted; disjoint, together all samples.

        Raises:
            ValueError: if there are too few samples for the settings.
        """

    def deal_held_out(
        self, parts: Sequence[np.ndarray], labels: np.ndarray, held_out: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Deal test or val samples; for the arguments see `match_distribution`."""
        return match_distribution(parts, labels, held_out, rng)

    def assign(self, table: pd.DataFrame, settings: SplitSettings, draw: Draw) -> pd.DataFrame:
        """Deal every domain's samples, or all, training samples first."""
        clients, names = np.full(len(table), -1), list[str]()
        domains = list(table["domain"].cat.categories)
        if isinstance(self.num_clients, dict) and set(self.num_clients) - set(domains):
            raise ValueError(
                f"`num_clients={self.num_clients}` names other domains than {', '.join(domains)}. HINT: rename them."
            )
        labels, split = table["label"].to_numpy(), table["split"].to_numpy()
        members = members_of(table["domain"].cat.codes.to_numpy(), len(domains))
        pools = zip(domains, members, strict=True) if self.within_domains else [(None, np.arange(len(table)))]
        for domain, rows in pools:
            num = self.num_clients.get(domain or "", 1) if isinstance(self.num_clients, dict) else self.num_clients
            where = f" (domain {domain!r})" if domain is not None and len(domains) > 1 else ""
            with about(f"`clients`{where}"):
                parts = self._deal_rows(labels[rows], split[rows], num, draw(domain, "clients", num))
            for number, part in enumerate(parts):
                clients[rows[part]] = len(names)
                names.append(f"{domain or 'client'}-{number}" if num > 1 or domain is None else domain)
        return table.assign(client=pd.Categorical.from_codes(clients, pd.Index(names)))

    def _deal_rows(self, labels: np.ndarray, split: np.ndarray, num: int, rng: np.random.Generator) -> list[np.ndarray]:
        train = np.flatnonzero(~np.isin(split, ["val", "test"]))
        dealt = self.deal(labels[train], num, rng)
        parts = [train[part] for part in dealt]
        for name in ("test", "val"):
            held_out = np.flatnonzero(split == name)
            if len(held_out):
                shares = self.deal_held_out(dealt, labels[train], labels[held_out], rng)
                parts = [np.append(part, held_out[share]) for part, share in zip(parts, shares, strict=True)]
        return parts


class SkewedPartition(DealtPartition):
    """Deals samples unequally, by Dirichlet draws.

    Args:
        num_clients: clients of each domain, or by domain.
        alpha: concentration of the draws.
        min_samples: least number of samples of a client, before they are split into train, val and test.
        within_domains: deal the samples of each domain separately; otherwise all together.
    """

    def __init__(
        self,
        num_clients: PositiveInt | dict[str, PositiveInt] = 10,
        alpha: PositiveFloat = 0.5,
        min_samples: NonNegativeInt = 40,
        within_domains: bool = True,
    ) -> None:
        super().__init__(num_clients, within_domains)
        self.alpha, self.min_samples = float(alpha), int(min_samples)


def match_distribution(
    parts: Sequence[np.ndarray], labels: np.ndarray, other_labels: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Deal other samples (a test set, say) so that each client gets the class mix of its part.

    A class is dealt in proportion to the clients' samples of it; equally, if there are none. `parts` are positions in
    `labels`; the result are sorted positions in `other_labels`.

    >>> parts = [np.array([0, 1, 2]), np.array([3])]
    >>> tests = match_distribution(parts, np.array([5, 5, 7, 7]), np.array([7, 7, 5, 5]), np.random.default_rng(0))
    >>> [len(part) for part in tests], tests[0][1:].tolist()
    ([3, 1], [2, 3])
    """
    classes, sizes = np.unique(other_labels, return_counts=True)
    counts = np.empty((len(parts), len(classes)), np.int64)
    for column, (label, size) in enumerate(zip(classes, sizes, strict=True)):
        shares = np.array([np.count_nonzero(labels[part] == label) for part in parts])
        counts[:, column] = apportion(shares if shares.any() else np.ones(len(parts)), size, rng)
    return deal_counts(other_labels, counts, rng)


def deal_counts(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Give every client random samples of each class: their positions, sorted.

    The counts are ``(num_clients, num_classes)``, with the classes in `labels`, sorted; a column sums to the number of
    samples of the class.
    """
    client = np.empty(len(labels), np.int64)
    for of_class, column in zip(members_by_value(labels), counts.T, strict=True):
        client[rng.permutation(of_class)] = np.repeat(np.arange(len(counts)), column)
    return members_of(client, len(counts))


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


def check_enough(num_samples: int, num_clients: int, min_samples: int) -> None:
    """Raise ValueError if there are no samples, or fewer than `min_samples` per client."""
    if not num_samples:
        raise ValueError(f"There are no samples for {num_clients} clients.")
    if num_clients * min_samples > num_samples:
        raise ValueError(
            f"`min_samples={min_samples}` for each of {num_clients} clients is {num_clients * min_samples} samples, but"
            f" there are {num_samples}. HINT: set `min_samples` to {num_samples // num_clients} or less,"
            f" or `num_clients` to {num_samples // min_samples} or less."
        )
