"""Yogi, a server optimizer that is not part of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Yogi(Optimizer):
    """Adam with additive updates of the second moment v, which changes by at most ``(1 - b2) * g^2`` per step.

    ``m = b1 * m + (1 - b1) * g``, ``v = v - (1 - b2) * g^2 * sign(v - g^2)``, ``w = w - lr * m / (sqrt(v) + tau)``,
    without bias correction. Initially, v is ``tau^2``.

    Args:
        params: parameters to optimize.
        lr: learning rate.
        betas: b1 and b2.
        tau: degree of adaptivity; smaller values are more adaptive.

    References:
        Zaheer et al., Adaptive Methods for Nonconvex Optimization, NeurIPS 2018; as FedYogi in Reddi et al.,
        arXiv:2003.00295, Algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 1e-3,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and tau > 0):
            raise ValueError(f"Yogi needs betas in [0, 1) and tau above 0, but got {betas} and {tau}.")
        super().__init__(params, {"lr": lr, "betas": betas, "tau": tau})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have gradients."""
        for group in self.param_groups:
            (b1, b2), tau = group["betas"], group["tau"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, g = self.state[parameter], parameter.grad
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(g), torch.full_like(g, tau**2)
                m, v = state["mean"], state["square"]
                m.mul_(b1).add_(g, alpha=1 - b1)
                v.sub_((1 - b2) * g.square() * torch.sign(v - g.square()))
                parameter.sub_(group["lr"] * m / (v.sqrt() + tau))
