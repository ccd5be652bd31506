import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.data.partition.spurious import SpuriousCorrelation, group_counts, largest_per_class, smallest_per_class
from lpft.data.sources.base import categories
from lpft.data.splits import SplitPositions, SplitSettings, assign_splits

SPLITS = ("train", "val", "test")
RHOS = [0.9, 0.7, 0.3, 0.1]


def spurious_clients(groups, rhos, rng, units=None, given=None, names=None, **settings):
    table = pd.DataFrame({"label": groups // 2, "attribute": groups % 2, "split": "" if given is None else given})
    table["domain"] = categories(["all"] * len(table), ["all"])
    if units is not None:
        table["unit"] = units
    if names is not None:
        table["group"] = pd.Categorical.from_codes(groups, names)
    table = SpuriousCorrelation(tuple(rhos)).assign(table, SplitSettings(**settings), lambda *key: rng)
    return [
        SplitPositions(*(np.flatnonzero((table["client"] == name) & (table["split"] == split)) for split in SPLITS))
        for name in table["client"].cat.categories
    ]


def made(num=4000, num_units=None, seed=0):
    """Random samples, of one group more than of another, and whose they are."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(4, num, p=[0.4, 0.3, 0.2, 0.1])
    return groups, rng.integers(num_units or num, size=num)


def test_counts_by_hand():
    """Of 10 samples a class with rho 0.7, 7 of class 1 have a = 1 and 7 of class 0 have a = 0."""
    assert group_counts([0.7], 10).tolist() == [[7, 3, 3, 7]]
    assert group_counts([0.0, 1.0], 3).tolist() == [[0, 3, 3, 0], [3, 0, 0, 3]]


def test_the_rarest_group_decides_by_hand():
    """Four clients whose rhos add up to 2 need twice the class's size of every group."""
    assert largest_per_class(np.array([1000, 1000, 1000, 200]), RHOS) == 100
    assert largest_per_class(np.array([1000, 1000, 0, 1000]), RHOS) <= 5  # where rho 0.9 rounds to all
    assert largest_per_class(np.array([50, 0, 0, 40]), [1.0]) == 40


def test_correlation_balance_and_size():
    groups, _ = made()
    clients = spurious_clients(groups, RHOS, np.random.default_rng(0))
    for split in ("train", "val", "test"):
        parts = [getattr(client, split) for client in clients]
        assert len({len(part) for part in parts}) == 1
        for rho, part in zip(RHOS, parts, strict=True):
            counts = np.bincount(groups[part], minlength=4)
            per_class = len(part) // 2
            assert counts[:2].sum() == counts[2:].sum() == per_class
            assert counts[3] == counts[0] == round(rho * per_class)
    everything = np.concatenate([part for client in clients for part in client])
    assert len(np.unique(everything)) == len(everything)


def test_one_more_of_each_class_would_not_do():
    groups, _ = made()
    clients = spurious_clients(groups, RHOS, np.random.default_rng(0))
    pools = assign_splits(
        groups, np.arange(len(groups)), np.full(len(groups), ""), SplitSettings(), np.random.default_rng(0)
    )
    for split in ("train", "val", "test"):
        available = np.bincount(groups[pools[split]], minlength=4)
        needed = group_counts(RHOS, len(getattr(clients[0], split)) // 2 + 1).sum(0)
        assert (needed > available).any()


@settings(max_examples=25, deadline=None)
@given(
    num_units=st.integers(60, 2000),
    rhos=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0]), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    split_given=st.booleans(),
)
def test_no_unit_is_in_two_splits(num_units, rhos, seed, split_given):
    groups, units = made(num_units=num_units, seed=seed)
    said = None
    if split_given:  # by units, but for some samples
        draws = np.random.default_rng(seed)
        said = draws.choice(["train", "val", "test"], num_units)[units]
        said[:10] = draws.choice(["train", "val", "test"], 10)
    clients = spurious_clients(groups, rhos, np.random.default_rng(seed), units=units, given=said)
    of = {split: {u for client in clients for u in units[getattr(client, split)]} for split in ("train", "val", "test")}
    assert not of["train"] & of["val"]
    assert not of["train"] & of["test"]
    assert not of["val"] & of["test"]
    if said is not None:
        assert all((said[getattr(client, split)] == split).all() for client in clients for split in of)


def test_seeded_and_splits_are_free_of_the_correlations():
    groups, _ = made()
    a, b = (spurious_clients(groups, RHOS, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(x, y) for c, d in zip(a, b, strict=True) for x, y in zip(c, d, strict=True))
    other = spurious_clients(groups, [0.5, 0.5], np.random.default_rng(3))
    tested = np.concatenate([client.test for client in a])
    assert not np.isin(np.concatenate([client.train for client in other]), tested).any()
    different = spurious_clients(groups, RHOS, np.random.default_rng(4))
    assert not np.array_equal(a[0].train, different[0].train)


def test_a_size_that_was_asked_for():
    groups, _ = made()
    (client, *_) = spurious_clients(groups, RHOS, np.random.default_rng(0), train_per_client=100)
    assert (len(client.train), len(client.val)) == (90, 10)
    assert len(client.test) == len(spurious_clients(groups, RHOS, np.random.default_rng(0))[0].test)


@pytest.mark.parametrize("asked", [9, 10, 101, 10**6])
def test_a_size_that_cannot_be_names_those_that_can(asked):
    groups, _ = made()

    def clients(size):
        return spurious_clients(groups, RHOS, np.random.default_rng(0), train_per_client=size)

    with pytest.raises(
        ValueError, match=rf"`train_per_client={asked}` .*rho = 0\.9, 0\.7, 0\.3, 0\.1.* HINT: "
    ) as said:
        clients(asked)
    first, last = (int(word.rstrip(".")) for word in str(said.value).split("from ")[1].split(" to "))
    assert len(clients(first)[0].train) == 2 * smallest_per_class(RHOS)
    assert len(clients(last)[0].train) == len(spurious_clients(groups, RHOS, np.random.default_rng(0))[0].train)
    for size in (first - 2, last + 2):
        with pytest.raises(ValueError, match=f"from {first} to {last}"):
            clients(size)


def test_too_few_samples_of_a_group_are_reported():
    """Six of each class and client, the least with rho 0.9: of y=1, a=0 they are 1 and 5 together."""
    groups = np.repeat(np.arange(4), [100, 100, 4, 100])
    names = ["dark women", "dark men", "blond women", "blond men"]
    with pytest.raises(
        ValueError, match=r"too few .* images .* 0\.9, 0\.1, 12 images each \(blond women: \d, needed 6\)\. HINT"
    ):
        spurious_clients(groups, [0.9, 0.1], np.random.default_rng(0), names=names)
    assert group_counts([0.9, 0.1], 6).sum(0).tolist() == [6, 6, 6, 6]


def test_no_val_share_is_no_val_part():
    groups, _ = made()
    assert not len(spurious_clients(groups, RHOS, np.random.default_rng(0), val_share=0.0)[0].val)


def test_columns_that_cannot_be():
    table = pd.DataFrame({"label": [0, 1, 2], "split": "", "sex": [0, 1, 1]})
    for attribute, said in (("age", "no column `age`, but label, split, sex"), ("sex", "`label` has the values")):
        with pytest.raises(ValueError, match=said):
            SpuriousCorrelation(attribute=attribute).assign(table, SplitSettings(), lambda *key: None)
