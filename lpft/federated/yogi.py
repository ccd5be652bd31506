"""Yogi, an optimizer for the server that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Yogi(Optimizer):
    """Adam whose mean of squared gradients v grows and shrinks by at most ``(1 - b2) * g^2`` a step.

    ``m = b1 * m + (1 - b1) * g``, ``v = v - (1 - b2) * g^2 * sign(v - g^2)``, ``w = w - lr * m / (sqrt(v) + tau)``,
    without a correction of bias. v is ``tau^2`` at first.

    Args:
        params: what to optimize.
        lr: the rate.
        betas: b1 and b2.
        tau: degree of adaptivity; smaller is more adaptive.

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
            raise ValueError(f"Yogi needs betas in [0, 1) and tau above 0, but has {betas} and {tau}.")
        super().__init__(params, {"lr": lr, "betas": betas, "tau": tau})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients that are there."""
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
