"""Splits into train, val and test, stratified by class; samples of a unit stay together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT: dict[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}
"""The splits that a split must not share an image or a unit with."""

GivenSplits = Mapping[str, set[str]]
"""The splits that the source defines for each domain; the others are split off its training samples."""


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


def split_clients(
    samples: pd.DataFrame, given: GivenSplits, settings: SplitSettings, draw: Callable[[str, int], np.random.Generator]
) -> dict[str, SplitPositions]:
    """Split every client's samples, stratified by class, unless the domain defines the splits.

    Takes time linear in the number of samples and clients.

    Args:
        samples: the clients' samples, with the categorical columns `client` and `domain`; the index is the position in
            the table.
        given: the splits that the source defines.
        settings: sizes of the splits.
        draw: returns a client's generator, given its name and number.
    """
    clients, domains = samples["client"].cat, samples["domain"].cat
    given_by_number = {number: given.get(name, set()) for number, name in enumerate(domains.categories)}
    rows = ClientRows(
        samples.index.to_numpy(), samples["label"].to_numpy(), domains.codes.to_numpy(), samples["split"].to_numpy()
    )
    return {
        name: split_client(rows.take(members), given_by_number, settings, draw(name, number))
        for number, (name, members) in enumerate(
            zip(clients.categories, members_of(clients.codes.to_numpy(), len(clients.categories)), strict=True)
        )
    }


class ClientRows(NamedTuple):
    """One client's rows of the table, an array ``(n,)`` for each column.

    Args:
        positions: positions in the table, int64.
        labels: classes, int64.
        domains: numbers of the domains, integers.
        split: ``train``, ``val``, ``test`` or empty.
    """

    positions: np.ndarray
    labels: np.ndarray
    domains: np.ndarray
    split: np.ndarray

    def take(self, members: np.ndarray) -> ClientRows:
        """Return some of the rows."""
        return ClientRows(*(column[members] for column in self))


def split_client(
    rows: ClientRows, given: Mapping[int, set[str]], settings: SplitSettings, rng: np.random.Generator
) -> SplitPositions:
    """Split one client's samples; `given` maps domains, by number, to the splits that the source defines."""

    def split_off(pool: np.ndarray, split: Split, share: float) -> tuple[np.ndarray, np.ndarray]:
        remaining, part = [pool[:0]], [pool[:0]]
        domains = rows.domains[pool]
        for domain in dict.fromkeys(domains.tolist()):
            members = pool[domains == domain]
            share_of_domain = 0.0 if split in given.get(domain, ()) else share
            first, second = split_stratified(rows.labels[members], share_of_domain, rng)
            remaining.append(members[first])
            part.append(members[second])
        return np.sort(np.concatenate(remaining)), np.sort(np.concatenate(part))

    def at_most(pool: np.ndarray, most: int | None) -> np.ndarray:
        return pool if most is None else np.sort(pool[stratified_order(rows.labels[pool], rng)[:most]])

    is_val, is_test = rows.split == "val", rows.split == "test"
    train, val, test = (np.flatnonzero(mask) for mask in (~(is_val | is_test), is_val, is_test))
    complete = all({"val", "test"} <= given.get(domain, set()) for domain in set(rows.domains.tolist()))
    if not complete or settings.train_per_client is not None:
        train, more_test = split_off(train, "test", settings.test_share)
        train, more_val = split_off(at_most(train, settings.train_per_client), "val", settings.val_share)
        val, test = np.concatenate([val, more_val]), np.concatenate([test, more_test])
    test = at_most(test, settings.test_per_client)
    return SplitPositions(rows.positions[train], rows.positions[val], rows.positions[test])


