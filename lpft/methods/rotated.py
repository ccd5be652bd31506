"""Features that moved far, and predictions that did not move at all."""

from __future__ import annotations

from torch import Generator

from lpft.methods.base import Method, Phase
from lpft.models.base import BodyHeadNet
from lpft.models.rotation import random_orthogonal, rotate_features


class Rotated(Method):
    """The global model with its features rotated by a random orthogonal matrix Q, and its head rotated back.

    The intervention that asks whether distortion matters by itself: features ``Q f`` and a head ``W Q^T`` predict what
    f and W predict, up to rounding, while the features are as far from the global model's as random ones of their
    length would be, about ``sqrt(2) * ||f||``. No training; its accuracy is that of ``none``, its distortion is larger
    than any method's. A body may end in any layer, so that Q is added to it (`lpft.models.rotation`), and models are
    saved with it.

    Q depends on the seed only: all clients of a seed have the same model.

    References:
        Not in Chen et al., arXiv:2511.12695; the intervention is ours. Q is drawn evenly from all orthogonal matrices:
        Mezzadri, arXiv:math-ph/0609050.
    """

    def __init__(self) -> None:
        super().__init__()

    def phases(self, budget: int) -> list[Phase]:
        """Return no phase at all."""
        return []

    def extend(self, net: BodyHeadNet, generator: Generator) -> BodyHeadNet:
        """Rotate features and head."""
        return rotate_features(net, random_orthogonal(net.head.in_features, generator))
