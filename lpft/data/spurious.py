"""Spurious correlations: clients in which the same attribute goes with opposite classes.

Pure functions of labels y and a binary attribute a. Client i has the correlation rho_i: P(a=1 | y=1) = P(a=0 | y=0) =
rho_i, in its train, val and test part alike. Classes are balanced inside every client and all clients are of one size,
so that P_i(x) is close across clients while P_i(y | a) is not.

Samples belong to four *groups*, numbered ``2 * y + a``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lpft.data.cache import HELD_OUT, SPLITS, Split
from lpft.data.partition import Partition, deal, split_stratified

NUM_GROUPS = 4
GROUPS = ("y=0, a=0", "y=0, a=1", "y=1, a=0", "y=1, a=1")


def spurious_clients(
    groups: np.ndarray,
    rhos: Sequence[float],
    rng: np.random.Generator,
    *,
    units: np.ndarray | None = None,
    given: np.ndarray | None = None,
    test_share: float = 0.25,
    val_share: float = 0.1,
    train_per_client: int | None = None,
    names: Sequence[str] = GROUPS,
) -> list[Partition]:
    """Choose every client's samples: disjoint, not all of them, no unit in two different splits.

    Samples are split first and dealt to the clients afterwards, so that the splits do not depend on the correlations.

    Args:
        groups: ``2 * y + a`` of every sample, int64, ``(num_samples,)``.
        rhos: every client's correlation, in [0, 1].
        rng: source of all randomness.
        units: who every sample is of (a patient, say), ``(num_samples,)``; by default every sample is a unit.
        given: the split that every sample belongs to, if the data set says so: ``train``, ``val`` or ``test``,
            ``(num_samples,)``. What is not given is cut from ``train``. Of a unit in several splits only the test
            samples are kept, or else the val samples.
        test_share: share of the units that are tested on, if that is not given.
        val_share: share of the others on which choices are made, if that is not given.
        train_per_client: number of samples that a client trains on and chooses by, even; by default all that the rarest
            group suffices for.
        names: of the groups, for messages.

    Returns:
        Positions of every client's samples, sorted.

    Raises:
        ValueError: if the samples do not suffice; it says of what there is too little, and how much would do.

    >>> groups = np.arange(400) % 4
    >>> parts = spurious_clients(groups, [0.9, 0.1], np.random.default_rng(0))
    >>> [[len(part) for part in client] for client in parts]
    [[134, 14, 48], [134, 14, 48]]
    >>> np.bincount(groups[parts[0].test]).tolist(), np.bincount(groups[parts[1].test]).tolist()
    ([22, 2, 2, 22], [2, 22, 22, 2])
    """
    pools = assign_splits(groups, rng, units=units, given=given, test_share=test_share, val_share=val_share)
    available = {split: np.bincount(groups[pool], minlength=NUM_GROUPS) for split, pool in pools.items()}
    sizes = sizes_per_class(available, rhos, train_per_client, val_share, names)
    dealt = {split: deal_spurious(groups[pool], rhos, sizes[split], rng) for split, pool in pools.items()}
    return [Partition(*(pools[split][dealt[split][client]] for split in SPLITS)) for client in range(len(rhos))]


def assign_splits(
    groups: np.ndarray,
    rng: np.random.Generator,
    *,
    units: np.ndarray | None = None,
    given: np.ndarray | None = None,
    test_share: float = 0.25,
    val_share: float = 0.1,
) -> dict[Split, np.ndarray]:
    """Say which samples may be trained on, chosen by and tested on; for the arguments see `spurious_clients`.

    Returns:
        Positions by split; no unit is in two of them. The units are stratified by the set of groups that they have
        samples of.

    >>> pools = assign_splits(np.zeros(8, int), np.random.default_rng(0), units=np.arange(8) // 2)
    >>> [pools[split].tolist() for split in ("train", "val", "test")]
    [[0, 1, 2, 3], [6, 7], [4, 5]]
    """
    units = np.arange(len(groups)) if units is None else units
    given = np.full(len(groups), "train") if given is None else given
    pools: dict[Split, np.ndarray] = {split: np.flatnonzero(given == split) for split in SPLITS}
    shares: dict[Split, float] = {"test": test_share, "val": val_share}
    for split, share in shares.items():
        if not len(pools[split]):
            pools["train"], pools[split] = _split_units(pools["train"], groups, units, share, rng)
    return {
        split: pools[split][
            ~np.isin(units[pools[split]], np.concatenate([units[:0], *(units[pools[o]] for o in held)]))
        ]
        for split, held in HELD_OUT.items()
    }


def sizes_per_class(
    available: Mapping[Split, np.ndarray],
    rhos: Sequence[float],
    train_per_client: int | None,
    val_share: float,
    names: Sequence[str] = GROUPS,
) -> dict[Split, int]:
    """Return how many samples of each class every client gets in each split; raise ValueError if there are too few.

    Args:
        available: number of samples of each group, ``(4,)``, by split.
        rhos: every client's correlation.
        train_per_client: as in `spurious_clients`.
        val_share: likewise.
        names: of the groups, for messages.
    """
    least = smallest_per_class(rhos)
    needed: dict[Split, int] = {"train": least, "val": min(1, int(available["val"].sum())), "test": least}
    most: dict[Split, int] = {split: largest_per_class(found, rhos) for split, found in available.items()}
    for split, found in available.items():
        if most[split] < needed[split]:
            raise ValueError(_said_of_lack(split, found, rhos, needed[split], names))
    if train_per_client is None:
        return most

    def cut(total: int) -> tuple[int, int]:
        val = min(most["val"], max(round(val_share * total / 2), needed["val"]))
        return total // 2 - val, val

    train, val = cut(train_per_client)
    if train_per_client % 2 or not least <= train <= most["train"]:
        totals = range(2, 2 * (most["train"] + most["val"]) + 1, 2)
        good = [total for total in totals if least <= cut(total)[0] <= most["train"]]
        raise ValueError(
            f"`train_per_client={train_per_client}` does not do for rho = {_listed(rhos)} and the images there are."
            f" HINT: set it to an even number from {good[0]} to {good[-1]}."
        )
    return {**most, "train": train, "val": val}


def group_counts(rhos: Sequence[float], per_class: int | np.ndarray) -> np.ndarray:
    """Return how many samples of each group every client has, ``(..., num_clients, 4)``.

    Args:
        rhos: every client's correlation.
        per_class: number of samples of each class, a number or any array of them.

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
    """Return the least samples of each class by which every client has one of each group that its rho leaves room for.

    >>> smallest_per_class([0.9, 0.3]), smallest_per_class([1.0])
    (6, 1)
    """
    shares = [share for rho in rhos for share in (rho, 1 - rho) if share > 0]
    return max(1, *(int(0.5 / share) + 1 for share in shares))


def deal_spurious(
    groups: np.ndarray, rhos: Sequence[float], per_class: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Give every client its number of random samples of each group.

    Returns:
        Positions of every client's samples, sorted; disjoint. Some samples are left.
    """
    counts = group_counts(rhos, per_class)
    available = np.bincount(groups, minlength=NUM_GROUPS)
    left = available - counts.sum(0)
    return deal(groups, np.vstack([counts, left])[:, available > 0], rng)[:-1]


def _split_units(
    pool: np.ndarray, groups: np.ndarray, units: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples in two by their units, which are stratified by the set of groups that they have samples of."""
    found, unit = np.unique(units[pool], return_inverse=True)
    kinds = np.zeros(len(found), np.int64)
    np.bitwise_or.at(kinds, unit, 1 << groups[pool])
    chosen = np.isin(unit, split_stratified(kinds, share, rng)[1])
    return pool[~chosen], pool[chosen]


def _said_of_lack(
    split: Split, available: np.ndarray, rhos: Sequence[float], per_class: int, names: Sequence[str]
) -> str:
    """Say of which groups there is too little, and what to do."""
    needed = group_counts(rhos, per_class).sum(0)
    lacking = [
        f"{name}: {has}, needed {needs}"
        for name, has, needs in zip(names, available, needed, strict=True)
        if has < needs
    ]
    return (
        f"There are too few {split} images for clients with rho = {_listed(rhos)}, {2 * per_class} images"
        f" each ({'; '.join(lacking)}). HINT: take fewer clients, rho nearer to 0.5, or more images of these groups."
    )


def _listed(rhos: Sequence[float]) -> str:
    return ", ".join(f"{rho:g}" for rho in rhos)
