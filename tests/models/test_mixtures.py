"""Averages, mixtures and distances of models."""

from __future__ import annotations

import torch

from lpft.models.mixtures import dirichlet, distance


def test_the_distance_has_no_gradient_at_zero() -> None:
    at = {"a": torch.tensor([1.0, 2.0])}
    assert torch.equal(torch.func.grad(distance)(at, at)["a"], torch.zeros(2))


def test_weights_are_uniform_on_the_simplex() -> None:
    """Dirichlet(1) in three dimensions: mean 1/3, variance 1/18, covariance -1/36."""
    draws = torch.stack([dirichlet(u) for u in torch.rand(20000, 3, generator=torch.Generator().manual_seed(0))])
    torch.testing.assert_close(draws.sum(1), torch.ones(20000))
    torch.testing.assert_close(draws.mean(0), torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    expected = torch.full((3, 3), -1 / 36).fill_diagonal_(1 / 18)
    torch.testing.assert_close(draws.T.cov(), expected, atol=2e-3, rtol=0)
    assert torch.isfinite(dirichlet(torch.zeros(3))).all()
