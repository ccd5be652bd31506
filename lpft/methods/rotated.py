"""Rotated features with unchanged predictions."""

from __future__ import annotations

from torch import Generator

from lpft.methods.base import Method, Phase
from lpft.models.base import BodyHeadNet
from lpft.models.rotation import random_orthogonal, rotate_features


class Rotated(Method):
    """The global model with its features rotated by a random orthogonal matrix Q, and its head rotated back.

    An intervention that shows whether distortion matters by itself: features ``Q f`` with the head ``W Q^T`` give the
    same predictions as f and W, up to rounding, but are as far from the global model's features as random ones of
    equal norm, about ``sqrt(2) * ||f||``. Nothing is trained; accuracy equals that of ``none``, but the distortion is
    larger than that of any method. Q is added to the body as a layer (`lpft.models.rotation`), which is saved with the
    models.

    Q depends only on the seed: all clients of a seed have the same model.

    References:
        Not in Chen et al., arXiv:2511.12695; the intervention is ours. Q is drawn uniformly from all orthogonal
        matrices: Mezzadri, arXiv:math-ph/0609050.
    """

    def __init__(self) -> None:
        super().__init__()

    def phases(self, budget: int) -> list[Phase]:
        """Return no phases."""
        return []

    def extend(self, net: BodyHeadNet, generator: Generator) -> BodyHeadNet:
        """Rotate features and head."""
        return rotate_features(net, random_orthogonal(net.head.in_features, generator))
