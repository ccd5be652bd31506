"""SCAFFOLD: control variates against the drift of local models."""

from __future__ import annotations

import torch
from torch.optim import SGD, Optimizer

from lpft.federated.algorithms.base import Algorithm
from lpft.models.base import BodyHeadNet
from lpft.types import State


class Scaffold(Algorithm):
    """Correct every gradient of a client by the difference of the federation's and its own control variate.

    A client's control variate c_i is its mean gradient over the last round in which it took part, the federation's c
    is the mean of all c_i; they are zero before a client's first round. After local training from x to y_i, c_i becomes
    ``c_i - c + (x - y_i) / (steps * lr)`` (option II). The server's rate is that of ``federation.server_optimizer``,
    and ``federation.weighting: equal`` is the paper's average. Clients that have the same gradients are trained as by
    FedAvg.

    References:
        Karimireddy et al., arXiv:1910.06378, Algorithm 1.
    """

    averages_memory = True

    def check(self, net: BodyHeadNet, optimizer: Optimizer) -> None:
        """Raise ValueError unless a step of the optimizer is the gradient times a rate."""
        group = optimizer.param_groups[0]
        plain = type(optimizer) is SGD and not any(group[key] for key in ("momentum", "weight_decay", "maximize"))
        if not plain:
            raise ValueError(
                "SCAFFOLD reads mean gradients off the way that a client went, so that steps have to be plain SGD."
                " HINT: federation.optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.05, momentum: 0.0}}."
            )

    def memory(self, net: BodyHeadNet) -> State:
        """Return zeros."""
        return {name: torch.zeros_like(p) for name, p in net.named_parameters() if p.requires_grad}

    def gradient(self, params: State, start: State, memory: State, shared: State, gradients: State) -> State:
        """Return ``g + c - c_i``."""
        return {name: g + shared[name] - memory[name] for name, g in gradients.items()}

    def end(self, state: State, start: State, memory: State, shared: State, path: float) -> State:
        """Return the new c_i."""
        return {name: own - shared[name] + (start[name] - state[name]) / path for name, own in memory.items()}
