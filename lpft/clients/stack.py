"""K clients' networks as one module with a leading client dimension."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lpft.clients.stacked import StackedTensors
from lpft.models.base import run_with
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
"""Optimizers whose update of an entry depends only on that entry, so that clients of a stack cannot mix."""


class ClientStack(StackedTensors):
    """Networks of K clients, all of the same architecture, run as one.

    Every input and output tensor has a leading client dimension K. With K > 1 the parameters are stacked and
    the body runs under `torch.func.vmap`; with K = 1 the network itself runs, without this overhead. Gradients and
    buffers of different clients never mix: a NaN in one leaves the others bit for bit as they were.

    Args:
        net: the network every client starts from; it is copied.
        num_clients: K.
    """

    def forward(self, x: Tensor, params: State | None = None) -> Tensor:
        """Return the logits ``(K, batch, num_classes)`` of every client's own images ``(K, batch, ...)``.

        Args:
            x: images.
            params: use these parameters ``(K, ...)`` instead of the stack's.
        """
        return self.classify(self.features(x, params=params), params=params)

    def features(self, x: Tensor, shared: bool = False, params: State | None = None) -> Tensor:
        """Return the features ``(K, batch, k)`` of images.

        Args:
            x: every client's own images ``(K, batch, ...)``, or, if shared, one batch ``(batch, ...)`` for all.
            shared: whether all clients use the same images.
            params: use these parameters ``(K, ...)`` instead of the stack's.
        """
        body = self.module.body
        if self.num_clients == 1:
            x = x if shared else x.squeeze(0)
            body_params = {} if params is None else {name: t.squeeze(0) for name, t in _of_body(params).items()}
            features: Tensor = run_with(body, body_params, x, self._ties) if body_params else body(x)
            return features.unsqueeze(0)

        body_params = _of_body(self.params() if params is None else params)
        if is_plain(body, body_params):
            return _run_plain(body, body_params, x.expand(self.num_clients, *x.shape) if shared else x)

        def run(params: State, buffers: State, x: Tensor) -> Tensor:
            return run_with(body, {**params, **buffers}, x, self._ties)

        in_dims = (0, 0, None if shared else 0)
        return vmap(run, in_dims=in_dims, randomness="different")(body_params, _of_body(self.net_buffers()), x)

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
            The function's result, each tensor with a leading client dimension.
        """
        if self.num_clients == 1:
            out = function(*tree_map(lambda t: t.squeeze(0), trees), *shared)
            return tree_map(lambda t: t.unsqueeze(0), out)
        return vmap(lambda *of_client: function(*of_client, *shared), randomness="different")(*trees)

    def train(self, mode: bool = True) -> ClientStack:
        """Set training or evaluation mode of the whole stack."""
        super().train(mode)
        self.module.train(mode)
        return self

    def freeze_body(self, frozen: bool) -> None:
        """Stop (or resume) gradients of the body; a frozen body also keeps its norm statistics and has no dropout.

        Parameters that the network itself does not train always stay frozen.
        """
        self._train_of("body", lambda name: not frozen and name not in self._frozen_by_net)
        self.module.body.train(not frozen)

    def freeze_head(self, frozen: bool) -> None:
        """Stop (or resume) gradients of the head; parameters that the network does not train always stay frozen."""
        self._train_of("head", lambda name: not frozen and name not in self._frozen_by_net)

    def train_only(self, patterns: Sequence[str]) -> None:
        """Stop gradients of the body except for parameters whose names match a pattern like ``*.adapter.*``.

        Matching parameters are trained even if the network itself does not train them.

        Raises:
            ValueError: if no name matches.
        """
        check_patterns("The network", self._param_names, patterns)
        self._train_of("body", lambda name: any(fnmatch(name, pattern) for pattern in patterns))

    def _train_of(self, part: str, trains: Callable[[str], bool]) -> None:
        source = self.net.named_parameters() if self.num_clients == 1 else self.params().items()
        for name, parameter in source:
            if name.startswith(f"{part}."):
                parameter.requires_grad_(trains(name))
                if not parameter.requires_grad:
                    parameter.grad = None


def is_plain(body: nn.Module, params: Collection[str]) -> bool:
    """Return whether a body is a chain of layers that support a client dimension without `vmap`, which is slower.

    Hooks, such as those of `torch.nn.utils.weight_norm`, and tied weights are not plain.

    Args:
        body: the layers.
        params: names of the body's parameters.
    """
    kinds = (nn.Flatten, nn.Linear, nn.ReLU)
    if not isinstance(body, nn.Sequential) or any(m._forward_hooks or m._forward_pre_hooks for m in body.modules()):
        return False
    return all(
        type(layer) in kinds
        and not (isinstance(layer, nn.Flatten) and layer.start_dim != 1)
        and not (isinstance(layer, nn.Linear) and f"{name}.weight" not in params)
        for name, layer in body.named_children()
    )


def _run_plain(body: nn.Module, params: State, x: Tensor) -> Tensor:
    for name, layer in body.named_children():
        if isinstance(layer, nn.Flatten):
            x = x.flatten(2)
        elif isinstance(layer, nn.Linear):
            x = linear(x, params, name=name)
        else:
            x = layer(x)
    return x


def linear(features: Tensor, params: State, shared: bool = False, name: str = "head") -> Tensor:
    """Apply K linear layers, such as heads, with ``NAME.weight`` ``(K, c, k)`` and ``NAME.bias`` ``(K, c)``.

    Args:
        features: ``(K, batch, k)``, or ``(batch, k)`` if shared.
        params: the layers' parameters.
        shared: whether all layers have the same input.
        name: name of the layers in `params`.

    Returns:
        Logits ``(K, batch, c)``.
    """
    weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias")
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
