"""From client updates to the next global state."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lpft.types import StackUpdate, State

COARSE, FINE = 30, 66
"""Binary digits after the point that the two parts of a sum hold."""
LIMIT = 2.0**21
"""An entry of this size (2e6) or above comes from a client that has diverged, and could overflow the sum."""
CHUNK = 2**16
"""Numbers that are worked on at once: few enough to stay in the processor's cache."""


class Aggregator(ABC):
    """Adds client updates up in one tensor, and turns the sum over all ranks into the next global state.

    Every rank adds up its own clients' updates; the round loop sums over the ranks.
    """

    @abstractmethod
    def zeros(self, like: State, num_examples: Sequence[int]) -> Tensor:
        """Return the empty sum of a round.

        Args:
            like: the global state that the clients start from.
            num_examples: training samples of every client of the round.
        """

    @abstractmethod
    def add(self, total: Tensor, update: StackUpdate) -> list[int]:
        """Add the updates of a stack of clients, or of several stacks, to the sum, in place.

        Returns:
            The clients, by position, that have diverged and are therefore left out.
        """

    @abstractmethod
    def finish(self, total: Tensor, like: State) -> State:
        """Return the next global state; entries that are not averaged keep the value they have in `like`."""


Weighting = Literal["samples", "equal"]
"""Weight of a client in the average: its number of training samples, or the same for all."""

AggregatorFactory = Callable[[Weighting], Aggregator]
"""Makes an aggregator; YAML chooses the class and its other settings."""


class WeightedMean(Aggregator):
    """Federated averaging: the mean of the clients' states, parameters and norm statistics alike.

    Integer entries (the counter ``num_batches_tracked``) are copied from the previous global state, not averaged.

    The global model is the same, bit for bit, for any number of ranks: the weighted sum of every stack of clients is
    rounded to two float64 numbers, multiples of 2^-30 and of 2^-66, and sums of such numbers are exact in any order. A
    sum of plain floats now and then differs in the last bit. Entries from 1e-12 to 2e6 keep the precision of float32;
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
        """Return the empty sum, float64, ``(2, P + 1)``: two parts of P floating-point entries and the total weight."""
        floats = _floats(like)
        self._whole = float(sum(num_examples) if self.weighting == "samples" else len(num_examples))
        return torch.zeros(2, 1 + sum(t.numel() for t in floats), dtype=torch.float64, device=floats[0].device)

    def add(self, total: Tensor, update: StackUpdate) -> list[int]:
        """Add the weighted states of each stack, and their weights; weights are shares of the round's total."""
        tensors = [t.detach().view(len(t), -1) if t.dim() == 1 else t.detach() for t in _floats(update.state)]
        counts = update.num_examples if self.weighting == "samples" else [1] * len(update.clients)
        weights = torch.tensor(counts, dtype=torch.float64, device=total.device) / self._whole
        usable, sizes = _usable(tensors), list(update.joined or [len(weights)])
        if not usable.all():
            sizes = [int(part.sum()) for part in usable.split(sizes)]
            tensors, weights = [t[usable] for t in tensors], weights[usable]
        sums = total.split([t.shape[1:].numel() for t in tensors] + [1], dim=1)
        for tensor, summed in zip([*tensors, torch.ones_like(weights).unsqueeze(1)], sums, strict=True):
            start = 0
            for size, alike in itertools.groupby(filter(None, sizes)):
                part = slice(start, start + size * len(list(alike)))
                self._add_exactly(summed, tensor[part].unflatten(0, (-1, size)), weights[part].view(-1, size))
                start = part.stop
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

    def _add_exactly(self, total: Tensor, tensor: Tensor, weights: Tensor) -> None:
        """Add the weighted sums over the K clients of each of S stacks to both parts of a sum.

        This is done piece by piece, in memory that is used again. No entry depends on which others come with it.

        Args:
            total: both parts, ``(2, n)``.
            tensor: the clients' entries, ``(S, K, ...)``.
            weights: the clients' weights, ``(S, K)``.
        """
        order = sorted(range(2, tensor.dim()), key=tensor.stride, reverse=True)  # as it lies in memory
        rows = tensor.permute(1, 0, *order)
        sums = total.view(2, *tensor.shape[2:]).permute(0, *[dim - 1 for dim in order])
        shares = weights.t().view(*weights.t().shape, *[1] * len(order))
        size = max(1, CHUNK // max(1, rows[0, :, 0].numel()))
        for piece, (coarse, fine) in zip(rows.split(size, dim=2), sums.split(size, dim=1), strict=True):
            values, rounded = self._scratch(piece[0])
            values.zero_()
            for client, share in zip(piece, shares, strict=True):
                values.addcmul_(rounded.copy_(client), share)
            torch.add(values, _rounder(COARSE), out=rounded).sub_(_rounder(COARSE))
            coarse.add_(rounded.sum(0))
            values.sub_(rounded)  # exact: it only drops leading digits
            fine.add_(values.add_(_rounder(FINE)).sub_(_rounder(FINE)).sum(0))

    def _scratch(self, like: Tensor) -> Tensor:
        """Return float64 memory for two tensors of a shape, ``(2, ...)``."""
        needed, device = 2 * like.numel(), like.device
        if device not in self._memory or len(self._memory[device]) < needed:
            self._memory[device] = torch.empty(max(2 * CHUNK, needed), dtype=torch.float64, device=device)
        return self._memory[device][:needed].view(2, *like.shape)


def _rounder(digits: int) -> float:
    """Return what rounds a float64 to so many binary digits after the point when it is added and subtracted."""
    return 1.5 * 2.0 ** (52 - digits)


def _floats(state: State) -> list[Tensor]:
    return [t for t in state.values() if t.is_floating_point()]


def _usable(tensors: list[Tensor]) -> Tensor:
    """Tell, as bool ``(K,)``, which clients' entries are finite and not so large that they must have diverged."""
    flat = [t.permute(sorted(range(t.dim()), key=t.stride, reverse=True)).reshape(-1) for t in tensors]
    squares = torch.stack([torch.dot(t, t) for t in flat])
    if (squares < LIMIT**2).all():  # the usual case, at the cost of reading all once; also False for NaN
        return torch.ones(len(tensors[0]), dtype=torch.bool, device=tensors[0].device)
    return torch.stack([(t.flatten(1).abs() < LIMIT).all(dim=1) for t in tensors]).all(dim=0)
