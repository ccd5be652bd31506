"""FedProx: local models are kept close to the global model."""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat

from lpft.federated.algorithms.base import Algorithm
from lpft.types import State


class FedProx(Algorithm):
    """Add ``mu / 2`` times the squared distance of all parameters from the global model to each client's loss.

    With ``mu: 0`` this is FedAvg. All clients train for the same number of epochs: stragglers are not simulated.

    Args:
        mu: weight of the penalty.

    References:
        Li et al., arXiv:1812.06127, equation 2.
    """

    def __init__(self, mu: NonNegativeFloat = 0.01) -> None:
        self.mu = mu

    def gradient(self, params: State, start: State, memory: State, shared: State, gradients: State) -> State:
        """Add the penalty's gradient, ``mu * (params - start)``."""
        return {name: g + self.mu * (params[name] - start[name]) for name, g in gradients.items()}
