"""A network whose features are multiplied by an orthogonal matrix, and that predicts the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from lpft.models.base import BodyHeadNet, copy_network

ROTATION = "feature_rotation"
"""Name of the matrix in the body; it is a buffer, so that it is saved and never trained."""


def random_orthogonal(size: int, generator: Generator) -> Tensor:
    """Draw an orthogonal matrix ``(size, size)``, float64, from the uniform (Haar) distribution.

    References:
        Mezzadri, arXiv:math-ph/0609050.
    """
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def rotate_features(net: BodyHeadNet, rotation: Tensor) -> BodyHeadNet:
    """Return a copy of a network with features ``Q f`` and a head ``W Q^T``.

    Args:
        net: the network.
        rotation: Q, orthogonal, ``(k, k)``.
    """
    rotated = with_rotation(net, rotation)
    weight = rotated.head.weight
    with torch.no_grad():
        weight.copy_(weight.double() @ rotation.to(weight.device).T)
    return rotated


def with_rotation(net: BodyHeadNet, rotation: Tensor) -> BodyHeadNet:
    """Return a copy of a network with features ``Q f`` and its head as it is; see `rotate_features`.

    A hook applies Q to whatever the body returns, so that the names of all other tensors stay.
    """
    rotated = copy_network(net)
    rotated.body.register_buffer(ROTATION, rotation.to(net.head.weight))
    rotated.body.register_forward_hook(_rotate)
    return rotated


def _rotate(body: nn.Module, _: Any, features: Tensor) -> Tensor:
    return features @ getattr(body, ROTATION).T.to(features.dtype)
