"""Local superior soups: averages of models that are trained for averaging."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from torch import Tensor

from lpft.methods.base import Phase, check_epochs
from lpft.methods.ft import FT
from lpft.models.mixtures import average, dirichlet, distance, keep_model, kept_models, mixture
from lpft.types import State


class LSSFT(FT):
    """Fine-tuning by local superior soups (LSS).

    The pool M starts with the global model, and N models are added one after the other. Model i starts at the average
    of the pool and is trained such that random mixtures of the pool and itself perform well: each step minimizes
    ``loss(mixture) + lambda_a * dist(f_i, theta_G) - lambda_d * mean over M of dist(f_i, f)`` with respect to only
    model i. Distances are l2, over all trainable parameters, to the earlier members of the pool; every step draws new
    mixture weights from Dirichlet(1). The result is the uniform average of the pool, the global model included; with
    ``bn: train`` its BatchNorm statistics are recomputed by one pass over the client's training data. The budget is
    divided among the N models, so the cost is that of FT. Recorded losses are those of the mixtures; curves over the
    epochs show the newest model, and the average at the end.

    Args:
        models: number of models added to the pool, N.
        lambda_a: weight of the affinity to the global model.
        lambda_d: weight of the diversity.
        ft: settings of `FT` for each model: ``lr``, ``bn``, ``flood``; ``epochs`` is the total of all models.

    References:
        Chen et al., arXiv:2511.12695, compare with it; Chen et al., arXiv:2410.23660 (LSS), algorithm 1. Ours: number
        of models (published: 4), their epochs (8), both weights (3, and 0.001 in the released code), optimizer, rate,
        Dirichlet weights, the members from which diversity is measured, and the treatment of BatchNorm.
    """

    def __init__(
        self, models: PositiveInt = 3, lambda_a: NonNegativeFloat = 1e-3, lambda_d: NonNegativeFloat = 1e-3, **ft: Any
    ) -> None:
        super().__init__(**ft)
        self.models = models
        self.lambda_a = lambda_a
        self.lambda_d = lambda_d
        self.uniforms_per_step = models + 1
        self.refresh_norm = self.bn == "train"

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase per model; of a budget that cannot be divided evenly, the first ones get one epoch more."""
        (whole,) = super().phases(budget)
        check_epochs("models", self.models, whole.epochs)  # each model needs an epoch
        share, rest = divmod(whole.epochs, self.models)
        return [replace(whole, epochs=share + (number < rest)) for number in range(self.models)]

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        """Start at the pool's average."""
        memory = memory or keep_model({}, global_params)
        return average(kept_models(memory, params)), memory

    def mix(self, params: State, global_params: State, memory: State, uniforms: Tensor) -> State:
        """Return a random convex combination of the pool and the newest model."""
        members = [*kept_models(memory, params), params]
        return mixture(members, dirichlet(uniforms[: len(members)]))

    def penalty(self, params: State, global_params: State, memory: State) -> Tensor:
        """Return ``lambda_a`` times the distance to the global model, less ``lambda_d`` times that to the pool."""
        distances = torch.stack([distance(params, member) for member in kept_models(memory, params)])
        return self.lambda_a * distances[0] - self.lambda_d * distances.mean()

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Add the newest model to the pool."""
        return keep_model(memory, params)

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the pool's average."""
        return average(kept_models(memory, params))
