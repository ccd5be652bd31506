"""Fine-tune several times and average."""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from lpft.methods.base import Phase
from lpft.methods.ft import FT
from lpft.types import State

LR_FACTORS = (1.0, 0.5, 2.0)


class SoupFT(FT):
    """Soup fine-tuning: fine-tune K members from the global model and average their parameters.

    Every member has the whole budget, so the cost is K times that of FT. Members differ in the order of their batches
    and in their learning rate. With ``bn: train`` an average's BatchNorm statistics are recomputed by one pass over the
    client's training data. One member with the factor 1 is FT, bit for bit. Curves over the epochs show the members one
    after the other, and the soup at the end.

    Greedy: members are sorted by accuracy on the client's validation data, and each is added to the average if it does
    not lower the average's accuracy there. A client without validation data gets the uniform average.

    Args:
        members: number of members, K.
        lr_factors: multiply the learning rate of each member; repeated if there are fewer than members.
            ``[1, 0.5, 2]`` by default.
        greedy: choose members by validation accuracy instead of taking all.
        ft: the settings of `FT`, for every member: ``epochs``, ``lr``, ``bn``, ``flood``.

    Raises:
        ValueError: if there are no factors.

    References:
        Chen et al., arXiv:2511.12695, average instances of "different initialisations", which all start from the global
        model; Wortsman et al., arXiv:2203.05482 (model soups), recipe 1 for greedy. Number of members, their
        differences and the treatment of BatchNorm are ours.
    """

    def __init__(
        self,
        members: PositiveInt = 3,
        lr_factors: list[PositiveFloat] | None = None,
        greedy: bool = False,
        **ft: Any,
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
            return {**memory, **{f"member {phase}/{name}": p for name, p in params.items()}}
        return {name: memory[name] + p if memory else p for name, p in params.items()}

    def candidate(self, number: int, params: State, global_params: State, memory: State) -> State:
        """Return each member; then the average so far with the next best one."""
        if number < self.members:
            return {name: memory[f"member {number}/{name}"] for name in params}
        soup = self._soup(params, memory)
        following = self._ranked(number - self.members, params, memory)
        return {name: (total + following[name]) / (soup["count"] + 1) for name, total in soup["sum"].items()}

    def judge(self, number: int, params: State, global_params: State, memory: State, accuracy: Tensor) -> State:
        """Remember a member's accuracy; then add the next best one to the soup unless that makes it worse."""
        if number < self.members:
            return {**memory, f"accuracy {number}": accuracy}
        soup = self._soup(params, memory)
        following = self._ranked(number - self.members, params, memory)
        added = (accuracy >= soup["accuracy"]) | accuracy.isnan()
        total = {name: torch.where(added, t + following[name], t) for name, t in soup["sum"].items()}
        return {
            **memory,
            **{f"sum/{name}": t for name, t in total.items()},
            "count": soup["count"] + added,
            "accuracy": torch.where(added, accuracy, soup["accuracy"]),
        }

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the average."""
        if self.greedy:
            return {name: memory[f"sum/{name}"] / memory["count"] for name in params}
        return {name: total / self.members for name, total in memory.items()}

    def _soup(self, params: State, memory: State) -> dict[str, Any]:
        """Return sum and number of the members in the soup, and its accuracy: -1 as long as it is empty."""
        some = next(iter(params.values()))
        return {
            "sum": {name: memory.get(f"sum/{name}", torch.zeros_like(p)) for name, p in params.items()},
            "count": memory.get("count", some.new_zeros(())),
            "accuracy": memory.get("accuracy", memory["accuracy 0"].new_full((), -1.0)),
        }

    def _ranked(self, rank: int, params: State, memory: State) -> State:
        """Return the member with the best accuracy (rank 0), the second best (rank 1), and so on."""
        accuracies = torch.stack([memory[f"accuracy {member}"] for member in range(self.members)])
        chosen = accuracies.argsort(descending=True, stable=True)[rank]
        members = range(self.members)
        return {
            name: torch.stack([memory[f"member {member}/{name}"] for member in members])
            .index_select(0, chosen.unsqueeze(0))
            .squeeze(0)
            for name in params
        }
