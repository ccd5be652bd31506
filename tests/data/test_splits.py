import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.data.splits import (
    SplitSettings,
    assign_splits,
    split_clients,
    split_stratified,
    stratified_order,
)

LABELS = st.lists(st.integers(0, 4), max_size=60).map(lambda values: np.array(values, np.int64))


def rng(seed=0):
    return np.random.default_rng(seed)


def table(labels, domain="a", split=""):
    return pd.DataFrame({"label": labels, "domain": domain, "split": split})


def split(samples, test_share, val_share, given=None, **settings):
    """Split the samples of one client, given as a table or as labels."""
    samples = samples if isinstance(samples, pd.DataFrame) else table(samples)
    samples = samples.astype({"domain": "category"}).assign(client=pd.Categorical(["me"] * len(samples), ["me"]))
    settings = SplitSettings(test_share, val_share, **settings)
    return split_clients(samples, given or {}, settings, lambda name, number: rng())["me"]


@settings(max_examples=50, deadline=None)
@given(LABELS, st.floats(0, 0.99), st.floats(0, 0.99))
def test_train_val_test_is_a_partition_that_leaves_something_to_train_on(labels, test_share, val_share):
    parts = split(labels, test_share, val_share)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert len(parts.train) >= min(len(labels), 1)


def test_shares_of_balanced_classes_are_exact():
    """Ten classes of 40: a quarter is ten of each, a tenth of the remaining 30 is three of each."""
    labels = np.arange(400) % 10
    train, val, test = split(labels, 0.25, 0.1)
    assert np.bincount(labels[test]).tolist() == [10] * 10
    assert np.bincount(labels[val]).tolist() == [3] * 10
    assert np.bincount(labels[train]).tolist() == [27] * 10


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_few_samples_do_not_crash(num):
    labels = np.zeros(num, np.int64)
    first, second = split_stratified(labels, 0.25, rng())
    assert (len(first), len(second)) == {0: (0, 0), 1: (1, 0), 2: (1, 1), 3: (2, 1)}[num]


def test_no_share_takes_nothing():
    assert [len(part) for part in split_stratified(np.zeros(5, np.int64), 0.0, rng())] == [5, 0]


def test_order_is_drawn_from_the_generator_alone():
    labels = np.arange(50) % 3
    assert np.array_equal(stratified_order(labels, rng(1)), stratified_order(labels, rng(1)))
    assert not np.array_equal(stratified_order(labels, rng(1)), stratified_order(labels, rng(2)))


def test_what_a_domain_comes_with_is_kept_and_the_rest_is_cut():
    """Domain a has a test part, b has none: a quarter of b's forty is tested on, nothing of a's forty."""
    samples = pd.concat(
        [table(np.arange(40) % 4, "a", "train"), table(np.arange(8) % 4, "a", "test"), table(np.arange(40) % 4, "b")],
        ignore_index=True,
    )
    parts = split(samples, 0.25, 0.1, {"a": {"train", "test"}})
    assert samples.loc[parts.test, "domain"].value_counts().to_dict() == {"a": 8, "b": 10}
    assert samples.loc[parts.val, "domain"].value_counts().to_dict() == {"a": 4, "b": 3}
    assert sorted(np.concatenate(parts)) == list(range(88))


def test_a_client_is_split_the_same_alone_and_among_others():
    """Rows of five clients, in which domains, classes and given splits are mixed; nobody has those of the sixth."""
    draw = np.random.default_rng(0)
    samples = pd.DataFrame({
        "label": draw.integers(4, size=300),
        "domain": pd.Categorical(draw.choice(["a", "b", "c"], 300)),
        "split": draw.choice(["", "train", "val", "test"], 300),
        "client": pd.Categorical(draw.choice(["e", "d", "c", "b", "a"], 300), list("edcbaf")),
    })  # fmt: skip
    given_ = {"a": {"test", "val"}, "b": {"test"}}

    def parts(rows):
        settings_ = SplitSettings(0.25, 0.1, train_per_client=30, test_per_client=9)
        return split_clients(rows, given_, settings_, lambda name, number: rng(number))

    together = parts(samples)
    assert list(together) == list("edcbaf")
    for name, of_client in together.items():
        alone = parts(samples[samples["client"] == name])[name]
        assert all(np.array_equal(*pair) for pair in zip(of_client, alone, strict=True))
        assert set(samples.loc[np.concatenate(of_client), "client"]) <= {name}


def test_splits_that_were_drawn_once_stay():
    """What is in caches and published runs goes by these draws: a has a test part, b gets one; both are chosen by."""
    samples = pd.DataFrame({"label": [0, 1, 2] * 6, "domain": ["a", "b"] * 9, "split": ["test"] * 2 + [""] * 16})
    assert [part.tolist() for part in split(samples, 0.25, 0.2, {"a": {"test"}})] == [
        [2, 5, 6, 7, 8, 9, 10, 11, 14, 15, 16],
        [4, 12, 13],
        [0, 1, 3, 17],
    ]


def test_time_grows_with_samples_and_clients_alone():
    """Five thousand clients of ten samples take a second; with masks over the table it was ten."""
    samples = table(np.arange(50_000) % 7).astype({"domain": "category"})
    samples = samples.assign(client=pd.Categorical.from_codes(np.arange(50_000) // 10, pd.Index(range(5000))))
    start = time.process_time()
    split_clients(samples, {}, SplitSettings(), lambda name, number: rng(number))
    assert time.process_time() - start < 5


def test_an_empty_part_that_is_given_stays_empty():
    parts = split(np.arange(40) % 4, 0.25, 0.1, {"a": {"test", "val"}})
    assert [len(part) for part in parts] == [40, 0, 0]


def test_most_samples():
    parts = split(np.arange(400) % 4, 0.25, 0.1, train_per_client=40, test_per_client=20)
    assert [len(part) for part in parts] == [36, 4, 20]


def test_shares_of_units():
    units, given_ = np.arange(1000) // 5, np.full(1000, "")
    pools = assign_splits(np.zeros(1000, int), units, given_, SplitSettings(0.25, 0.1), rng())
    assert {name: len(pool) for name, pool in pools.items()} == {"test": 250, "val": 75, "train": 675}


def test_a_domain_without_a_test_set_gets_one_from_its_own_units():
    """Domain 0 has a test set; domain 1 has none, and other units; domain 2 has only four units."""
    domains = np.repeat([0, 1, 2], [40, 40, 8])
    units = np.repeat(np.arange(44), 2)
    given_ = np.where(np.arange(88) < 20, "test", "")
    for seed in range(20):
        pools = assign_splits(np.zeros(88, int), units, given_, SplitSettings(0.25, 0.25), rng(seed), domains)
        assert sorted(np.concatenate(list(pools.values()))) == list(range(88))
        counts = {name: np.bincount(domains[pool], minlength=3).tolist() for name, pool in pools.items()}
        assert counts == {"test": [20, 10, 2], "val": [4, 8, 2], "train": [16, 22, 4]}
        assert not {*units[pools["train"]]} & {*units[pools["val"]], *units[pools["test"]]}


def test_units_of_several_domains_stay_in_one_split():
    """Every unit is in all three domains."""
    units, domains = np.tile(np.arange(20), 3), np.repeat(np.arange(3), 20)
    pools = assign_splits(np.zeros(60, int), units, np.full(60, ""), SplitSettings(0.25, 0.2), rng(), domains)
    assert {name: len(pool) for name, pool in pools.items()} == {"test": 15, "val": 9, "train": 36}
    assert not {*units[pools["test"]]} & {*units[pools["val"]], *units[pools["train"]]}
