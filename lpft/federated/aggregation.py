"""From client updates to the next global state."""

from __future__ import annotations

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
CHUNK = 2**17
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
        """Add the updates of a stack of clients to the sum, in place.

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
        """Add the weighted states of a stack, and their weights; weights are shares of the round's total."""
        tensors = [t.detach().view(len(t), -1) if t.dim() == 1 else t.detach() for t in _floats(update.state)]
        counts = update.num_examples if self.weighting == "samples" else [1] * len(update.clients)
        weights = torch.tensor(counts, dtype=torch.float64, device=total.device) / self._whole
        usable = _usable(tensors)
        if not usable.all():
            tensors, weights = [t[usable] for t in tensors], weights[usable]
        if len(weights):
            sums = total.split([t[0].numel() for t in tensors] + [1], dim=1)
            for tensor, summed in zip([*tensors, torch.ones_like(weights).unsqueeze(1)], sums, strict=True):
                self._add_exactly(summed, tensor, weights)
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
        """Add the weighted sum over clients of ``(K, ...)`` to both parts ``(2, n)`` of a sum.

        This is done piece by piece, in memory that is used again.
        """
        order = [0, *sorted(range(1, tensor.dim()), key=tensor.stride, reverse=True)]  # as it lies in memory
        rows, sums = tensor.permute(order), total.view(2, *tensor.shape[1:]).permute(order)
        size = max(1, CHUNK // max(1, len(weights) * rows[0, 0].numel()))
        for piece, (coarse, fine) in zip(rows.split(size, dim=1), sums.split(size, dim=1), strict=True):
            states, (values, rounded) = self._scratch(piece)
            states.view(piece.shape).copy_(piece)
            torch.mv(states.t(), weights, out=values)
            torch.add(values, _rounder(COARSE), out=rounded).sub_(_rounder(COARSE))
            coarse.add_(rounded.view(coarse.shape))
            values.sub_(rounded)  # exact: it only drops leading digits
            fine.add_(values.add_(_rounder(FINE)).sub_(_rounder(FINE)).view(fine.shape))

    def _scratch(self, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Return float64 memory for the K clients' entries, ``(K, n)``, and for two sums of them, ``(2, n)``."""
        size, device = piece[0].numel(), piece.device
        needed = (len(piece) + 2) * size
        if device not in self._memory or len(self._memory[device]) < needed:
            self._memory[device] = torch.empty(max(3 * CHUNK, needed), dtype=torch.float64, device=device)
        rows = self._memory[device][:needed].view(-1, size)
        return rows[: len(piece)], rows[len(piece) :]


def _rounder(digits: int) -> float:
    """Return what rounds a float64 to so many binary digits after the point when it is added and subtracted."""
    return 1.5 * 2.0 ** (52 - digits)


def _floats(state: State) -> list[Tensor]:
    return [t for t in state.values() if t.is_floating_point()]


def _usable(tensors: list[Tensor]) -> Tensor:
    """Tell, as bool ``(K,)``, which clients' entries are finite and not so large that they must have diverged."""
    squares = torch.stack([torch.linalg.vecdot(t, t, dim=-1).sum() for t in tensors])
    if (squares < LIMIT**2).all():  # the usual case, at the cost of reading all once; also False for NaN
        return torch.ones(len(tensors[0]), dtype=torch.bool, device=tensors[0].device)
    return torch.stack([(t.flatten(1).abs() < LIMIT).all(dim=1) for t in tensors]).all(dim=0)
