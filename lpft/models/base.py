"""The one thing that methods know about a network: it has a body and a head."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lpft.types import DataSpec


class BodyHeadNet(nn.Module):
    """A feature extractor with a linear classifier on top.

    A subclass sets ``body``, which maps images ``(batch, channels, size, size)`` to features ``(batch, k)``, and
    ``head``, which maps features to logits ``(batch, num_classes)``. Nothing else may own parameters or buffers.
    """

    body: nn.Module
    head: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, ``(batch, num_classes)``, of images ``(batch, channels, size, size)``."""
        logits: Tensor = self.head(self.body(x))
        return logits


def check_image_size(net: nn.Module, spec: DataSpec, smallest: int) -> None:
    """Raise ValueError if the data's images are too small for a network's poolings."""
    if spec.image_size < smallest:
        raise ValueError(
            f"{type(net).__name__} needs images of at least {smallest}x{smallest} pixels, but the data's are"
            f" {spec.image_size}x{spec.image_size}. HINT: raise the data's `image_size`, or use lpft.models.mlp.MLP."
        )


NetFactory = Callable[[DataSpec], BodyHeadNet]
"""Builds a network for the data at hand; YAML chooses class and settings."""
