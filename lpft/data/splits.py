"""Train, val and test: stratified by class, without tearing apart what belongs together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT: dict[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}
"""What a split must not share an image or a unit with."""

GivenSplits = Mapping[str, set[str]]
"""The splits that each domain comes with; the other ones are cut from its training samples."""


class SplitPositions(NamedTuple):
    """Positions of one client's samples in the table, int64, ``(n,)`` each; disjoint."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class SplitSettings:
    """How clients' samples are split; for the settings see `lpft.data.datamodule.FederatedDataModule`."""

    test_share: float = 0.25
    val_share: float = 0.1
    train_per_client: int | None = None
    test_per_client: int | None = None


def split_client(
    samples: pd.DataFrame, given: GivenSplits, settings: SplitSettings, rng: np.random.Generator
) -> SplitPositions:
    """Split one client's rows of the table, stratified by class, as far as the splits are not given by the domain."""
    positions, labels = samples.index.to_numpy(), samples["label"]
    domains, split = samples["domain"].astype(object), samples["split"]

    def cut(pool: np.ndarray, which: Split, share: float) -> tuple[np.ndarray, np.ndarray]:
        rest, part = [pool[:0]], [pool[:0]]
        of_pool = domains.loc[pool]
        for domain in dict.fromkeys(of_pool):
            members = pool[(of_pool == domain).to_numpy()]
            share_of_domain = 0.0 if which in given.get(domain, ()) else share
            first, second = split_stratified(labels.loc[members].to_numpy(), share_of_domain, rng)
            rest.append(members[first])
            part.append(members[second])
        return np.sort(np.concatenate(rest)), np.sort(np.concatenate(part))

    def at_most(pool: np.ndarray, most: int | None) -> np.ndarray:
        return pool if most is None else np.sort(pool[stratified_order(labels.loc[pool].to_numpy(), rng)[:most]])

    val, test = (positions[(split == which).to_numpy()] for which in ("val", "test"))
    train = positions[(~split.isin(["val", "test"])).to_numpy()]
    complete = all({"val", "test"} <= given.get(domain, set()) for domain in domains.unique())
    if not complete or settings.train_per_client is not None:
        train, more_test = cut(train, "test", settings.test_share)
        train, more_val = cut(at_most(train, settings.train_per_client), "val", settings.val_share)
        val, test = np.concatenate([val, more_val]), np.concatenate([test, more_test])
    return SplitPositions(train, val, at_most(test, settings.test_per_client))


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute samples, given their classes, so that any stretch has nearly the class shares of the whole.

    The n_c samples of a class, shuffled, are laid out evenly over the unit interval from a random start; the order is
    that of all classes' samples on the interval. It works for classes of any size, a single sample included.

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
    """Split samples, given their classes, in two parts, each with nearly the class shares of the whole.

    The second part has a `share` in [0, 1) of them. A share above 0 gives it at least one sample and leaves at least
    one to the first, as far as there are samples. Both are sorted.

    >>> rest, part = split_stratified(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, np.random.default_rng(0))
    >>> len(rest), len(part)
    (6, 2)
    """
    num = len(labels)
    size = min(max(round(share * num), 1), num - 1) if share > 0 and num > 1 else 0
    order = stratified_order(labels, rng)
    return np.sort(order[size:]), np.sort(order[:size])


def assign_splits(
    kinds: np.ndarray, units: np.ndarray, given: np.ndarray, settings: SplitSettings, rng: np.random.Generator
) -> dict[Split, np.ndarray]:
    """Split samples so that no unit (a patient, say) is in two splits.

    Args:
        kinds: class or group of every sample, small integers, ``(num_samples,)``. Units are stratified by the set of
            kinds that they have.
        units: unit of every sample, ``(num_samples,)``.
        given: split of every sample, ``(num_samples,)``; whatever is neither ``val`` nor ``test`` is to train on. A
            split that no sample has is cut from the training samples. Of a unit in several splits only the test
            samples are kept, or else the val samples.
        settings: the shares.
        rng: source of all randomness.

    >>> units, given = np.arange(8) // 2, np.full(8, "train")
    >>> pools = assign_splits(np.zeros(8, int), units, given, SplitSettings(0.25, 0.1), np.random.default_rng(0))
    >>> [pools[split].tolist() for split in ("train", "val", "test")]
    [[0, 1, 2, 3], [6, 7], [4, 5]]
    """
    pools: dict[Split, np.ndarray] = {split: np.flatnonzero(given == split) for split in SPLITS}
    pools["train"] = np.flatnonzero(~np.isin(given, ["val", "test"]))
    shares: dict[Split, float] = {"test": settings.test_share, "val": settings.val_share}
    for split, share in shares.items():
        if not len(pools[split]):
            pools["train"], pools[split] = _split_units(pools["train"], kinds, units, share, rng)
    test, val = units[pools["test"]], units[pools["val"]]
    pools["val"] = pools["val"][~np.isin(val, test)]
    pools["train"] = pools["train"][~np.isin(units[pools["train"]], np.append(test, val))]
    return {split: pools[split] for split in HELD_OUT}


def _split_units(
    pool: np.ndarray, kinds: np.ndarray, units: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples in two by their units, which are stratified by the set of kinds that they have samples of."""
    names, unit = np.unique(units[pool], return_inverse=True)
    sets = np.zeros((len(names), int(kinds.max(initial=0)) + 1), bool)
    sets[unit, kinds[pool]] = True
    order = np.unique(sets[:, ::-1], axis=0, return_inverse=True)[1].ravel()  # sorted like the binary numbers
    chosen = np.isin(unit, split_stratified(order, share, rng)[1])
    return pool[~chosen], pool[chosen]
