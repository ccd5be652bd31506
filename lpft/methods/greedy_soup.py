"""Greedy choice of a soup's members by validation accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lpft.models.mixtures import kept_models
from lpft.types import State


@dataclass(frozen=True)
class GreedySoup:
    """Adds the members of one client to the average, best first, each unless the average gets worse.

    A client without validation data, whose accuracies are NaN, gets the average of all.

    Args:
        memory: the members stored by `lpft.models.mixtures.keep_model`, and the tensors added by `judge`.
        like: parameters with the members' shapes.
        num_members: number of members.

    References:
        Wortsman et al., arXiv:2203.05482, recipe 1.
    """

    memory: State
    like: State
    num_members: int

    def candidate(self, number: int) -> State:
        """Return each member, then the current average with the next best member added."""
        if number < self.num_members:
            return kept_models(self.memory, self.like)[number]
        soup, following = self._soup, self._ranked(number - self.num_members)
        return {name: (total + following[name]) / (soup["count"] + 1) for name, total in soup["sum"].items()}

    def judge(self, number: int, accuracy: Tensor) -> State:
        """Store a member's accuracy, or add the next best member to the soup unless the accuracy decreases."""
        if number < self.num_members:
            return {**self.memory, f"accuracy {number}": accuracy}
        soup, following = self._soup, self._ranked(number - self.num_members)
        added = (accuracy >= soup["accuracy"]) | accuracy.isnan()
        total = {name: torch.where(added, t + following[name], t) for name, t in soup["sum"].items()}
        return {
            **self.memory,
            **{f"sum/{name}": t for name, t in total.items()},
            "count": soup["count"] + added,
            "accuracy": torch.where(added, accuracy, soup["accuracy"]),
        }

    def average(self) -> State:
        """Return the average of the chosen members."""
        return {name: self.memory[f"sum/{name}"] / self.memory["count"] for name in self.like}

    @property
    def _soup(self) -> dict[str, Any]:
        """Sum and number of the members in the soup, and its accuracy; -1 if it is empty."""
        memory, example = self.memory, next(iter(self.like.values()))
        return {
            "sum": {name: memory.get(f"sum/{name}", torch.zeros_like(p)) for name, p in self.like.items()},
            "count": memory.get("count", example.new_zeros(())),
            "accuracy": memory.get("accuracy", memory["accuracy 0"].new_full((), -1.0)),
        }

    def _ranked(self, rank: int) -> State:
        """Return the member with the best accuracy (rank 0), the second best (rank 1), and so on."""
        accuracies = torch.stack([self.memory[f"accuracy {member}"] for member in range(self.num_members)])
        chosen = accuracies.argsort(descending=True, stable=True)[rank].unsqueeze(0)
        members = kept_models(self.memory, self.like)
        stacked = {name: torch.stack([member[name] for member in members]) for name in self.like}
        return {name: t.index_select(0, chosen).squeeze(0) for name, t in stacked.items()}
