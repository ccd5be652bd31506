"""The one thing that methods know about a network: it has a body and a head."""

from __future__ import annotations

from torch import Tensor, nn


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