def members_of(numbers: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the positions of each of the numbers 0 to `count` - 1, int64, ascending; other numbers are ignored.

    >>> [members.tolist() for members in members_of(np.array([2, 0, -1, 0]), 3)]
    [[1, 3], [], [0]]
    """
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(count + 1))
    return [order[start:end] for start, end in pairwise(bounds)]


def members_by_value(values: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each distinct value, int64, ascending, the lowest value first.

    >>> [members.tolist() for members in members_by_value(np.array(["b", "a", "b"]))]
    [[1], [0, 2]]
    """
    distinct, numbers = np.unique(values, return_inverse=True)
    return members_of(numbers, len(distinct))


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute samples, given their classes, so that any interval has nearly the class shares of all samples.

    The n_c samples of a class, shuffled, are spaced evenly over the unit interval from a random start; the order is
    that of all classes' samples on the interval. Classes may have any size, down to a single sample.

    >>> labels = np.array([0] * 6 + [1] * 3)
    >>> labels[stratified_order(labels, np.random.default_rng(0))]
    array([0, 1, 0, 0, 1, 0, 0, 1, 0])
    """
    location = np.empty(len(labels))
    for of_class in members_by_value(labels):
        members = rng.permutation(of_class)
        location[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return np.argsort(location, kind="stable")


def split_stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split samples, given their classes, in two parts, each with nearly the class shares of all samples.

    The second part has a `share` in [0, 1) of them. With a share above 0 each part has at least one sample, if there
    are two. Both are sorted.

    >>> remaining, part = split_stratified(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, np.random.default_rng(0))
    >>> len(remaining), len(part)
    (6, 2)
    """
    num = len(labels)
    size = min(max(round(share * num), 1), num - 1) if share > 0 and num > 1 else 0
    order = stratified_order(labels, rng)
    return np.sort(order[size:]), np.sort(order[:size])


def assign_splits(
    kinds: np.ndarray,
    units: np.ndarray,
    given: np.ndarray,
    settings: SplitSettings,
    rng: np.random.Generator,
    domains: np.ndarray | None = None,
) -> dict[Split, np.ndarray]:
    """Split samples so that no unit (a patient, say) is in two splits.

    Args:
        kinds: class or group of every sample, small integers, ``(num_samples,)``. Units are stratified by their set
            of kinds.
        units: unit of every sample, ``(num_samples,)``.
        given: split of every sample, ``(num_samples,)``; samples of neither ``val`` nor ``test`` are training samples.
            A split that a domain lacks is split off its training samples. Of a unit in several splits only the test
            samples are kept, or else the val samples.
        settings: the shares.
        rng: source of all randomness.
        domains: number of every sample's domain, ``(num_samples,)``; a unit in several counts for the first of its
            rows. By default all samples are one domain.

    >>> units, given = np.arange(8) // 2, np.full(8, "train")
    >>> pools = assign_splits(np.zeros(8, int), units, given, SplitSettings(0.25, 0.1), np.random.default_rng(0))
    >>> [pools[split].tolist() for split in ("train", "val", "test")]
    [[0, 1, 2, 3], [6, 7], [4, 5]]
    """
    domains = np.zeros(len(units), np.int64) if domains is None else domains
    pools: dict[Split, np.ndarray] = {split: np.flatnonzero(given == split) for split in SPLITS}
    pools["train"] = np.flatnonzero(~np.isin(given, ["val", "test"]))
    shares: dict[Split, float] = {"test": settings.test_share, "val": settings.val_share}
    for split, share in shares.items():
        lacking = pools["train"][~np.isin(domains[pools["train"]], domains[pools[split]])]
        chosen = lacking[_choose_units(kinds[lacking], units[lacking], domains[lacking], share, rng)]
        pools["train"] = np.setdiff1d(pools["train"], chosen)
        pools[split] = np.sort(np.append(pools[split], chosen))
    test, val = units[pools["test"]], units[pools["val"]]
    pools["val"] = pools["val"][~np.isin(val, test)]
    pools["train"] = pools["train"][~np.isin(units[pools["train"]], np.append(test, val))]
    return {split: pools[split] for split in HELD_OUT}


def _choose_units(
    kinds: np.ndarray, units: np.ndarray, domains: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Choose a share of each domain's units, stratified by their sets of kinds; return which samples are theirs, bool.

    All arguments but `share` and `rng` have one entry for each sample.
    """
    names, first, unit = np.unique(units, return_index=True, return_inverse=True)
    sets = np.zeros((len(names), int(kinds.max(initial=0)) + 1), bool)
    sets[unit, kinds] = True
    order = np.unique(sets[:, ::-1], axis=0, return_inverse=True)[1].ravel()  # sorted like the binary numbers
    chosen = [
        of_domain[split_stratified(order[of_domain], share, rng)[1]] for of_domain in members_by_value(domains[first])
    ]
    return np.isin(unit, np.concatenate([np.empty(0, np.int64), *chosen]))
