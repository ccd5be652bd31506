import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.data.partition import ByColumn, Dirichlet, Iid, MainClasses, Pathological, QuantitySkew
from lpft.data.partition.base import apportion, match_distribution
from lpft.data.partition.dirichlet import fill_up
from lpft.data.partition.iid import equal_parts
from lpft.data.sources.base import categories
from lpft.data.splits import SplitSettings

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


MANY_LABELS = st.lists(st.integers(0, 4), min_size=40, max_size=120).map(
    lambda values: np.array([*range(5), *values] * 2, np.int64)  # all five classes, more than once
)
PARTITIONERS = st.one_of(
    st.just(Iid()),
    st.builds(Dirichlet, st.just(10), st.floats(1e-3, 1e3), st.integers(0, 8)),
    st.builds(QuantitySkew, st.just(10), st.floats(1e-3, 1e3), st.integers(0, 8)),
    st.builds(Pathological, st.just(10), st.just(5)),
    st.builds(MainClasses, st.just(10), st.just(5), st.floats(0, 0.1)),
)


def counts(labels, parts):
    return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


@settings(max_examples=200, deadline=None)
@given(PARTITIONERS, MANY_LABELS, st.integers(1, 2), st.integers(0, 3))
def test_partitions_are_disjoint_complete_seeded_and_large_enough(partitioner, labels, num_clients, seed):
    parts = partitioner.deal(labels, num_clients * 5 if hasattr(partitioner, "min_samples") else num_clients, rng(seed))
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert min(map(len, parts)) >= getattr(partitioner, "min_samples", 0)
    again = partitioner.deal(labels, len(parts), rng(seed))
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    assert all(np.array_equal(part, np.sort(part)) and part.dtype == np.int64 for part in parts)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 10), st.integers(0, 3))
def test_pathological_clients_have_exactly_their_number_of_classes(num_clients, per_client, seed):
    labels = np.arange(300) % 10
    if num_clients * per_client < 10:
        with pytest.raises(ValueError, match=r"some would belong to nobody. HINT: set at least \d+ clients"):
            Pathological(classes_per_client=per_client).deal(labels, num_clients, rng(seed))
        return
    table = counts(labels, Pathological(classes_per_client=per_client).deal(labels, num_clients, rng(seed)))
    assert ((table > 0).sum(1) == per_client).all()
    holders = (table > 0).sum(0)
    assert holders.max() - holders.min() <= 1
    for label in range(10):
        shares = table[table[:, label] > 0, label]
        assert shares.max() - shares.min() <= 1


def test_five_clients_with_two_classes_each_share_none():
    table = counts(np.arange(100) % 10, Pathological(classes_per_client=2).deal(np.arange(100) % 10, 5, rng()))
    assert table.max(0).tolist() == [10] * 10


def test_main_classes_by_hand():
    """Five clients, ten classes of 100: the four other clients get ten each, the main one keeps sixty."""
    labels = np.arange(1000) % 10
    table = counts(labels, MainClasses(10, 2, 0.1).deal(labels, 5, rng()))
    assert np.sort(table, axis=1).tolist() == [[10] * 8 + [60] * 2] * 5
    assert counts(labels, MainClasses(10, 2, 0.2).deal(labels, 5, rng())).tolist() == [[20] * 10] * 5


def test_five_hundred_clients_are_dealt_in_seconds():
    labels = rng(1).integers(10, size=60_000)
    start = time.perf_counter()
    parts = Dirichlet(alpha=0.1, min_samples=40).deal(labels, 500, rng())
    assert time.perf_counter() - start < 5
    sizes = np.array([len(part) for part in parts])
    assert sizes.min() == 40
    assert sizes.sum() == 60_000
    table = counts(labels, parts)
    assert (table.max(1) / sizes).mean() > 0.6  # filling up did not mix the classes


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 40), st.integers(0, 1000))
def test_small_clients_are_filled_up_from_the_largest_at_every_step(num_clients, num_classes, total, seed):
    """Equal to looking at all clients before each sample that is moved."""
    counts = rng(seed).multinomial(total, rng(seed).dirichlet(np.full(num_clients * num_classes, 0.3)))
    counts = counts.reshape(num_clients, num_classes)
    mixes = rng(seed + 1).dirichlet(np.full(num_classes, 0.3), size=num_clients)
    mixes[0] = np.eye(num_classes)[0]
    least = total // num_clients
    expected, sizes, draw = counts.copy(), counts.sum(1), rng(seed)
    for client in np.flatnonzero(sizes < least):
        while sizes[client] < least:
            spare = (expected > 0) & (sizes > least)[:, None]
            weights = np.where(spare.any(0), mixes[client], 0.0)
            weights = weights if weights.sum() > 0 else spare.any(0).astype(float)
            label = draw.choice(num_classes, p=weights / weights.sum())
            giver = np.argmax(np.where(spare[:, label], sizes, -1))
            expected[giver, label] -= 1
            expected[client, label] += 1
            sizes = expected.sum(1)
    assert np.array_equal(fill_up(counts, mixes, least, rng(seed)), expected)


def test_alpha_decides_between_one_class_and_all_alike():
    labels = np.arange(10_000) % 10
    top = {}
    for alpha in (1e-3, 0.5, 1e4):
        table = counts(labels, Dirichlet(10, alpha, min_samples=100).deal(labels, 20, rng()))
        top[alpha] = (table.max(1) / table.sum(1)).mean()
    assert top[1e-3] > 0.95
    assert 0.2 < top[0.5] < 0.6
    assert top[1e4] < 0.12


