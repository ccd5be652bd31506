"""The greedy choice of a soup's members by accuracy on validation data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lpft.models.mixtures import kept_models
from lpft.types import State


@dataclass(frozen=True)
class GreedySoup:
    """Some members of one client, best first, of which each is averaged unless the average gets worse.

    A client without validation data, whose accuracies are NaN, gets the average of all.

    Args:
        memory: the members, by `lpft.models.mixtures.keep_model`, and what `judge` has added.
        like: parameters of the members' shapes.
        num_members: how many there are.

    References:
        Wortsman et al., arXiv:2203.05482, recipe 1.
    """

    memory: State
    like: State
    num_members: int

    def candidate(self, number: int) -> State:
        """Return each member; then the average so far with the next best one."""
        if number < self.num_members:
            return kept_models(self.memory, self.like)[number]
        so_far, following = self._so_far, self._ranked(number - self.num_members)
        return {name: (total + following[name]) / (so_far["count"] + 1) for name, total in so_far["sum"].items()}

    def judge(self, number: int, accuracy: Tensor) -> State:
        """Remember a member's accuracy; then add the next best one to the soup unless that makes it worse."""
        if number < self.num_members:
            return {**self.memory, f"accuracy {number}": accuracy}
        so_far, following = self._so_far, self._ranked(number - self.num_members)
        added = (accuracy >= so_far["accuracy"]) | accuracy.isnan()
        total = {name: torch.where(added, t + following[name], t) for name, t in so_far["sum"].items()}
        return {
            **self.memory,
            **{f"sum/{name}": t for name, t in total.items()},
            "count": so_far["count"] + added,
            "accuracy": torch.where(added, accuracy, so_far["accuracy"]),
        }

    def average(self) -> State:
        """Return the average of the chosen members."""
        return {name: self.memory[f"sum/{name}"] / self.memory["count"] for name in self.like}

    @property
    def _so_far(self) -> dict[str, Any]:
        """Sum and number of the members in the soup, and its accuracy: -1 as long as it is empty."""
        memory, some = self.memory, next(iter(self.like.values()))
        return {
            "sum": {name: memory.get(f"sum/{name}", torch.zeros_like(p)) for name, p in self.like.items()},
            "count": memory.get("count", some.new_zeros(())),
            "accuracy": memory.get("accuracy", memory["accuracy 0"].new_full((), -1.0)),
        }

    def _ranked(self, rank: int) -> State:
        """Return the member with the best accuracy (rank 0), the second best (rank 1), and so on."""
        accuracies = torch.stack([self.memory[f"accuracy {member}"] for member in range(self.num_members)])
        chosen = accuracies.argsort(descending=True, stable=True)[rank].unsqueeze(0)
        members = kept_models(self.memory, self.like)
        stacked = {name: torch.stack([member[name] for member in members]) for name in self.like}
        return {name: t.index_select(0, chosen).squeeze(0) for name, t in stacked.items()}
