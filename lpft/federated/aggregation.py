"""Aggregation of client updates to the next global state."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lpft.types import StackUpdate, State

COARSE, FINE = 30, 66
"""Binary digits after the point in the two parts of a sum."""
LIMIT = 2.0**21
"""Absolute entries of 2^21 (2e6) or more count as diverged, because they could overflow the sum."""
CHUNK = 2**16
"""Number of entries processed at once, which fit into the processor's cache."""
SMALL = 2**12
"""Maximum number of a client's entries in small tensors, for which the overhead of an operator dominates."""


class Aggregator(ABC):
    """Sums client updates in one tensor, and converts the sum over all ranks to the next global state.

    Each rank sums the updates of its clients; the round loop sums over the ranks.
    """

    @abstractmethod
    def zeros(self, like: State, num_examples: Sequence[int]) -> Tensor:
        """Return the initial sum of a round.

        Args:
            like: the global state from which the clients start.
            num_examples: number of training samples of every client of the round.
        """

    @abstractmethod
    def add(self, total: Tensor, update: StackUpdate) -> list[int]:
        """Add the updates of a stack of clients, or of several stacks, to the sum, in place.

        Returns:
            Positions of the clients that have diverged; they are left out of the sum.
        """

    @abstractmethod
    def finish(self, total: Tensor, like: State) -> State:
        """Return the next global state; entries that are not averaged are copied from `like`."""


Weighting = Literal["samples", "equal"]
"""Weight of a client in the average: its number of training samples, or the same for all."""

AggregatorFactory = Callable[[Weighting], Aggregator]
"""A function that builds an aggregator; YAML chooses the class and its other settings."""


