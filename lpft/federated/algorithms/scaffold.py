"""SCAFFOLD: control variates that reduce client drift."""

from __future__ import annotations

import torch
from torch.optim import SGD, Optimizer

from lpft.federated.algorithms.base import Algorithm
from lpft.models.base import BodyHeadNet
from lpft.types import State


class Scaffold(Algorithm):
    """Add the difference of the server's and the client's control variates to each gradient.

    The control variate c_i of a client is its mean gradient over the last round in which it took part, and zero before
    its first round; the server's c is the mean of all c_i. After local training from x to y_i, c_i becomes
    ``c_i - c + (x - y_i) / (steps * lr)`` (option II). The global learning rate is that of
    ``federation.server_optimizer``; ``federation.weighting: equal`` corresponds to the paper's average. If all clients
    have the same gradients, this is FedAvg.

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
                "SCAFFOLD computes mean gradients from the change of the parameters, so it needs plain SGD."
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
