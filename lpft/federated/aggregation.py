"""From client updates to the next global state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lpft.types import ClientUpdate, State

COARSE, FINE = 20, 66
"""Binary digits after the point that the two integers of a fixed-point number hold."""
LIMIT = 2.0**36
"""A summand of this size (7e10) or above comes from a client that has diverged, and could overflow the sum."""


class Aggregator(ABC):
    """Turns client updates into summands of one flat tensor, and the sum over all clients into the next global state.

    Every rank adds up its own clients' summands; the round loop sums over the ranks.
    """

    @abstractmethod
    def zeros(self, like: State) -> Tensor:
        """Return the empty sum for a network of this state."""

    @abstractmethod
    def contribution(self, update: ClientUpdate) -> Tensor:
        """Return one client's summand."""

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

    The sum is exact. Each summand ``weight * state`` is written as a fixed-point number of two int64 parts with 66
    binary digits after the point, and integers add up to the same result in any order. The global model is therefore
    the same, bit for bit, for any number of ranks, where a sum of floats now and then differs in the last bit.

    Args:
        weighting: ``samples`` weighs a client by its number of training samples, ``equal`` all alike.

    References:
        McMahan et al., arXiv:1602.05629, Algorithm 1.
    """

    def __init__(self, weighting: Weighting = "samples") -> None:
        self.weighting = weighting

    def zeros(self, like: State) -> Tensor:
        """Return the empty sum, int64, ``(2, P + 1)``: two parts of P floating-point entries and the total weight."""
        floats = _flat(like)
        return torch.zeros(2, len(floats) + 1, dtype=torch.int64, device=floats.device)

    def contribution(self, update: ClientUpdate) -> Tensor:
        """Return a client's weighted state, and its weight, as fixed-point numbers."""
        weight = update.num_examples if self.weighting == "samples" else 1
        values = _flat(update.state)
        return _to_fixed_point(torch.cat([values, values.new_ones(1)]) * weight)

    def finish(self, total: Tensor, like: State) -> State:
        """Divide by the total weight.

        Raises:
            FloatingPointError: if no client's update could be used.
        """
        summed = _from_fixed_point(total)
        mean, weight = summed[:-1], summed[-1]
        if weight == 0:
            raise FloatingPointError("every client's update has diverged")
        return _unflat(mean / weight, like)


def usable(update: ClientUpdate) -> bool:
    """Tell whether all entries of an update are finite, and not so large that the client must have diverged."""
    return bool((_flat(update.state).abs() * max(update.num_examples, 1) < LIMIT).all())  # also False for NaN


def _flat(state: State) -> Tensor:
    return torch.cat([t.reshape(-1).to(torch.float64) for t in state.values() if t.is_floating_point()])


def _unflat(flat: Tensor, like: State) -> State:
    floats = [t for t in like.values() if t.is_floating_point()]
    parts = iter(flat.split([t.numel() for t in floats]))
    return {
        name: next(parts).view(t.shape).to(t.dtype) if t.is_floating_point() else t.clone() for name, t in like.items()
    }


def _to_fixed_point(values: Tensor) -> Tensor:
    coarse = torch.floor(values * 2.0**COARSE)
    rest = values - coarse * 2.0**-COARSE  # exact: it only drops leading digits
    return torch.stack([coarse.to(torch.int64), torch.round(rest * 2.0**FINE).to(torch.int64)])


def _from_fixed_point(total: Tensor) -> Tensor:
    coarse, fine = total.to(torch.float64)
    return coarse * 2.0**-COARSE + fine * 2.0**-FINE
