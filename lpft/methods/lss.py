"""Local superior soups: average models that were trained to be averaged."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from lpft.methods.base import Method, Phase
from lpft.models.mixtures import average, dirichlet, distance, mixture
from lpft.types import State


class LSSFT(Method):
    """Fine-tuning by local superior soups (LSS).

    The pool M starts with the global model, and N models are added one after the other. Model i starts at the pool's
    average and is trained so that random mixtures of the pool and itself do well: each step minimizes
    ``loss(mixture) + lambda_a * dist(f_i, theta_G) - lambda_d * mean over M of dist(f_i, f)`` with respect to model i
    alone. Distances are l2, over all trainable parameters, to the earlier members of the pool; every step draws new
    mixture weights from Dirichlet(1). The result is the uniform average of the pool, the global model included. The
    budget is divided among the N models, so the cost is that of FT.

    A distance has no gradient at 0, where the first model starts; it is set to 0 there. With ``bn: train`` the
    average's BatchNorm statistics are recomputed by one pass over the client's training data. Recorded losses are those
    of the mixtures; curves over the epochs show the newest model, and the average at the end.

    Args:
        models: number of models that are added to the pool, N.
        lambda_a: weight of the affinity to the global model.
        lambda_d: weight of the diversity.
        lr: learning rate; null: that of ``personalization.optimizer``.
        bn: ``train`` normalizes with the batch's statistics, ``eval`` with the global model's.
        common: settings of every method: ``flood``.

    References:
        Chen et al., arXiv:2511.12695, compare with it; Chen et al., arXiv:2410.23660 (LSS), algorithm 1. Ours: number
        of models (published: 4), their epochs (8), both weights (3, and 0.001 in the released code), optimizer, rate,
        Dirichlet weights, the members that diversity is measured from, and the treatment of BatchNorm.
    """

    def __init__(
        self,
        models: PositiveInt = 3,
        lambda_a: NonNegativeFloat = 1e-3,
        lambda_d: NonNegativeFloat = 1e-3,
        lr: PositiveFloat | None = None,
        bn: Literal["train", "eval"] = "train",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.models = models
        self.lambda_a = lambda_a
        self.lambda_d = lambda_d
        self.lr = lr
        self.bn = bn
        self.uniforms_per_step = models + 1
        self.refresh_norm = bn == "train"

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase per model; of a budget that cannot be divided evenly, the first ones get one epoch more."""
        if self.models > budget:
            raise ValueError(
                f"`models={self.models}` is more than the budget `personalization.epochs={budget}`, and every model"
                f" needs an epoch. HINT: set `--personalization.epochs={self.models}` or more."
            )
        share, rest = divmod(budget, self.models)
        return [Phase(share + (number < rest), lr=self.lr, bn=self.bn) for number in range(self.models)]

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        """Start at the pool's average."""
        return average(pool(global_params, memory)), memory

    def mix(self, params: State, global_params: State, memory: State, uniforms: Tensor) -> State:
        """Return a random convex combination of the pool and the newest model."""
        members = [*pool(global_params, memory), params]
        return mixture(members, dirichlet(uniforms[: len(members)]))

    def penalty(self, params: State, global_params: State, memory: State) -> Tensor:
        """Return ``lambda_a`` times the distance to the global model, less ``lambda_d`` times that to the pool."""
        distances = torch.stack([distance(params, member) for member in pool(global_params, memory)])
        return self.lambda_a * distances[0] - self.lambda_d * distances.mean()

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Add the newest model to the pool."""
        return {**memory, **{f"{phase}/{name}": p for name, p in params.items()}}

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the pool's average."""
        return average(pool(global_params, memory))


def pool(global_params: State, memory: State) -> list[State]:
    """Return the global model and the models that were added so far."""
    added = len(memory) // len(global_params)
    return [global_params, *({name: memory[f"{i}/{name}"] for name in global_params} for i in range(added))]
