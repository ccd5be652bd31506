"""Fine-tune several times and average."""

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

    Every member has the whole budget, so the cost is K times that of FT. Members differ in the order of their batches
    and in their learning rate. With ``bn: train`` an average's BatchNorm statistics are recomputed by one pass over the
    client's training data. One member with the factor 1 is FT, bit for bit. Curves over the epochs show the members one
    after the other, and the soup at the end.

    Args:
        members: number of members, K.
        lr_factors: multiply the learning rate of each member; repeated if there are fewer than members.
            ``[1, 0.5, 2]`` by default.
        greedy: choose members by validation accuracy (`GreedySoup`) instead of taking all.
        ft: the settings of `FT`, for every member: ``epochs``, ``lr``, ``bn``, ``flood``.

    Raises:
        ValueError: if there are no factors.

    References:
        Chen et al., arXiv:2511.12695, average instances of "different initialisations", which all start from the global
        model; Wortsman et al., arXiv:2203.05482 (model soups). Number of members, their differences and the treatment
        of BatchNorm are ours.
    """

    def __init__(
        self, members: PositiveInt = 3, lr_factors: list[PositiveFloat] | None = None, greedy: bool = False, **ft: Any
    ) -> None:
        super().__init__(**ft)
        if lr_factors is not None and not lr_factors:
            raise ValueError("`lr_factors=[]` has no factor. HINT: leave it out, or give one per member.")
        self.members = members
        self.lr_factors = list(lr_factors or LR_FACTORS)
        self.greedy = greedy
        self.num_candidates = 2 * members if greedy else 0
        self.refresh_norm = members > 1 and self.bn == "train"

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase per member, each beginning at the global model."""
        (one,) = super().phases(budget)
        factors = [self.lr_factors[member % len(self.lr_factors)] for member in range(self.members)]
        return [Phase(one.epochs, lr=one.lr, bn=one.bn, restart=True, lr_factor=factor) for factor in factors]

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Add a member to the sum; greedy: keep it as it is."""
        if self.greedy:
            return keep_model(memory, params)
        return {name: memory[name] + p if memory else p for name, p in params.items()}

    def candidate(self, number: int, params: State, global_params: State, memory: State) -> State:
        """Return what the greedy choice is to try next."""
        return GreedySoup(memory, params, self.members).candidate(number)

    def judge(self, number: int, params: State, global_params: State, memory: State, accuracy: Tensor) -> State:
        """Choose greedily."""
        return GreedySoup(memory, params, self.members).judge(number, accuracy)

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the average."""
        if self.greedy:
            return GreedySoup(memory, params, self.members).average()
        return {name: total / self.members for name, total in memory.items()}
