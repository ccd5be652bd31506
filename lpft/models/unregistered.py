"""Tensors of a network that PyTorch does not register: they are neither trained nor saved with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lpft.types import State


def unregistered_tensors(net: nn.Module) -> State:
    """Return the tensors in plain attributes, lists and dicts of a network's modules that are not part of it, by name.

    Tensors that are computed from others, such as those of `torch.nn.utils.weight_norm`, or share their memory, as with
    `torch.nn.utils.spectral_norm`, are left out.

    >>> net = nn.Linear(2, 2)
    >>> net.shift, net.parts = torch.ones(2), [nn.Linear(1, 1, bias=False)]
    >>> list(unregistered_tensors(net))
    ['shift', 'parts[0].weight']
    """
    registered = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    found: State = {}
    for part, module in net.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in ("_parameters", "_buffers", "_modules"):
                name = f"{part}.{attribute}" if part else attribute
                found |= {n: t for n, t in _tensors(name, value) if t.is_leaf and t.data_ptr() not in registered}
    return found


def _tensors(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        for part, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield f"{name}.{part}", tensor
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _tensors(f"{name}[{position}]", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(f"{name}[{key!r}]", item)


def check_unregistered(name: str, tensors: State, again: State) -> None:
    """Raise ValueError if unregistered tensors should be trained, or are random, so that saved models lack them.

    Args:
        name: name of the network.
        tensors: its unregistered tensors.
        again: the same of another network of the same class and settings.
    """
    untrained = [part for part, tensor in tensors.items() if tensor.requires_grad]
    if untrained:
        raise ValueError(
            f"{name} has parameters that PyTorch does not register, so they are not trained: {_listed(untrained)}."
            " HINT: put layers in an `nn.ModuleList`, parameters in an `nn.ParameterList`; use `requires_grad_(False)`"
            " for those that must not be trained."
        )
    random = [part for part, t in tensors.items() if part not in again or not torch.equal(t, again[part])]
    if random:
        raise ValueError(
            f"{name} has random tensors that are not saved with it: {_listed(random)}."
            " HINT: register them with `register_buffer`."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5])
