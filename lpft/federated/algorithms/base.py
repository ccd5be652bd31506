"""The base class of federated algorithms: changes to local training, and tensors that clients keep between rounds.

An algorithm consists of pure functions of *one* client's tensors. They are mapped over the clients of a stack
(`ClientStack.map`), so they have no client dimension and must not branch on values of tensors. Hooks that are not
overridden are not called; the base class is FedAvg.

Order of calls: `memory` once, with the initial network; then, in each round in which the client takes part, `begin`,
`gradient` for each step, and `end`. The next global model is always the mean of the clients' states, weighted by
`federation.weighting`. This includes entries that clients keep, because the model is tested on other clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer

from lpft.models.base import BodyHeadNet
from lpft.types import State

Part = Literal["all", "head", "body"]
"""The part of a network that is trained in an epoch. The rest is frozen; a frozen body is in evaluation mode."""


class Algorithm:
    """Plain local training. All tensors in the hooks belong to one client, by name.

    ``start`` contains the parameters of the global model at the beginning of the round, ``memory`` the tensors that the
    client keeps between rounds, and ``shared`` their mean over all clients if `averages_memory` is set.
    """

    averages_memory: bool = False
    """Whether ``shared`` is the mean memory of all clients, including those that have not taken part yet."""
    trains_memory: bool = False
    """Whether the memory is a model that is trained on the same batches before the global model. `gradient` is then
    called only for this model."""
    personalizes: bool = False
    """Whether the memory contains the entries in which the client's model differs from the global model."""

    def check(self, net: BodyHeadNet, optimizer: Optimizer) -> None:
        """Raise ValueError if the algorithm does not fit the network or the clients' optimizer."""
        return

    def memory(self, net: BodyHeadNet) -> State:
        """Return a client's initial memory: floating-point tensors, not copied."""
        return {}

    def epochs(self, local_epochs: int) -> list[Part]:
        """Return the part that is trained in each epoch of a round."""
        return ["all"] * local_epochs

    def passes(self, local_epochs: int) -> float:
        """Return the cost of a round per training sample: 1 for a full pass, 1/3 for training only the head."""
        passes = sum(1 / 3 if part == "head" else 1 for part in self.epochs(local_epochs))
        return passes * (2 if self.trains_memory else 1)

    def begin(self, memory: State) -> State:
        """Return entries that replace those of the global model before local training."""
        return {}

    def gradient(self, params: State, start: State, memory: State, shared: State, gradients: State) -> State:
        """Return the gradients for the optimizer."""
        return gradients

    def end(self, state: State, start: State, memory: State, shared: State, path: float) -> State:
        """Return the memory after local training.

        Args:
            state: parameters and buffers after local training.
            start: parameters of the global model at the beginning of the round.
            memory: the memory before the round.
            shared: mean memory of all clients.
            path: learning rate times the number of steps.
        """
        return memory

    def overrides(self, hook: str) -> bool:
        """Return whether the algorithm overrides a hook."""
        own_hook: Callable[..., Any] = getattr(type(self), hook)
        return own_hook is not getattr(Algorithm, hook)


class KeepsEntries(Algorithm):
    """Base class of algorithms whose clients keep their own values of some entries.

    The global model, which is tested on other clients, contains their mean.
    """

    personalizes = True

    def begin(self, memory: State) -> State:
        """Return the client's own entries."""
        return memory

    def end(self, state: State, start: State, memory: State, shared: State, path: float) -> State:
        """Return the same entries after local training."""
        return {name: state[name] for name in memory}
