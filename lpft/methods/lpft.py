"""Linear probing, then full fine-tuning: LP-FT."""

from __future__ import annotations

from jsonargparse.typing import NonNegativeInt, PositiveFloat

from lpft.methods.base import Method, Phase, check_epochs


class LPFT(Method):
    """LP-FT: train the head on the frozen features of theta_G, then everything.

    Phase 1 starts at theta_G including its head, and leaves the body as it is, norm statistics and dropout included.
    Phase 2 has fresh optimizer state and its own learning rate. With ``lp_epochs: 0`` it is FT, bit for bit; with null
    it is linear probing alone, the ablation ``lp``.

    Args:
        lp_epochs: epochs of phase 1; the rest of the budget is phase 2. null: the whole budget.
        lp_lr: learning rate of phase 1.
        lr: learning rate of phase 2; null is the rate of ``personalization.optimizer``.

    References:
        Kumar et al., arXiv:2202.10054 (LP-FT); Chen et al., arXiv:2511.12695 (for federated personalization). The split
        of the epochs and both learning rates are not in the text of the latter that we have: they are ours.
    """

    def __init__(
        self, lp_epochs: NonNegativeInt | None = 5, lp_lr: PositiveFloat = 1e-2, lr: PositiveFloat | None = None
    ) -> None:
        self.lp_epochs = lp_epochs
        self.lp_lr = lp_lr
        self.lr = lr

    def phases(self, budget: int) -> list[Phase]:
        """Return a phase of linear probing and a phase of full fine-tuning; phases without epochs are left out."""
        lp_epochs = budget if self.lp_epochs is None else self.lp_epochs
        check_epochs("lp_epochs", lp_epochs, budget)
        probing = Phase(lp_epochs, trains="head", lr=self.lp_lr)
        tuning = Phase(budget - lp_epochs, trains="all", lr=self.lr)
        return [phase for phase in (probing, tuning) if phase.epochs]
