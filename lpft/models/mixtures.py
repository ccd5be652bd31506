"""Averages, mixtures and distances of models of one shape, and several of them in one dict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lpft.types import State


def average(models: Sequence[State]) -> State:
    """Return the mean of each parameter.

    >>> average([{"a": torch.tensor(1.0)}, {"a": torch.tensor(4.0)}])
    {'a': tensor(2.5000)}
    """
    return {name: torch.stack([model[name] for model in models]).sum(0) / len(models) for name in models[0]}


def mixture(models: Sequence[State], weights: Tensor) -> State:
    """Return the sum of models, each times its weight.

    Args:
        models: any number of them, n.
        weights: ``(n,)``; of a convex combination if they are not negative and sum to 1.

    >>> mixture([{"a": torch.tensor(1.0)}, {"a": torch.tensor(4.0)}], torch.tensor([0.25, 0.75]))
    {'a': tensor(3.2500)}
    """
    return {
        name: torch.stack([w.to(p.dtype) * model[name] for w, model in zip(weights, models, strict=True)]).sum(0)
        for name, p in models[0].items()
    }


def dirichlet(uniforms: Tensor) -> Tensor:
    """Transform uniform numbers in ``[0, 1)``, ``(n,)``, to a draw from Dirichlet(1), uniform on the simplex.

    >>> dirichlet(torch.tensor([0.75, 0.5, 0.5]))
    tensor([0.5000, 0.2500, 0.2500])
    """
    exponentials = -torch.log1p(-uniforms)
    return exponentials / exponentials.sum().clamp_min(torch.finfo(uniforms.dtype).tiny)


def distance(one: State, other: State) -> Tensor:
    """Return the l2 distance of two models over all parameters; at 0 its gradient is 0.

    >>> distance({"a": torch.tensor([3.0]), "b": torch.tensor([0.0, 4.0])}, {"a": torch.zeros(1), "b": torch.zeros(2)})
    tensor(5.)
    """
    squares = torch.stack([(p - other[name]).pow(2).sum() for name, p in one.items()]).sum()
    apart = squares > 0
    return torch.where(apart, squares, 1.0).sqrt() * apart


def keep_model(memory: State, model: State) -> State:
    """Return a memory with one more model; `kept_models` returns them all.

    >>> sorted(keep_model(keep_model({}, {"a": torch.tensor(1.0)}), {"a": torch.tensor(4.0)}))
    ['model 0/a', 'model 1/a']
    """
    number = len(kept_models(memory, model))
    return {**memory, **{f"model {number}/{name}": p for name, p in model.items()}}


def kept_models(memory: State, like: State) -> list[State]:
    """Return the models of a memory in the order in which they were added, with the names that `like` has."""
    models: list[State] = []
    while f"model {len(models)}/{next(iter(like))}" in memory:
        models.append({name: memory[f"model {len(models)}/{name}"] for name in like})
    return models
