"""The server's optimizer: a step from the global model towards the mean of the clients'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lpft.models.base import BodyHeadNet
from lpft.types import OptimizerCallable, State

SETTINGS = "settings"


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
        """Return the optimizer's state as tensors by parameter and name, such as ``head.bias/momentum_buffer``.

        Names of numbers end in ``/number``; settings of the optimizer, which it may change, begin with ``settings/``.
        """
        saved = self._optimizer.state_dict()
        names = list(self._params)
        values = {f"{names[i]}/{key}": v for i, state in saved["state"].items() for key, v in state.items()}
        values |= {f"{SETTINGS}/{key}": v for key, v in saved["param_groups"][0].items()}
        tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
        return tensors | {f"{n}/number": torch.tensor(v, dtype=_dtype(v)) for n, v in values.items() if _is_number(v)}

    def load_state_dict(self, saved: State) -> None:
        """Take over what `state_dict` returned."""
        numbers = {name: number for number, name in enumerate(self._params)}
        state: dict[int, dict[str, Any]] = {}
        groups = self._optimizer.state_dict()["param_groups"]
        for key, tensor in saved.items():
            value = tensor.item() if key.endswith("/number") else tensor
            name, _, entry = key.removesuffix("/number").rpartition("/")
            (groups[0] if name == SETTINGS else state.setdefault(numbers[name], {}))[entry] = value
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _dtype(value: object) -> torch.dtype:
    return torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.float64


def check_steps(make: OptimizerCallable) -> Optimizer:
    """Take a step with an optimizer, and return it.

    Raises:
        ValueError: if it cannot take steps on gradients that are given to it.
    """
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = make([parameter])
    step: Callable[..., Any] = optimizer.step
    try:
        step()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{type(optimizer).__name__} cannot take a step on given gradients: {error}."
            " HINT: use SGD, Adagrad or Adam of torch.optim, or lpft.federated.yogi.Yogi."
        ) from error
    return optimizer


def check_server_optimizer(make: OptimizerCallable) -> None:
    """Raise ValueError if an optimizer cannot take steps on given gradients, or its state cannot be saved."""
    optimizer = check_steps(make)
    before = _attributes(make([nn.Parameter(torch.zeros(1))]))
    unsaved = [name for name, value in _attributes(optimizer).items() if value != before.get(name)]
    state = (entry for entries in optimizer.state.values() for entry in entries.items())
    unsaved += [name for name, value in state if not (value is None or isinstance(value, Tensor) or _is_number(value))]
    if unsaved:
        raise ValueError(
            f"{type(optimizer).__name__} cannot be resumed after an interruption, because `{unsaved[0]}` is not saved."
            " HINT: keep tensors and numbers by name in `self.state[parameter]`, or numbers in `self.param_groups`."
        )


def _attributes(optimizer: Optimizer) -> dict[str, object]:
    """Return the numbers in an optimizer's own attributes."""
    return {name: v for name, v in vars(optimizer).items() if _is_number(v) and not name.startswith("_")}
