"""Full fine-tuning, and the global model as a control."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse.typing import PositiveFloat, PositiveInt

from lpft.methods.base import Method, Phase, check_epochs


class NoFineTuning(Method):
    """The global model without personalization, for comparison."""

    def __init__(self) -> None:
        super().__init__()

    def phases(self, budget: int) -> list[Phase]:
        """Return no phases."""
        return []


class FT(Method):
    """Fine-tuning of all parameters.

    Args:
        epochs: number of epochs, at most the budget; null for the whole budget. The control ``ft_short`` is FT with
            the number of full epochs of LP-FT.
        lr: learning rate; null for the rate of ``personalization.optimizer``.
        bn: ``train`` normalizes by batch statistics and updates running statistics; ``eval`` uses the global model's.
        common: settings of all methods: ``flood``.

    References:
        Chen et al., arXiv:2511.12695, the baseline FT. Number of epochs (15) from the paper, the rest ours.
    """

    def __init__(
        self,
        epochs: PositiveInt | None = None,
        lr: PositiveFloat | None = None,
        bn: Literal["train", "eval"] = "train",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.epochs = epochs
        self.lr = lr
        self.bn = bn

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase of full fine-tuning."""
        check_epochs("epochs", self.epochs or 0, budget)
        return [Phase(self.epochs or budget, trains="all", lr=self.lr, bn=self.bn)]
