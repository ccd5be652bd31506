"""Spurious correlations: the same attribute correlates with different classes in different clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jsonargparse.typing import ClosedUnitInterval

from lpft.data.partition.base import Draw, Partition, deal_counts
from lpft.data.splits import Split, SplitSettings, assign_splits

GROUPS = ("y=0, a=0", "y=0, a=1", "y=1, a=0", "y=1, a=1")
"""The four combinations of class y and attribute a, numbered ``2 * y + a``."""


class SpuriousCorrelation(Partition):
    """Clients that differ in the correlation of a binary attribute with a binary class.

    Client i has P(attribute | class 1) = P(no attribute | class 0) = rho_i, in training and test; classes are balanced
    in every client, and all clients have the largest size that the rarest of the four combinations of class and
    attribute permits. So P_i(x) is close across clients while P_i(y | a) is not. Clients are named by their rho.

    Samples are split before they are dealt to clients, so that the splits do not depend on the correlations. Given
    splits are kept, and no unit (a patient, say) is in two splits.

    Args:
        rho: every client's correlation.
        attribute: the column of the binary attribute.
    """

    makes_splits = True

    def __init__(self, rho: tuple[ClosedUnitInterval, ...] = (0.9, 0.1), attribute: str = "attribute") -> None:
        if not rho:
            raise ValueError("`rho` is empty. HINT: give one correlation for each client, such as [0.9, 0.1].")
        self.rho = [float(correlation) for correlation in rho]
        self.attribute = attribute

    def assign(self, table: pd.DataFrame, settings: SplitSettings, draw: Draw) -> pd.DataFrame:
        """Choose every client's samples; the others have no client."""
        groups = self._groups(table)
        rng = draw()
        units = table["unit"].to_numpy() if "unit" in table else np.arange(len(table))
        pools = assign_splits(groups, units, table["split"].to_numpy(), settings, rng)
        available = {split: np.bincount(groups[pool], minlength=len(GROUPS)) for split, pool in pools.items()}
        names = tuple(table["group"].cat.categories) if "group" in table else GROUPS
        sizes = sizes_per_class(available, self.rho, settings, names if len(names) == len(GROUPS) else GROUPS)
        clients, splits = np.full(len(table), -1), table["split"].to_numpy(object).copy()
        for split, pool in pools.items():
            splits[pool] = split
            for client, part in enumerate(deal_spurious(groups[pool], self.rho, sizes[split], rng)):
                clients[pool[part]] = client
        return table.assign(client=pd.Categorical.from_codes(clients, pd.Index(client_names(self.rho))), split=splits)

    def _groups(self, table: pd.DataFrame) -> np.ndarray:
        if self.attribute not in table:
            raise ValueError(
                f"`clients`: there is no column `{self.attribute}`, but {', '.join(table.columns)}."
                " HINT: set `attribute` to a column of yes and no."
            )
        for column in ("label", self.attribute):
            if not table[column].isin([0, 1]).all():
                raise ValueError(
                    f"`clients`: the column `{column}` has the values {sorted(map(str, table[column].unique()))[:5]},"
                    " but a spurious correlation is of two classes and a binary attribute."
                )
        return (2 * table["label"].astype(np.int64) + table[self.attribute].astype(np.int64)).to_numpy()


def client_names(rhos: Sequence[float]) -> list[str]:
    """Name clients by their correlation, and number those with the same.

    >>> client_names([0.9, 0.1, 0.1])
    ['rho_0.9', 'rho_0.1-0', 'rho_0.1-1']
    """
    names = [f"rho_{rho:g}" for rho in rhos]
    return [
        name if names.count(name) == 1 else f"{name}-{names[:number].count(name)}" for number, name in enumerate(names)
    ]


def sizes_per_class(
    available: Mapping[Split, np.ndarray],
    rhos: Sequence[float],
    settings: SplitSettings,
    names: Sequence[str] = GROUPS,
) -> dict[Split, int]:
    """Return how many samples of each class every client gets in each split; raise ValueError if there are too few.

    `available` has the number of samples of each group, ``(4,)``, by split; `names` are the groups' names for messages.
    """
    listed = ", ".join(f"{rho:g}" for rho in rhos)
    least = smallest_per_class(rhos)
    needed: dict[Split, int] = {"train": least, "val": min(1, int(available["val"].sum())), "test": least}
    most: dict[Split, int] = {split: largest_per_class(counts, rhos) for split, counts in available.items()}
    for split, counts in available.items():
        if most[split] < needed[split]:
            required = group_counts(rhos, needed[split]).sum(0)
            groups = zip(names, counts, required, strict=True)
            lacking = "; ".join(f"{name}: {num}, needed {least}" for name, num, least in groups if num < least)
            raise ValueError(
                f"There are too few {split} images for clients with rho = {listed}, {2 * needed[split]} images each"
                f" ({lacking}). HINT: take fewer clients, rho nearer to 0.5, or more images of these groups."
            )
    num = settings.train_per_client
    if num is None:
        return most

    def cut(total: int) -> tuple[int, int]:
        val = min(most["val"], max(round(settings.val_share * total / 2), needed["val"]))
        return total // 2 - val, val

    train, val = cut(num)
    if num % 2 or not least <= train <= most["train"]:
        totals = range(2, 2 * (most["train"] + most["val"]) + 1, 2)
        possible = [total for total in totals if least <= cut(total)[0] <= most["train"]]
        raise ValueError(
            f"`train_per_client={num}` does not do for rho = {listed} and the images there are."
            f" HINT: set it to an even number from {possible[0]} to {possible[-1]}."
        )
    return {**most, "train": train, "val": val}


def group_counts(rhos: Sequence[float], per_class: int | np.ndarray) -> np.ndarray:
    """Return how many samples of each group every client has, ``(..., num_clients, 4)``, given its samples per class.

    >>> group_counts([0.9, 0.5], 10)
    array([[9, 1, 1, 9],
           [5, 5, 5, 5]])
    """
    per_class = np.asarray(per_class)[..., None]
    agree = np.rint(np.asarray(rhos) * per_class).astype(np.int64)
    return np.stack([agree, per_class - agree, per_class - agree, agree], axis=-1)


def largest_per_class(available: np.ndarray, rhos: Sequence[float]) -> int:
    """Return the most samples of each class that all clients can have.

    >>> largest_per_class(np.array([100, 100, 100, 8]), [0.9, 0.1])
    8
    """
    sizes = np.arange(int(available.sum()) // (2 * len(rhos)) + 1)
    return int(np.flatnonzero((group_counts(rhos, sizes).sum(-2) <= available).all(-1))[-1])


def smallest_per_class(rhos: Sequence[float]) -> int:
    """Return the least number of samples per class that gives every client one of each group that its rho permits.

    >>> smallest_per_class([0.9, 0.3]), smallest_per_class([1.0])
    (6, 1)
    """
    shares = [share for rho in rhos for share in (rho, 1 - rho) if share > 0]
    return max(1, *(int(0.5 / share) + 1 for share in shares))


def deal_spurious(
    groups: np.ndarray, rhos: Sequence[float], per_class: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the positions, sorted, of random samples for every client, as many of each group as `group_counts`."""
    counts = group_counts(rhos, per_class)
    available = np.bincount(groups, minlength=len(GROUPS))
    left = available - counts.sum(0)
    return deal_counts(groups, np.vstack([counts, left])[:, available > 0], rng)[:-1]