class WeightedMean(Aggregator):
    """Federated averaging: the mean of the clients' states, parameters and norm statistics alike.

    Integer entries (the counter ``num_batches_tracked``) are copied from the previous global state, not averaged.

    The global model is the same, bit for bit, for any number of ranks: the weighted sum of every stack of clients is
    rounded to two float64 numbers, multiples of 2^-30 and of 2^-66, whose sums are exact in any order. A
    plain float sum occasionally differs in the last bit. Entries from 1e-12 to 2e6 keep the precision of float32;
    a client with larger entries counts as diverged.

    Args:
        weighting: weight of a client: its number of training ``samples``, or ``equal`` weights.

    References:
        McMahan et al., arXiv:1602.05629, Algorithm 1.
    """

    def __init__(self, weighting: Weighting = "samples") -> None:
        self.weighting = weighting
        self._whole = 1.0
        self._memory: dict[torch.device, Tensor] = {}

    def zeros(self, like: State, num_examples: Sequence[int]) -> Tensor:
        """Return zeros, float64, ``(2, P + 1)``: both parts of the sums of P entries and of the weights."""
        floats = _floats(like)
        self._whole = float(sum(num_examples) if self.weighting == "samples" else len(num_examples))
        return torch.zeros(2, 1 + sum(t.numel() for t in floats), dtype=torch.float64, device=floats[0].device)

    def add(self, total: Tensor, update: StackUpdate) -> list[int]:
        """Add the weighted states of each stack and their weights; weights are fractions of the round's total."""
        num_clients = len(update.clients)
        counts = update.num_examples if self.weighting == "samples" else [1] * num_clients
        weights = torch.tensor(counts, dtype=torch.float64) / self._whole
        ones = total.new_ones(num_clients, 1, dtype=torch.float32)
        tensors = _join_small([*(t.detach() for t in _floats(update.state)), ones])
        usable, sizes = _usable(tensors), list(update.joined or [num_clients])
        if not usable.all():
            sizes = [int(part.sum()) for part in usable.split(sizes)]
            tensors, weights = [t[usable] for t in tensors], weights[usable.cpu()]
        shares = [part.tolist() for part in weights.split(sizes)]
        for tensor, summed in zip(tensors, total.split([t.shape[1:].numel() for t in tensors], dim=1), strict=True):
            if len(tensor):  # not all clients have diverged
                self._add_exactly(summed, tensor, shares)
        return [client for client, good in zip(update.clients, usable.tolist(), strict=True) if not good]

    def finish(self, total: Tensor, like: State) -> State:
        """Divide by the total weight.

        Raises:
            FloatingPointError: if all clients have diverged.
        """
        summed = total[0] + total[1]
        weight = summed[-1]
        if weight == 0:
            raise FloatingPointError("every client's update has diverged")
        parts = iter((summed[:-1] / weight).split([t.numel() for t in _floats(like)]))
        return {
            name: next(parts).view(t.shape).to(t.dtype) if t.is_floating_point() else t.clone()
            for name, t in like.items()
        }

    def _add_exactly(self, total: Tensor, tensor: Tensor, shares: Sequence[Sequence[float]]) -> None:
        """Add the weighted sum over the clients of each stack to both parts of a sum, in pieces and reused memory.

        Args:
            total: both parts, ``(2, n)``.
            tensor: the entries of K clients, ``(K, ...)``, n per client.
            shares: the clients' weights by stack, K in total.
        """
        order = sorted(range(1, tensor.dim()), key=tensor.stride, reverse=True)  # the order in memory
        rows = tensor.permute(0, *order)
        sums = total.view(2, *tensor.shape[1:]).permute(0, *order)
        size = max(1, CHUNK // max(1, rows.shape[2:].numel()))
        for piece, piece_sums in zip(rows.split(size, dim=1), sums.split(size, dim=1), strict=True):
            values, rounded, coarse, fine = self._scratch(piece[0])
            coarse.zero_()
            fine.zero_()
            clients = iter(piece)
            for stack in filter(None, shares):  # all clients of a stack may have diverged
                values.zero_()
                for share in stack:
                    values.add_(rounded.copy_(next(clients)), alpha=share)
                torch.add(values, _rounder(COARSE), out=rounded).sub_(_rounder(COARSE))
                coarse.add_(rounded)
                values.sub_(rounded)  # exact: only leading digits are removed
                fine.add_(values.add_(_rounder(FINE)).sub_(_rounder(FINE)))
            piece_sums[0].add_(coarse)  # once, because its order in memory may differ
            piece_sums[1].add_(fine)

    def _scratch(self, like: Tensor) -> Tensor:
        """Return uninitialized float64 memory for four tensors of a shape, ``(4, ...)``."""
        needed, device = 4 * like.numel(), like.device
        if device not in self._memory or len(self._memory[device]) < needed:
            self._memory[device] = torch.empty(max(4 * CHUNK, needed), dtype=torch.float64, device=device)
        return self._memory[device][:needed].view(4, *like.shape)


def _rounder(digits: int) -> float:
    """Return the constant that rounds a float64 to `digits` binary digits when added and then subtracted."""
    return 1.5 * 2.0 ** (52 - digits)


def _floats(state: State) -> list[Tensor]:
    return [t for t in state.values() if t.is_floating_point()]


def _join_small(tensors: list[Tensor]) -> list[Tensor]:
    """Concatenate neighbouring small tensors of the clients' entries, ``(K, ...)`` each."""
    joined: list[Tensor] = []
    for small, group in itertools.groupby(tensors, key=lambda t: t.shape[1:].numel() <= SMALL):
        neighbours = list(group)
        if small:
            neighbours = [torch.cat([t.reshape(len(t), t.shape[1:].numel()) for t in neighbours], dim=1)]
        joined += neighbours
    return joined


def _usable(tensors: list[Tensor]) -> Tensor:
    """Return, bool ``(K,)``, which clients' entries are all finite and below `LIMIT`."""
    flat = [t.permute(sorted(range(t.dim()), key=t.stride, reverse=True)).reshape(-1) for t in tensors]
    squares = torch.stack([torch.dot(t, t) for t in flat])
    if (squares < LIMIT**2).all():  # the usual case, in one pass over the data; False for NaN
        return torch.ones(len(tensors[0]), dtype=torch.bool, device=tensors[0].device)
    return torch.stack([(t.flatten(1).abs() < LIMIT).all(dim=1) for t in tensors]).all(dim=0)
