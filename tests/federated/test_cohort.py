from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.federated.cohort import sample_cohort, shard


def test_cohorts_depend_only_on_seed_and_round() -> None:
    draw = [sample_cohort([1] * 20, 0.3, seed=0, round_=r) for r in range(30)]
    assert draw == [sample_cohort([1] * 20, 0.3, seed=0, round_=r) for r in range(30)]
    assert all(len(set(cohort)) == 6 for cohort in draw)
    assert len({tuple(cohort) for cohort in draw}) > 20
    assert draw != [sample_cohort([1] * 20, 0.3, seed=1, round_=r) for r in range(30)]
    assert {client for cohort in draw for client in cohort} == set(range(20))


def test_clients_without_samples_are_never_drawn() -> None:
    assert sample_cohort([0, 5, 0, 5], 1.0, 0, 1) == [1, 3]
    with pytest.raises(ValueError, match="No client has training samples"):
        sample_cohort([0, 0], 1.0, 0, 1)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 6))
def test_shards_hold_every_stack_once_and_are_balanced(cost: list[int], world_size: int) -> None:
    stacks = [[client] for client in range(len(cost))]
    parts = [shard(stacks, cost, rank, world_size) for rank in range(world_size)]
    assert sorted(stack for part in parts for stack in part) == stacks
    load = [sum(cost[client] for stack in part for client in stack) for part in parts]
    assert max(load) <= min(load) + max(cost)
