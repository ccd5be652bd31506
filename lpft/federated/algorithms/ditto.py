"""Ditto: a personalized model for each client, kept close to the global model."""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat

from lpft.federated.algorithms.base import Algorithm
from lpft.models.base import BodyHeadNet
from lpft.types import State


class Ditto(Algorithm):
    """Train the global model with FedAvg and, in the same rounds, a personalized model v for each client.

    In each round, v takes the same number of steps on the same batches as the client's copy of the global model. Its
    loss includes ``penalty / 2`` times the squared distance of all parameters from the global model at the beginning of
    the round. The method ``lpft.methods.federated.Ditto`` evaluates v. The global model is bitwise equal to FedAvg's.

    Args:
        penalty: weight of the penalty, lambda.

    References:
        Li et al., arXiv:2012.04221, Algorithm 1.
    """

    trains_memory = True
    personalizes = True

    def __init__(self, penalty: NonNegativeFloat = 0.1) -> None:
        self.penalty = penalty

    def memory(self, net: BodyHeadNet) -> State:
        """Return the initial network."""
        return {name: t for name, t in net.state_dict().items() if t.is_floating_point()}

    def gradient(self, params: State, start: State, memory: State, shared: State, gradients: State) -> State:
        """Add the penalty's gradient, ``penalty * (v - start)``."""
        return {name: g + self.penalty * (params[name] - start[name]) for name, g in gradients.items()}
