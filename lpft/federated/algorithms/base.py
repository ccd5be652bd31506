"""What an algorithm of federated training may change about local training, and what its clients keep.

An algorithm is written for *one* client, as pure functions of that client's tensors; the engine maps them over the
clients of a stack (`ClientStack.map`), so it never sees the client dimension and must not branch on values of tensors.
What it does not override costs nothing: the base class is plain FedAvg.

The order of calls: `memory` once, from the initial network; then, in every round in which the client takes part,
`begin`, for each step `gradient`, and `end`. The mean of the clients' states, weighted by `federation.weighting`, is
the next global model, whatever the algorithm: entries that clients keep to themselves are averaged, too, for those
models that other clients are tested with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer

from lpft.models.base import BodyHeadNet
from lpft.types import State

Part = Literal["all", "head", "body"]
"""What is trained in an epoch; the rest is frozen, and a frozen body is in evaluation mode."""


class Algorithm:
    """Plain local training. In every signature, tensors are those of one client, by name.

    ``start`` are the parameters of the global model at the beginning of the round, ``memory`` is what the client keeps
    between rounds, and ``shared`` the mean of that over all clients, if the algorithm asks for it.
    """

    averages_memory: bool = False
    """Whether hooks get the mean of all clients' memory as ``shared``; clients that took no part yet count."""
    trains_memory: bool = False
    """Whether the memory is a whole model that is trained by a pass of its own over the same batches, before the
    global model is. `gradient` then concerns that pass only."""
    personalizes: bool = False
    """Whether the memory consists of entries of the client's own model, which otherwise is the global model."""

    def check(self, net: BodyHeadNet, optimizer: Optimizer) -> None:
        """Raise ValueError if the algorithm does not fit the network or the clients' optimizer."""
        return

    def memory(self, net: BodyHeadNet) -> State:
        """Return what a client keeps before its first round; floating-point tensors, not copied."""
        return {}

    def epochs(self, local_epochs: int) -> list[Part]:
        """Return what is trained in every epoch of a round."""
        return ["all"] * local_epochs

    def passes(self, local_epochs: int) -> float:
        """Return the cost of a round per training sample: a full pass is 1, training the head alone 1/3."""
        passes = sum(1 / 3 if part == "head" else 1 for part in self.epochs(local_epochs))
        return passes * (2 if self.trains_memory else 1)

    def begin(self, memory: State) -> State:
        """Return the entries that take the place of the global model's before local training."""
        return {}

    def gradient(self, params: State, start: State, memory: State, shared: State, gradients: State) -> State:
        """Return the gradients that are given to the optimizer."""
        return gradients

    def end(self, state: State, start: State, memory: State, shared: State, path: float) -> State:
        """Return the memory after local training.

        Args:
            state: parameters and buffers after local training.
            start: as above.
            memory: as above.
            shared: as above.
            path: learning rate times the number of steps.
        """
        return memory

    def overrides(self, hook: str) -> bool:
        """Return whether the algorithm overrides a hook."""
        mine: Callable[..., Any] = getattr(type(self), hook)
        return mine is not getattr(Algorithm, hook)


class KeepsEntries(Algorithm):
    """Base of algorithms whose clients do not take some entries of the global model, but keep their own.

    The global model, which other clients are tested with, has the mean of them.
    """

    personalizes = True

    def begin(self, memory: State) -> State:
        """Return the client's own entries."""
        return memory

    def end(self, state: State, start: State, memory: State, shared: State, path: float) -> State:
        """Return the same entries after local training."""
        return {name: state[name] for name in memory}
