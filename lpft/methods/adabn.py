"""AdaBN: BatchNorm statistics of the client, without training."""

from __future__ import annotations

from lpft.methods.base import Method, Phase


class AdaBN(Method):
    """AdaBN: the global model with the BatchNorm statistics of the client's training data.

    A control for networks with BatchNorm: whatever FT gains or forgets beyond this was learned. No parameter is
    trained. Mean and variance of every layer are the plain average over the batches of one forward pass, normalized by
    the batches' own statistics; the cost is that of one forward pass. Without BatchNorm it is the global model.

    References:
        Li et al., arXiv:1603.04779. One pass in batches of ``personalization.batch_size`` is ours.
    """

    refresh_norm = True

    def __init__(self) -> None:
        super().__init__()

    def phases(self, budget: int) -> list[Phase]:
        """Return no phase."""
        return []
