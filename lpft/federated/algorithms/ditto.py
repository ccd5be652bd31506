"""Ditto: beside the global model, a model of every client's own that stays close to it."""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat

from lpft.federated.algorithms.base import Algorithm
from lpft.models.base import BodyHeadNet
from lpft.types import State


class Ditto(Algorithm):
    """Train the global model by FedAvg, and in the same rounds a model v of every client's own.

    In every round v takes as many steps on the same batches as the client's copy of the global model, on the client's
    loss plus ``penalty / 2`` times the squared distance of all parameters from the global model's at the beginning of
    the round. The row ``lpft.methods.federated.Ditto`` has v; the global model is FedAvg's, bit for bit.

    Args:
        penalty: lambda, the weight of the penalty.

    References:
        Li et al., arXiv:2012.04221, Algorithm 1.
    """

    trains_memory = True
    personalizes = True

    def __init__(self, penalty: NonNegativeFloat = 0.1) -> None:
        self.penalty = penalty

    def memory(self, net: BodyHeadNet) -> State:
        """Return the whole initial network."""
        return {name: t for name, t in net.state_dict().items() if t.is_floating_point()}

    def gradient(self, params: State, start: State, memory: State, shared: State, gradients: State) -> State:
        """Add the penalty's gradient, ``penalty * (v - start)``."""
        return {name: g + self.penalty * (params[name] - start[name]) for name, g in gradients.items()}
