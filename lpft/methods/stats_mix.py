"""Interpolation between the BatchNorm statistics of the global model and the client."""

from __future__ import annotations

from jsonargparse.typing import ClosedUnitInterval

from lpft.methods.adabn import AdaBN
from lpft.methods.wise import interpolate
from lpft.types import State


class StatsMix(AdaBN):
    """The global model with BatchNorm statistics between its own (``a: 0``) and those of AdaBN (``a: 1``).

    A control for networks with BatchNorm: how does forgetting depend on the weight of the client's statistics? Means
    and variances are ``(1 - a) * global + a * client``; the ends are the global model and `AdaBN`, bit for bit. No
    parameter is trained; the cost is one forward pass.

    Args:
        a: weight of the client's statistics.

    References:
        Schneider et al., arXiv:2006.16971, mix statistics of training and test data. The weight is ours.
    """

    uses_buffers = True

    def __init__(self, a: ClosedUnitInterval = 0.5) -> None:
        super().__init__()
        self.a = a

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the mixture; parameters are equal in both."""
        return interpolate(global_params, params, self.a)
