"""Whether a network can be trained in stacks: a tiny trial, which depends on the network alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lpft.clients.stack import ClientStack, sample_losses
from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec

BATCH_SIZE = 2
TOLERANCE = 1e-2
"""Largest difference of features that is rounding, relative to the largest feature."""


def stacking_problem(net: BodyHeadNet, spec: DataSpec) -> str | None:
    """Tell why the clients of a network cannot be trained as one; None if they can.

    Two clients take a step as one, under `torch.func.vmap`, and one by itself. Forward passes that look at values,
    operations without a rule for `vmap`, and buffers that are replaced instead of changed do not work in stacks.

    Args:
        net: the network; its values do not matter.
        spec: size of the images.

    Raises:
        ValueError: if one client cannot be trained either.
    """
    shape = (2, BATCH_SIZE, spec.in_channels, spec.image_size, spec.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(net.head.weight.dtype)
    with torch.random.fork_rng(devices=[]):
        try:
            alone = _Trial(net, images[:1])
        except Exception as error:  # networks can be anything
            raise ValueError(
                f"{type(net).__name__} cannot be trained: {_described(error)}."
                " HINT: run a step of it on random images, forward and backward, and correct it."
            ) from error
        try:
            stacked = _Trial(net, images)
        except Exception as error:
            return _described(error)
    scale = float(alone.features.abs().max()) + 1e-6
    repeats = bool((alone.features == alone.again).all())  # else the network draws numbers, also in evaluation mode
    if repeats and float((alone.features - stacked.features[:1]).abs().max()) > TOLERANCE * scale:
        return "its features are others in a stack"
    for kind, mine, theirs in (
        ("gradient of", alone.trained, stacked.trained),
        ("buffer", alone.changed, stacked.changed),
    ):
        if mine != theirs:
            return f"the {kind} {min(mine ^ theirs)} is lost in a stack"
    return None


class _Trial:
    """What a stack does with images ``(K, batch, ...)``, each network being a copy of the same.

    Args:
        net: the network.
        images: every client's images.
    """

    def __init__(self, net: BodyHeadNet, images: Tensor) -> None:
        stack = ClientStack(net, len(images)).eval()
        with torch.no_grad():
            self.features, self.again = stack.features(images), stack.features(images)
            stack.features(images[0], shared=True)
        before = {name: buffer.clone() for name, buffer in stack.net_buffers().items()}
        stack.train()
        labels = torch.zeros(images.shape[:2], dtype=torch.int64)
        sample_losses(stack(images), labels).sum().backward()
        self.trained = set(stack.gradients())
        """Names of the parameters that get a gradient."""
        self.changed = {name for name, buffer in stack.net_buffers().items() if not torch.equal(buffer, before[name])}
        """Names of the buffers that training changes."""


def _described(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}"
