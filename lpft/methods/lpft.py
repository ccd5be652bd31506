"""Linear probing, then full fine-tuning: LP-FT."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator

from lpft.methods.base import HeadData, Method, Phase, check_epochs
from lpft.methods.heads import least_squares_head, random_head, zero_head
from lpft.methods.logistic_head import logistic_head
from lpft.types import State


class LPFT(Method):
    """LP-FT: train the head on the frozen features of the global model, then everything.

    Phase 1 starts at the global model including its head, and leaves the body as it is, norm statistics and dropout
    included. Phase 2 has fresh optimizer state and its own learning rate. With ``lp_epochs: 0`` it is FT, bit for bit;
    with null it is linear probing alone, the ablation ``lp``.

    With ``lp_solver: logreg`` the head is solved by logistic regression on the global model's features
    (`lpft.methods.logistic_head.logistic_head`). Then phase 1 has no epochs, for it trains nothing; phase 2 has
    ``epochs - lp_epochs``, as with SGD, so that the two compare. ``lp_epochs: 0`` leaves the whole budget to phase 2,
    the recipe of Kumar et al.; with null the solved head is all.

    Args:
        lp_epochs: epochs of phase 1, or those that a solved head saves; the rest is phase 2. null: all epochs.
        lp_lr: learning rate of phase 1.
        lr: learning rate of phase 2; null is the rate of ``personalization.optimizer``.
        epochs: how many of the budget's epochs to spend in both phases; null spends all.
        head_init: head to start from. ``global``: the global model's; ``random``: a new one, each client its own;
            ``zero``; ``lstsq``: least squares of the labels as zeros and ones, in closed form.
        lp_solver: ``sgd``: the optimizer of ``personalization``; ``logreg``: see above.
        bn: BatchNorm in phase 2. ``train`` normalizes by the batch's statistics and keeps averaging them; ``eval``
            keeps the global model's, as the main runs of Kumar et al. do. In phase 1 they are always kept.
        common: what every method takes: ``flood``, which holds in both phases.

    Raises:
        ValueError: if both `head_init` and `lp_solver` ask for a head, or probing is to last longer than `epochs`.

    References:
        Kumar et al., arXiv:2202.10054 (LP-FT); Chen et al., arXiv:2511.12695 (for federated personalization). The split
        of the epochs and both learning rates are not in the text of the latter that we have: they are ours. Theirs is
        to start at the global model's head, Kumar et al. start at a new one.
    """

    def __init__(
        self,
        lp_epochs: NonNegativeInt | None = 5,
        lp_lr: PositiveFloat = 1e-2,
        lr: PositiveFloat | None = None,
        epochs: PositiveInt | None = None,
        head_init: Literal["global", "random", "zero", "lstsq"] = "global",
        lp_solver: Literal["sgd", "logreg"] = "sgd",
        bn: Literal["train", "eval"] = "train",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if lp_solver == "logreg" and head_init != "global":
            raise ValueError(
                f"`lp_solver=logreg` does not start from any head, but `head_init={head_init}`."
                " HINT: leave out `head_init`, or set `lp_solver: sgd`."
            )
        if epochs is not None and (lp_epochs or 0) > epochs:
            raise ValueError(
                f"`lp_epochs={lp_epochs}` is more than `epochs={epochs}`. HINT: set `lp_epochs` to {epochs} or less."
            )
        self.epochs = epochs
        self.lp_epochs = lp_epochs
        self.lp_lr = lp_lr
        self.lr = lr
        self.head_init = head_init
        self.lp_solver = lp_solver
        self.bn = bn
        self.starts_head = head_init != "global" or lp_solver == "logreg"

    def phases(self, budget: int) -> list[Phase]:
        """Return a phase of linear probing and a phase of full fine-tuning; phases without epochs are left out."""
        check_epochs("epochs", self.epochs or 0, budget)
        epochs = self.epochs or budget
        lp_epochs = epochs if self.lp_epochs is None else self.lp_epochs
        check_epochs("lp_epochs", lp_epochs, epochs)
        probing = Phase(0 if self.lp_solver == "logreg" else lp_epochs, trains="head", lr=self.lp_lr)
        tuning = Phase(epochs - lp_epochs, trains="all", lr=self.lr, bn=self.bn)
        return [phase for phase in (probing, tuning) if phase.epochs]

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        """Return the head that `head_init` or `lp_solver` asks for."""
        if self.lp_solver == "logreg":
            return logistic_head(head, data)
        if self.head_init == "random":
            return random_head(head, generator)
        return zero_head(head) if self.head_init == "zero" else least_squares_head(head, data)
