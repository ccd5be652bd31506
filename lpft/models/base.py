"""The one thing that methods know about a network: it has a body and a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec


class BodyHeadNet(nn.Module):
    """A feature extractor with a linear classifier on top.

    A subclass sets ``body``, which maps images ``(batch, channels, size, size)`` to features ``(batch, k)``, and
    ``head``, which maps features to logits ``(batch, num_classes)``. Nothing else may own parameters or buffers.
    """

    body: nn.Module
    head: nn.Linear

    weights_hash: str | None = None
    """Hash of the file that the setting ``weights`` names, of a network that starts from one."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, ``(batch, num_classes)``, of images ``(batch, channels, size, size)``."""
        logits: Tensor = self.head(self.body(x))
        return logits


def check_network(net: nn.Module) -> None:
    """Raise ValueError if a network is not made of a body and a linear head alone."""
    name = type(net).__name__
    if not isinstance(net, BodyHeadNet) or type(net).forward is not BodyHeadNet.forward:
        raise ValueError(
            f"{name} is not derived from lpft.models.base.BodyHeadNet, or has a `forward` of its own."
            " HINT: derive it from that class, and set `self.body` and `self.head` only."
        )
    if not isinstance(getattr(net, "body", None), nn.Module) or not isinstance(getattr(net, "head", None), nn.Linear):
        raise ValueError(
            f"{name} lacks a `body` that is a torch.nn.Module or a `head` that is a torch.nn.Linear."
            " HINT: set both in its `__init__`; layers before the last linear one belong to the body."
        )
    owned = [part for part, _ in (*net.named_parameters(), *net.named_buffers())]
    others = [part for part in owned if not part.startswith(("body.", "head."))]
    if others:
        raise ValueError(
            f"{name} has parameters or buffers outside of body and head: {', '.join(others[:5])}."
            " HINT: move them into `body`."
        )
    lost = [part for part, _ in net.named_buffers() if part not in net.state_dict()]
    if lost:
        raise ValueError(
            f"{name} has buffers that are not saved with it: {', '.join(lost[:5])}."
            " HINT: register them with `persistent=True`."
        )


def check_image_size(net: nn.Module, spec: DataSpec, smallest: int) -> None:
    """Raise ValueError if the data's images are too small for a network's poolings."""
    if spec.image_size < smallest:
        raise ValueError(
            f"{type(net).__name__} needs images of at least {smallest}x{smallest} pixels, but the data's are"
            f" {spec.image_size}x{spec.image_size}. HINT: raise the data's `image_size`, or use lpft.models.mlp.MLP."
        )


NetFactory = Callable[[DataSpec], BodyHeadNet]
"""Builds a network for the data at hand; YAML chooses class and settings."""


def build_network(network: NetFactory, spec: DataSpec, dtype: torch.dtype, seed: int) -> BodyHeadNet:
    """Build the network that the federated training of a seed starts from; its values depend on the seed alone.

    Raises:
        ValueError: if it consists of more than a body and a linear head.
    """
    with global_generator(seed, "network"):
        net = network(spec)
    check_network(net)
    return net.to(dtype)
