"""Fine-tuning with a penalty on feature distortion."""

from __future__ import annotations

from typing import Any

from jsonargparse.typing import NonNegativeFloat
from torch import Tensor

from lpft.methods.base import ComparedBatch
from lpft.methods.ft import FT
from lpft.types import State


class FeatureAnchorFT(FT):
    r"""Fine-tuning with a penalty on feature distortion: ``loss + mu/2 * mean ||f(theta; x) - f(theta_G; x)||^2``.

    A control: if distortion causes forgetting, penalizing it directly should perform as well as LP-FT. The mean is over
    the batch. The trained model is in training mode, the global model in evaluation mode, so with BatchNorm the initial
    distance is not 0. With ``mu: 0`` this is FT, bit for bit.

    Args:
        mu: weight of the penalty.
        ft: settings of `FT`: ``epochs``, ``lr``, ``bn``, ``flood``.

    References:
        Chen et al., arXiv:2511.12695, for the distortion, which is the mean of the distance itself; the penalty, its
        square and its weight are ours. Similar: Li et al., arXiv:1901.09229 (DELTA).
    """

    def __init__(self, mu: NonNegativeFloat = 0.1, **ft: Any) -> None:
        super().__init__(**ft)
        self.mu = mu

    def batch_penalty(self, batch: ComparedBatch, memory: State) -> Tensor:
        """Return ``mu/2`` times the mean squared l2 distance of the features."""
        return self.mu / 2 * (batch.features - batch.global_features).pow(2).sum(-1).mean()
