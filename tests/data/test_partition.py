import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.data.partition import by_group, equal_parts, split_stratified, stratified_order, train_val_test

LABELS = st.lists(st.integers(0, 4), max_size=60).map(lambda values: np.array(values, np.int64))


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(1, 7), st.integers(0, 3))
def test_equal_parts_are_disjoint_complete_and_stratified(labels, num_parts, seed):
    parts = equal_parts(labels, num_parts, rng(seed))
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    counts = np.array([np.bincount(labels[part], minlength=5) for part in parts])
    even = np.bincount(labels, minlength=5) / num_parts
    assert np.all(np.abs(counts - even) <= 3)


@settings(max_examples=50, deadline=None)
@given(LABELS, st.floats(0, 0.99), st.floats(0, 0.99))
def test_train_val_test_is_a_partition_that_leaves_something_to_train_on(labels, test_share, val_share):
    parts = train_val_test(labels, test_share, val_share, rng())
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert len(parts.train) >= min(len(labels), 1)


def test_shares_of_balanced_classes_are_exact():
    """Ten classes of 40: a quarter is ten of each, a tenth of the remaining 30 is three of each."""
    labels = np.arange(400) % 10
    train, val, test = train_val_test(labels, 0.25, 0.1, rng())
    assert np.bincount(labels[test]).tolist() == [10] * 10
    assert np.bincount(labels[val]).tolist() == [3] * 10
    assert np.bincount(labels[train]).tolist() == [27] * 10


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_few_samples_do_not_crash(num):
    labels = np.zeros(num, np.int64)
    first, second = split_stratified(labels, 0.25, rng())
    assert (len(first), len(second)) == {0: (0, 0), 1: (1, 0), 2: (1, 1), 3: (2, 1)}[num]
    assert len(equal_parts(labels, 5, rng())) == 5


def test_no_share_takes_nothing():
    assert [len(part) for part in split_stratified(np.zeros(5, np.int64), 0.0, rng())] == [5, 0]


def test_order_is_drawn_from_the_generator_alone():
    labels = np.arange(50) % 3
    assert np.array_equal(stratified_order(labels, rng(1)), stratified_order(labels, rng(1)))
    assert not np.array_equal(stratified_order(labels, rng(1)), stratified_order(labels, rng(2)))


def test_groups_by_number_or_name():
    assert list(by_group(np.array([10, 9, 10]))) == ["9", "10"]
    assert by_group(np.array(["b", "a", "b"]))["b"].tolist() == [0, 2]
