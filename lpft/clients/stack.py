"""K clients' networks as one module with a leading client dimension."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lpft.models.base import BodyHeadNet
from lpft.types import State

ELEMENTWISE_OPTIMIZERS = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.Rprop,
)
"""Optimizers whose update of an entry depends on that entry alone, so that clients of a stack cannot mix."""


class ClientStack(nn.Module):
    """Networks of K clients, all of the same architecture, run as one.

    Every tensor that goes in or comes out has a leading client dimension K. With K > 1 the parameters are stacked and
    the body runs under `torch.func.vmap`; with K = 1 the network itself runs, without that cost. Gradients and buffers
    of different clients never mix: a NaN in one leaves the others bit for bit as they were.

    Args:
        net: the network every client starts from; it is copied.
        num_clients: K.
    """

    def __init__(self, net: BodyHeadNet, num_clients: int) -> None:
        super().__init__()
        self.num_clients = num_clients
        self._param_names = [name for name, _ in net.named_parameters()]
        self._buffer_names = [name for name, _ in net.named_buffers()]
        self._frozen_by_net = {name for name, p in net.named_parameters() if not p.requires_grad}
        if num_clients == 1:
            self.net = copy.deepcopy(net)
            return
        # The skeleton lends its forward pass; in a tuple, so that it is not a submodule. It holds no values.
        self._skeleton = (copy.deepcopy(net).to("meta"),)
        self.stacked = nn.ParameterDict(
            {_key(name): nn.Parameter(_repeat(p, num_clients), p.requires_grad) for name, p in net.named_parameters()}
        )
        for name, buffer in net.named_buffers():
            self.register_buffer(_key(name), _repeat(buffer, num_clients))

    # What it holds

    def params(self) -> State:
        """Return the parameters by their name in the network, each ``(K, ...)``; gradients flow through them."""
        if self.num_clients == 1:
            return {name: p.unsqueeze(0) for name, p in self.net.named_parameters()}
        return {name: self.stacked[_key(name)] for name in self._param_names}

    def net_buffers(self) -> State:
        """Return the buffers (statistics of norm layers, say) by their name in the network, each ``(K, ...)``."""
        if self.num_clients == 1:
            return {name: b.unsqueeze(0) for name, b in self.net.named_buffers()}
        return {name: getattr(self, _key(name)) for name in self._buffer_names}

    def part(self, prefix: str) -> list[nn.Parameter]:
        """Return the parameters to optimize of one part, ``"body"`` or ``"head"``."""
        source = self.net.named_parameters() if self.num_clients == 1 else self.params().items()
        return [p for name, p in source if name.startswith(f"{prefix}.")]  # type: ignore[misc]

    def states(self) -> list[State]:
        """Return a copy of every client's state, a plain state dict of the network, with persistent buffers only."""
        tensors = {**self.params(), **self.net_buffers()}
        names = self.module.state_dict().keys()
        return [{name: tensors[name][k].detach().clone() for name in names} for k in range(self.num_clients)]

    def load(self, state: State) -> None:
        """Let every client start from the same state, a plain state dict of the network."""
        self.write({name: _repeat(tensor, self.num_clients) for name, tensor in state.items()})

    @torch.no_grad()
    def write(self, tensors: State) -> None:
        """Overwrite parameters and buffers, given by their name in the network, each ``(K, ...)``."""
        targets = {**self.params(), **self.net_buffers()}
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)

    # How it runs

    def forward(self, x: Tensor, params: State | None = None) -> Tensor:
        """Return the logits ``(K, batch, num_classes)`` of every client's own images ``(K, batch, ...)``.

        Args:
            x: images.
            params: use these parameters ``(K, ...)`` instead of the stack's own.
        """
        return self.classify(self.features(x, params=params), params=params)

    def features(self, x: Tensor, shared: bool = False, params: State | None = None) -> Tensor:
        """Return the features ``(K, batch, k)`` of images.

        Args:
            x: every client's own images ``(K, batch, ...)``, or, if shared, one batch ``(batch, ...)`` for all.
            shared: all clients look at the same images.
            params: use these parameters ``(K, ...)`` instead of the stack's own.
        """
        body = self.module.body
        if self.num_clients == 1:
            x = x if shared else x.squeeze(0)
            own = {} if params is None else {name: t.squeeze(0) for name, t in _of_body(params).items()}
            features: Tensor = functional_call(body, own, (x,)) if own else body(x)
            return features.unsqueeze(0)

        def run(params: State, buffers: State, x: Tensor) -> Tensor:
            return functional_call(body, (params, buffers), (x,))

        in_dims = (0, 0, None if shared else 0)
        stacked = _of_body(self.params() if params is None else params), _of_body(self.net_buffers())
        return vmap(run, in_dims=in_dims, randomness="different")(*stacked, x)

    def classify(self, features: Tensor, shared: bool = False, params: State | None = None) -> Tensor:
        """Return the logits ``(K, batch, num_classes)`` of features ``(K, batch, k)``, or ``(batch, k)`` if shared."""
        if self.num_clients > 1 or params is not None:
            return linear(features, self.params() if params is None else params, shared)
        logits: Tensor = self.net.head(features if shared else features.squeeze(0))
        return logits.unsqueeze(0)

    def map(self, function: Callable[..., Any], *trees: Any, shared: Sequence[Any] = ()) -> Any:
        """Apply a function of one client to every client of the stack.

        Args:
            function: pure function of tensors, or of dicts of tensors, of one client.
            trees: its first arguments; each tensor with a leading client dimension.
            shared: its remaining arguments, the same for all clients.

        Returns:
            What the function returns, each tensor with a leading client dimension.
        """
        if self.num_clients == 1:
            out = function(*tree_map(lambda t: t.squeeze(0), trees), *shared)
            return tree_map(lambda t: t.unsqueeze(0), out)
        return vmap(lambda *one: function(*one, *shared), randomness="different")(*trees)

    # Phases

    @property
    def module(self) -> BodyHeadNet:
        """The network whose forward pass runs; with K > 1 it holds no values."""
        return self.net if self.num_clients == 1 else self._skeleton[0]

    def train(self, mode: bool = True) -> ClientStack:
        """Set training or evaluation mode of the whole stack."""
        super().train(mode)
        self.module.train(mode)
        return self

    def freeze_body(self, frozen: bool) -> None:
        """Stop (or resume) gradients of the body; a frozen body also keeps its norm statistics and drops nothing.

        Parameters that the network itself does not train stay frozen either way.
        """
        self._train_of_body(lambda name: not frozen and name not in self._frozen_by_net)
        self.module.body.train(not frozen)

    def train_only(self, patterns: Sequence[str]) -> None:
        """Stop gradients of the body except for parameters whose names match, as file names do (``*.adapter.*``).

        Matching parameters are trained even if the network itself does not train them.

        Raises:
            ValueError: if no name matches.
        """
        check_patterns("The network", self._param_names, patterns)
        self._train_of_body(lambda name: any(fnmatch(name, pattern) for pattern in patterns))

    def _train_of_body(self, trains: Callable[[str], bool]) -> None:
        source = self.net.named_parameters() if self.num_clients == 1 else self.params().items()
        for name, parameter in source:
            if name.startswith("body."):
                parameter.requires_grad_(trains(name))
                if not parameter.requires_grad:
                    parameter.grad = None

    def gradients(self) -> State:
        """Return the gradients that there are by the parameters' name in the network, each ``(K, ...)``, not copied."""
        if self.num_clients == 1:
            return {name: p.grad.unsqueeze(0) for name, p in self.net.named_parameters() if p.grad is not None}
        return {name: p.grad for name in self._param_names if (p := self.stacked[_key(name)]).grad is not None}

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> None:
        """Scale every client's gradient down to an l2 norm of at most `max_norm`, each by its own norm."""
        gradients = [gradient.view(self.num_clients, -1) for gradient in self.gradients().values()]
        norms = torch.stack([g.norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.unsqueeze(1))

    @torch.no_grad()
    def finite(self) -> Tensor:
        """Tell, as bool ``(K,)``, which clients have finite parameters and buffers only."""
        tensors = [t.reshape(self.num_clients, -1) for t in (*self.params().values(), *self.net_buffers().values())]
        return torch.stack([t.isfinite().all(dim=1) for t in tensors]).all(dim=0)


def linear(features: Tensor, params: State, shared: bool = False) -> Tensor:
    """Apply K heads, named ``head.weight`` ``(K, c, k)`` and ``head.bias`` ``(K, c)``, to features.

    Args:
        features: ``(K, batch, k)``, or ``(batch, k)`` if shared.
        params: holds the heads.
        shared: all heads see the same features.

    Returns:
        Logits ``(K, batch, c)``.
    """
    weight, bias = params["head.weight"], params.get("head.bias")
    if shared:
        features = features.expand(len(weight), *features.shape)
    if bias is None:
        return torch.bmm(features, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), features, weight.transpose(1, 2))


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every sample, ``(K, batch)``.

    Args:
        logits: ``(K, batch, num_classes)``.
        labels: int64, ``(K, batch)``.
    """
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def check_elementwise(optimizer: Optimizer, num_clients: int) -> None:
    """Raise ValueError if a stack of several clients must not use this optimizer."""
    if num_clients > 1 and type(optimizer) not in ELEMENTWISE_OPTIMIZERS:
        raise ValueError(
            f"The optimizer {type(optimizer).__name__} is not known to treat every entry on its own, so it could mix"
            f" the {num_clients} clients of a stack. HINT: set `clients_per_stack: 1`, or use SGD or Adam."
        )


def check_patterns(owner: str, names: Sequence[str], patterns: Sequence[str]) -> None:
    """Raise ValueError if none of a network's parameters, given by name, matches a pattern."""
    if not any(fnmatch(name, pattern) for name in names for pattern in patterns):
        raise ValueError(
            f"{owner} has no parameters named {' or '.join(patterns)}."
            f" HINT: its parameters are {', '.join(names[:8])}, ..."
        )


def _of_body(tensors: State) -> State:
    return {name.removeprefix("body."): t for name, t in tensors.items() if name.startswith("body.")}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict allows no dots


def _repeat(tensor: Tensor, num_clients: int) -> Tensor:
    return tensor.detach().expand(num_clients, *tensor.shape).clone(memory_format=torch.contiguous_format)
