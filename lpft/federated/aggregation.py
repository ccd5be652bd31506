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
"""Binary digits after the point of the two parts of a sum."""
LIMIT = 2.0**21
"""Absolute entries from 2^21 (2e6) on count as diverged, since they could overflow the sum."""
CHUNK = 2**16
"""Number of entries processed at once: few enough to stay in the processor's cache."""
SMALL = 2**12
"""Entries of a client's tensor up to which starting a computation takes longer than doing it."""


class Aggregator(ABC):
    """Sums client updates in one tensor, and converts the sum over all ranks to the next global state.

    Every rank sums the updates of its own clients; the round loop sums over the ranks.
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
    with a larger entry a client counts as diverged.

    Args:
        weighting: ``samples`` weighs a client by its number of training samples, ``equal`` all alike.

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
        tensors = _with_small_ones_joined([*(t.detach() for t in _floats(update.state)), ones])
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
            FloatingPointError: if no client's update could be used.
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
        """Add the weighted sum over the clients of each stack to both parts of a sum.

        It works piece by piece in reused memory.

        Args:
            total: both parts, ``(2, n)``.
            tensor: the entries of K clients, ``(K, ...)``, n of each.
            shares: the clients' weights, stack by stack; K in all.
        """
        order = sorted(range(1, tensor.dim()), key=tensor.stride, reverse=True)  # as it lies in memory
        rows = tensor.permute(0, *order)
        sums = total.view(2, *tensor.shape[1:]).permute(0, *order)
        size = max(1, CHUNK // max(1, rows.shape[2:].numel()))
        for piece, piece_sums in zip(rows.split(size, dim=1), sums.split(size, dim=1), strict=True):
            values, rounded, coarse, fine = self._scratch(piece[0])
            coarse.zero_()
            fine.zero_()
            clients = iter(piece)
            for stack in filter(None, shares):  # of some, all clients may have diverged
                values.zero_()
                for share in stack:
                    values.add_(rounded.copy_(next(clients)), alpha=share)
                torch.add(values, _rounder(COARSE), out=rounded).sub_(_rounder(COARSE))
                coarse.add_(rounded)
                values.sub_(rounded)  # exact: it only drops leading digits
                fine.add_(values.add_(_rounder(FINE)).sub_(_rounder(FINE)))
            piece_sums[0].add_(coarse)  # once: it may lie in memory in another order
            piece_sums[1].add_(fine)

    def _scratch(self, like: Tensor) -> Tensor:
        """Return float64 memory for four tensors of a shape, ``(4, ...)``."""
        needed, device = 4 * like.numel(), like.device
        if device not in self._memory or len(self._memory[device]) < needed:
            self._memory[device] = torch.empty(max(4 * CHUNK, needed), dtype=torch.float64, device=device)
        return self._memory[device][:needed].view(4, *like.shape)


def _rounder(digits: int) -> float:
    """Return the constant that rounds a float64 to `digits` binary digits if it is added and then subtracted."""
    return 1.5 * 2.0 ** (52 - digits)


def _floats(state: State) -> list[Tensor]:
    return [t for t in state.values() if t.is_floating_point()]


def _with_small_ones_joined(tensors: list[Tensor]) -> list[Tensor]:
    """Return the clients' entries, ``(K, ...)`` each, in fewer tensors: neighbours that are small become one."""
    joined: list[Tensor] = []
    for small, run in itertools.groupby(tensors, key=lambda t: t.shape[1:].numel() <= SMALL):
        neighbours = list(run)
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
