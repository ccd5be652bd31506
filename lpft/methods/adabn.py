"""AdaBN: BatchNorm statistics of the client, without training."""

from __future__ import annotations

from lpft.methods.base import Method, Phase


class AdaBN(Method):
    """AdaBN: the global model with the BatchNorm statistics of the client's training data.

    A control for networks with BatchNorm: only differences between FT and this are due to trained weights. No parameter
    is trained. Mean and variance of each layer are the plain average over the batches of one forward pass, in which
    batches are normalized by their own statistics. Without BatchNorm this is the global model.

    References:
        Li et al., arXiv:1603.04779. One pass in batches of ``personalization.batch_size`` is ours.
    """

    refresh_norm = True

    def __init__(self) -> None:
        super().__init__()

    def phases(self, budget: int) -> list[Phase]:
        """Return no phases."""
        return []
