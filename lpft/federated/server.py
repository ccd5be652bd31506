"""The server's optimizer: a step from the global model towards the mean of the clients'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lpft.models.base import BodyHeadNet
from lpft.types import OptimizerCallable, State


class ServerOptimizer:
    """Turns the mean of the clients' states into the next global state.

    The optimizer takes the pseudo-gradient, the global model's parameters minus their mean over the clients; with a
    rate of 1 and no momentum it yields the mean. All but trained parameters (norm statistics, say) become their mean.
    Every rank computes the same step, in float64.

    Args:
        make: makes the optimizer.
        net: the network.
        device: where the states are.

    References:
        Reddi et al., arXiv:2003.00295, Algorithm 1 (FedOpt). FedAvgM is `torch.optim.SGD` with momentum, FedAdagrad
        `torch.optim.Adagrad`, FedAdam `torch.optim.Adam`, which corrects the bias of its means, unlike the paper's, and
        FedYogi `lpft.federated.yogi.Yogi`.
    """

    def __init__(self, make: OptimizerCallable, net: BodyHeadNet, device: torch.device) -> None:
        self._params = {
            name: nn.Parameter(p.detach().to(device, torch.float64, copy=True))
            for name, p in net.named_parameters()
            if p.requires_grad
        }
        self._optimizer = make(list(self._params.values()))

    @torch.no_grad()
    def step(self, state: State, mean: State) -> State:
        """Return the next global state.

        Args:
            state: the global state.
            mean: of the clients' states.
        """
        for name, parameter in self._params.items():
            parameter.copy_(state[name])
            parameter.grad = parameter - mean[name].double()
        self._optimizer.step()
        return {**mean, **{name: p.detach().to(mean[name].dtype, copy=True) for name, p in self._params.items()}}

    def state_dict(self) -> State:
        """Return the optimizer's state as tensors by parameter and name, such as ``head.bias/momentum_buffer``."""
        of_parameters = self._optimizer.state_dict()["state"]
        names = list(self._params)
        return {
            f"{names[number]}/{key}": torch.as_tensor(value)
            for number, values in of_parameters.items()
            for key, value in values.items()
            if value is not None
        }

    def load_state_dict(self, saved: State) -> None:
        """Take over what `state_dict` returned."""
        numbers = {name: number for number, name in enumerate(self._params)}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            name, _, entry = key.rpartition("/")
            state.setdefault(numbers[name], {})[entry] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def check_server_optimizer(make: OptimizerCallable) -> None:
    """Raise ValueError if an optimizer cannot take steps on gradients that are given to it."""
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = make([parameter])
    step: Callable[..., Any] = optimizer.step
    try:
        step()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{type(optimizer).__name__} cannot take a step on the clients' mean: {error}."
            " HINT: use SGD, Adagrad or Adam of torch.optim, or lpft.federated.yogi.Yogi."
        ) from error
