from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.federated.aggregation import WeightedMean
from lpft.types import StackUpdate


def update(*values: list[float], num_examples: list[int], dtype: torch.dtype = torch.float32) -> StackUpdate:
    """One stack: each client's values and number of examples."""
    state = {"w": torch.tensor(values, dtype=dtype), "counter": torch.full((len(values),), 9)}
    return StackUpdate(list(range(len(values))), state, num_examples, torch.zeros(len(values)))


def average(updates: list[StackUpdate], weighting: str = "samples") -> dict[str, torch.Tensor]:
    aggregator = WeightedMean(weighting)  # type: ignore[arg-type]
    like = {"w": torch.zeros_like(updates[0].state["w"][0]), "counter": torch.tensor(4)}
    total = aggregator.zeros(like, [count for one in updates for count in one.num_examples])
    for one in updates:
        assert aggregator.add(total, one) == []
    return aggregator.finish(total, like)


def test_two_clients_by_hand() -> None:
    """(1 * [1, 2] + 3 * [5, -2]) / 4 = [4, -1], and with equal weights [3, 0]; as one stack and as two."""
    for updates in (
        [update([1.0, 2.0], num_examples=[1]), update([5.0, -2.0], num_examples=[3])],
        [update([1.0, 2.0], [5.0, -2.0], num_examples=[1, 3])],
    ):
        assert average(updates)["w"].tolist() == [4.0, -1.0]
        assert average(updates, "equal")["w"].tolist() == [3.0, 0.0]


def test_counters_are_copied_not_averaged() -> None:
    assert average([update([1.0], num_examples=[1])])["counter"] == 4


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.integers(1, 10**6))
def test_one_client_gets_its_own_values_back(values: list[float], num_examples: int) -> None:
    values = [value if abs(value) > 1e-12 else 0.0 for value in values]
    assert average([update(values, num_examples=[num_examples])])["w"].tolist() == torch.tensor(values).tolist()


VALUES = st.floats(1e-12, 1e6) | st.floats(-1e6, -1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(VALUES, min_size=3, max_size=3), st.integers(1, 10**5)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_sum_is_the_same_in_any_order_and_as_exact_as_its_type(clients: list, random: Random) -> None:
    updates = [update(values, num_examples=[count], dtype=torch.float64) for values, count in clients]
    mean = average(updates)["w"]
    random.shuffle(updates)
    assert torch.equal(average(updates)["w"], mean)
    whole = sum(count for _, count in clients)
    for entry, value in enumerate(mean.tolist()):
        terms = [Fraction(values[entry]) * count / whole for values, count in clients]
        assert abs(value - sum(terms)) <= 1e-7 * max(abs(term) for term in terms) / len(terms) + Fraction(1, 2**60)


def test_ranks_add_up_to_what_one_rank_has() -> None:
    """Sums over two and three ranks, added in another order, equal those of one, large networks included."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 2, 50_000, generator=generator) * 10 ** torch.arange(-6.0, 1.0).view(7, 1, 1)
    stacks = [StackUpdate([0, 1], {"w": v}, [3 + i, 5], torch.zeros(2)) for i, v in enumerate(values)]
    counts, like = [count for stack in stacks for count in stack.num_examples], {"w": torch.zeros(50_000)}

    def total(world: int) -> torch.Tensor:
        aggregator = WeightedMean()
        parts = [aggregator.zeros(like, counts) for _ in range(world)]
        for number, stack in enumerate(stacks):
            aggregator.add(parts[number % world], stack)
        return sum(reversed(parts), start=torch.zeros(()))

    assert torch.equal(total(2), total(1))
    assert torch.equal(total(3), total(1))


def test_the_mean_is_that_of_floats() -> None:
    values = torch.randn(12, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = list(range(1, 13))
    expected = (values * torch.tensor(counts).view(-1, 1)).sum(0) / sum(counts)
    mean = average([update(*values.tolist(), num_examples=counts, dtype=torch.float64)])["w"]
    torch.testing.assert_close(mean, expected, rtol=1e-14, atol=1e-16)


def test_joined_stacks_are_summed_like_single_ones() -> None:
    """Whatever the layout of the matrices in memory; a client that has diverged is left out of its stack."""
    values = torch.randn(7, 30, 3, generator=torch.Generator().manual_seed(0))
    values[2, 0, 0] = float("nan")
    like, counts, sizes = {"w": torch.zeros(30, 3)}, [3, 1, 4, 1, 5, 9, 2], [3, 3, 1]
    alone, together = WeightedMean(), WeightedMean()
    expected, found = alone.zeros(like, counts), together.zeros(like, counts)
    for part in torch.arange(7).split(sizes):
        own = [counts[client] for client in part.tolist()]
        alone.add(expected, StackUpdate(part.tolist(), {"w": values[part]}, own, torch.zeros(len(part))))
    transposed = values.transpose(1, 2).contiguous().transpose(1, 2)
    update = StackUpdate(list(range(7)), {"w": transposed}, counts, torch.zeros(7), joined=tuple(sizes))
    assert together.add(found, update) == [2]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_diverged_clients_are_left_out(bad: float) -> None:
    aggregator, like = WeightedMean(), {"w": torch.zeros(2)}
    total = aggregator.zeros(like, [3, 5, 1])
    assert aggregator.add(total, update([1.0, bad], [2.0, 4.0], [bad, 1.0], num_examples=[3, 5, 1])) == [0, 2]
    assert aggregator.finish(total, like)["w"].tolist() == [2.0, 4.0]
    assert aggregator.add(total, update([1.0, -1e6], num_examples=[1000])) == []


def test_no_remaining_clients_is_an_error() -> None:
    aggregator, like = WeightedMean(), {"w": torch.zeros(1)}
    total = aggregator.zeros(like, [1])
    assert aggregator.add(total, update([float("nan")], num_examples=[1])) == [0]
    with pytest.raises(FloatingPointError, match="every client"):
        aggregator.finish(total, like)
