"""Fine-tuning with a penalty on the distance from the global model."""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse.typing import NonNegativeFloat
from torch import Tensor

from lpft.methods.ft import FT
from lpft.types import State


class ProximalFT(FT):
    r"""Proximal fine-tuning: minimize ``loss + mu/2 * ||theta - theta_G||^2``.

    The gradient is that of the loss plus ``mu * (theta - theta_G)``. The norm is over the trainable parameters, without
    norm statistics. With ``mu: 0`` this is FT, bit for bit.

    Args:
        mu: weight of the penalty.
        ft: settings of `FT`: ``epochs``, ``lr``, ``bn``, ``flood``.

    References:
        Chen et al., arXiv:2511.12695, for the baseline; Li et al., arXiv:1812.06127 (FedProx), equation 2, for the
        form. The defaults of mu and learning rate, and the choice of the squared norm, are ours.
    """

    def __init__(self, mu: NonNegativeFloat = 0.1, **ft: Any) -> None:
        super().__init__(**ft)
        self.mu = mu

    def penalty(self, params: State, global_params: State, memory: State) -> Tensor:
        """Return ``mu/2 * ||theta - theta_G||^2``."""
        return self.mu / 2 * torch.stack([(p - global_params[name]).pow(2).sum() for name, p in params.items()]).sum()
