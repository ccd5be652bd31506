from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.federated.aggregation import WeightedMean, usable
from lpft.types import ClientUpdate


def update(values: list[float], num_examples: int, dtype: torch.dtype = torch.float32) -> ClientUpdate:
    return ClientUpdate(0, {"w": torch.tensor(values, dtype=dtype), "counter": torch.tensor(9)}, num_examples)


def average(updates: list[ClientUpdate], weighting: str = "samples") -> dict[str, torch.Tensor]:
    aggregator = WeightedMean(weighting)  # type: ignore[arg-type]
    like = {"w": torch.zeros_like(updates[0].state["w"]), "counter": torch.tensor(4)}
    total = aggregator.zeros(like)
    for one in updates:
        total += aggregator.contribution(one)
    return aggregator.finish(total, like)


def test_two_clients_by_hand() -> None:
    """(1 * [1, 2] + 3 * [5, -2]) / 4 = [4, -1], and with equal weights [3, 0]."""
    updates = [update([1.0, 2.0], 1), update([5.0, -2.0], 3)]
    assert average(updates)["w"].tolist() == [4.0, -1.0]
    assert average(updates, "equal")["w"].tolist() == [3.0, 0.0]


def test_counters_are_copied_not_averaged() -> None:
    assert average([update([1.0], 1)])["counter"] == 4


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.integers(1, 10**6))
def test_one_client_gets_its_own_values_back(values: list[float], num_examples: int) -> None:
    values = [value if abs(value) > 1e-12 else 0.0 for value in values]
    assert average([update(values, num_examples)])["w"].tolist() == torch.tensor(values).tolist()


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_the_sum_is_the_same_in_any_order(order: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, 50, generator=generator, dtype=torch.float64) * 10 ** torch.arange(-6.0, 6.0).view(12, 1)
    updates = [update(v.tolist(), 7 + 13 * i, torch.float64) for i, v in enumerate(values)]
    assert torch.equal(average(updates)["w"], average([updates[i] for i in order])["w"])


def test_the_mean_is_that_of_floats() -> None:
    values = torch.randn(12, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.arange(1, 13)
    mean = average([update(v.tolist(), int(n), torch.float64) for v, n in zip(values, counts, strict=True)])["w"]
    torch.testing.assert_close(mean, (values * counts.view(-1, 1)).sum(0) / counts.sum(), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_diverged_updates_are_not_usable(bad: float) -> None:
    assert not usable(update([1.0, bad], 3))
    assert usable(update([1.0, -1e6], 1000))


def test_nobody_left_is_an_error() -> None:
    aggregator = WeightedMean()
    like = {"w": torch.zeros(2)}
    with pytest.raises(FloatingPointError, match="every client"):
        aggregator.finish(aggregator.zeros(like), like)