def test_sizes_are_equal_where_the_minimum_is_the_average():
    labels = np.arange(1000) % 10
    assert {len(part) for part in Dirichlet(10, 0.1, min_samples=50).deal(labels, 20, rng())} == {50}
    assert {len(part) for part in QuantitySkew(10, 0.1, min_samples=50).deal(labels, 20, rng())} == {50}


def test_quantity_skew_keeps_the_class_shares():
    labels = np.arange(5000) % 5
    table = counts(labels, QuantitySkew(10, 0.5, min_samples=20).deal(labels, 10, rng()))
    assert table.sum(1).max() > 3 * table.sum(1).min()
    assert (table.max(1) - table.min(1)).max() <= 2


@pytest.mark.parametrize(
    ("partitioner", "num_clients", "message"),
    [
        (Dirichlet(min_samples=40), 3, "3 clients is 120 samples, but there are 100. HINT: set `min_samples` to 33"),
        (QuantitySkew(min_samples=40), 3, "`num_clients` to 2 or less"),
        (Pathological(10, 11), 10, "there are 10 classes. HINT: set `classes_per_client` to 10"),
        (Pathological(11, 10), 11, "Class 0 has 10 samples for 11 clients"),
        (MainClasses(5, 2, 0.3), 5, "too much for 5 clients.*`share_of_others` to 0.2 at most"),
    ],
)
def test_impossible_partitions_are_reported(partitioner, num_clients, message):
    with pytest.raises(ValueError, match=message):
        partitioner.deal(np.arange(100) % 10, num_clients, rng())


@pytest.mark.parametrize("partitioner", [Dirichlet(min_samples=0), QuantitySkew(min_samples=0), Pathological()])
def test_nothing_to_deal(partitioner):
    with pytest.raises(ValueError, match="no samples for"):
        partitioner.deal(np.empty(0, np.int64), 3, rng())


@settings(max_examples=50, deadline=None)
@given(LABELS.filter(len), LABELS, st.integers(1, 5), st.integers(0, 3))
def test_other_samples_follow_the_class_mix(labels, others, num_clients, seed):
    parts = equal_parts(labels, num_clients, rng(seed))
    followed = match_distribution(parts, labels, others, rng(seed))
    assert sorted(np.concatenate(followed)) == list(range(len(others)))
    for label in np.unique(others):
        had = np.array([np.count_nonzero(labels[part] == label) for part in parts])
        got = np.array([np.count_nonzero(others[part] == label) for part in followed])
        shares = had / had.sum() if had.any() else np.full(num_clients, 1 / num_clients)
        assert (np.abs(got - shares * got.sum()) < 1).all()


def test_rounding_by_hand():
    """Of 7 by 1/2, 1/3, 1/6: 3.5, 2.33, 1.17; the sample left over goes to the largest remainder."""
    assert apportion(np.array([3, 2, 1]), 7, rng()).tolist() == [4, 2, 1]
    ties = np.array([apportion(np.ones(4), 1, rng(seed)) for seed in range(50)])
    assert (ties.sum(0) > 0).all()


def test_settings_name_class_and_values():
    assert Dirichlet(3, 0.1).settings() == {
        "class": "lpft.data.partition.dirichlet.Dirichlet", "num_clients": 3, "within_domains": True, "alpha": 0.1,
        "min_samples": 40,
    }  # fmt: skip


def assigned(partition, split=""):
    """Two domains of 60 samples; of all four classes alike."""
    table = pd.DataFrame({
        "label": np.arange(120) % 4,
        "domain": categories(np.repeat(["a", "b"], 60), ["b", "a"]),
        "split": split,
        "camera": np.arange(120) // 40,
    })  # fmt: skip
    return partition.assign(table, SplitSettings(), lambda *key: rng())


@pytest.mark.parametrize("partition", [Iid(3), Dirichlet(3, 1.0, 5), QuantitySkew(3, 1.0, 5), Pathological(3, 2)])
def test_every_domain_is_dealt_by_itself_or_all_together(partition):
    table = assigned(partition)
    assert list(table["client"].cat.categories) == ["b-0", "b-1", "b-2", "a-0", "a-1", "a-2"]
    assert (table["client"].astype(str).str[0] == table["domain"].astype(str)).all()
    partition.within_domains = False
    table = assigned(partition)
    assert list(table["client"].cat.categories) == ["client-0", "client-1", "client-2"]
    assert not table["client"].isna().any()


def test_numbers_by_domain():
    assert list(assigned(Iid({"a": 2}))["client"].cat.categories) == ["b", "a-0", "a-1"]
    with pytest.raises(ValueError, match=r"names other domains than b, a"):
        assigned(Iid({"c": 2}))


def test_held_out_samples_are_dealt_too():
    table = assigned(Pathological(2, 2), np.where(np.arange(120) % 3, "train", "test"))
    mixes = table.groupby(["client", "split"], observed=True)["label"].unique().map(sorted)
    assert all(mixes[client, "train"] == mixes[client, "test"] for client in table["client"].cat.categories)


def test_clients_by_column():
    table = assigned(ByColumn("camera"))
    assert table["client"].value_counts(sort=False).to_dict() == {"0": 40, "1": 40, "2": 40}
    with pytest.raises(ValueError, match=r"no column `hospital`, but label, domain, split, camera"):
        assigned(ByColumn("hospital"))
