"""The clients of a round, and their division among the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lpft.runtime.seeding import generator


def sample_cohort(num_samples: Sequence[int], participation: float, seed: int, round_: int) -> list[int]:
    """Draw the clients of a round, without replacement, from those that have training samples.

    Args:
        num_samples: training samples of every client.
        participation: share of the clients that take part, in ``(0, 1]``; rounded, at least one.
        seed: seed of the run.
        round_: number of the round. With the seed it determines the draw.

    Returns:
        Positions of the clients, in ascending order.

    Raises:
        ValueError: if no client has training samples.
    """
    eligible = [client for client, count in enumerate(num_samples) if count > 0]
    if not eligible:
        raise ValueError("No client has training samples. HINT: check `data` with `lpft prepare`.")
    size = cohort_size(len(eligible), participation)
    chosen = torch.randperm(len(eligible), generator=generator(seed, "cohort", round_))[:size]
    return sorted(eligible[i] for i in chosen.tolist())


def cohort_size(num_clients: int, participation: float) -> int:
    """Return the number of clients in a round: the share that takes part, rounded, at least one.

    >>> cohort_size(10, 0.25), cohort_size(3, 0.01)
    (2, 1)
    """
    return max(1, round(num_clients * participation))


def shard(stacks: Sequence[list[int]], cost: Sequence[int], rank: int, world_size: int) -> list[list[int]]:
    """Return the stacks that one rank trains, such that all ranks have about the same work.

    Stacks are assigned in descending order of cost, each to the rank with the least work so far. Stacks are never
    divided: so the clients in a stack do not depend on the number of ranks.

    Args:
        stacks: all stacks of the cohort.
        cost: cost of every client, by position: its number of training samples.
        rank: number of this rank, from 0.
        world_size: number of ranks.

    Returns:
        The rank's stacks; possibly none.

    >>> [shard([[0], [1], [2]], cost=[50, 20, 40], rank=rank, world_size=2) for rank in range(2)]
    [[[0]], [[2], [1]]]
    """
    load = [0] * world_size
    selected: list[list[int]] = []
    for stack in sorted(stacks, key=lambda stack: (-sum(cost[client] for client in stack), stack)):
        target = load.index(min(load))
        load[target] += sum(cost[client] for client in stack)
        if target == rank:
            selected.append(stack)
    return selected
