"""Averages of several fine-tuned models."""

from __future__ import annotations

from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from lpft.methods.base import Phase
from lpft.methods.ft import FT
from lpft.methods.greedy_soup import GreedySoup
from lpft.models.mixtures import keep_model
from lpft.types import State

LR_FACTORS = (1.0, 0.5, 2.0)


class SoupFT(FT):
    """Soup fine-tuning: fine-tune K members from the global model and average their parameters.

    Each member has the whole budget, so the cost is K times that of FT. Members differ in the order of their batches
    and in their learning rate. With ``bn: train``, BatchNorm statistics of an average are recomputed by one pass over
    the client's training data. One member with factor 1 is FT, bit for bit. Learning curves contain the members one
    after the other, and the soup at the end.

    Args:
        members: number of members, K.
        lr_factors: factors of the members' learning rates, by default ``[1, 0.5, 2]``; repeated if there are more
            members.
        greedy: choose members by validation accuracy (`GreedySoup`) instead of averaging all.
        ft: settings of `FT` for each member: ``epochs``, ``lr``, ``bn``, ``flood``.

    Raises:
        ValueError: if there are no factors.

    References:
        Chen et al., arXiv:2511.12695, average instances of "different initialisations" that start from the global
        model; Wortsman et al., arXiv:2203.05482 (model soups). Number of members, their differences and the treatment
        of BatchNorm are ours.
    """

    def __init__(
        self, members: PositiveInt = 3, lr_factors: list[PositiveFloat] | None = None, greedy: bool = False, **ft: Any
    ) -> None:
        super().__init__(**ft)
        if lr_factors is not None and not lr_factors:
            raise ValueError("`lr_factors=[]` is empty. HINT: leave it out, or give one factor per member.")
        self.members = members
        self.lr_factors = list(lr_factors or LR_FACTORS)
        self.greedy = greedy
        self.num_candidates = 2 * members if greedy else 0
        self.refresh_norm = members > 1 and self.bn == "train"

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase per member, each starting from the global model."""
        (ft,) = super().phases(budget)
        factors = [self.lr_factors[member % len(self.lr_factors)] for member in range(self.members)]
        return [Phase(ft.epochs, lr=ft.lr, bn=ft.bn, restart=True, lr_factor=factor) for factor in factors]

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Add a member to the sum, or store it for the greedy choice."""
        if self.greedy:
            return keep_model(memory, params)
        return {name: memory[name] + p if memory else p for name, p in params.items()}

    def candidate(self, number: int, params: State, global_params: State, memory: State) -> State:
        """Return the next candidate of the greedy choice."""
        return GreedySoup(memory, params, self.members).candidate(number)

    def judge(self, number: int, params: State, global_params: State, memory: State, accuracy: Tensor) -> State:
        """Update the greedy choice."""
        return GreedySoup(memory, params, self.members).judge(number, accuracy)

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the average."""
        if self.greedy:
            return GreedySoup(memory, params, self.members).average()
        return {name: total / self.members for name, total in memory.items()}
