"""A tiny trial of whether a network can be trained in stacks, which depends only on the network."""

from __future__ import annotations

import torch
from torch import Tensor

from lpft.clients.stack import ClientStack, sample_losses
from lpft.models.base import BodyHeadNet, copy_network
from lpft.types import DataSpec

BATCH_SIZE = 2


def stacking_problem(net: BodyHeadNet, spec: DataSpec) -> str | None:
    """Return why the clients of a network cannot be trained as one; None if they can.

    One client takes a step, then two as one, under `torch.func.vmap`: on the meta device, where nothing is
    computed, or on the CPU if the network cannot run there. Forward passes that depend on values, operations without a
    rule for `vmap`, and buffers that are replaced instead of changed do not work in stacks.

    Args:
        net: the network; its values do not matter.
        spec: shape of the inputs.

    Raises:
        ValueError: if one client cannot be trained either.
    """
    for device in ("meta", "cpu"):
        try:
            single = _step(net, spec, 1, device)
            break
        except Exception as error:  # networks can be anything
            cause = error
    else:
        raise ValueError(
            f"{type(net).__name__} cannot be trained: {_described(cause)}."
            f" HINT: run a step of it on random {spec.noun}, forward and backward, and correct it."
        ) from cause
    try:
        stacked = _step(net, spec, 2, device)
    except Exception as error:
        return _described(error)
    lost = [name for one, two in zip(single, stacked, strict=True) for name in sorted(one ^ two)]
    return f"what changes {lost[0]} is lost" if lost else None


def _step(net: BodyHeadNet, spec: DataSpec, num_clients: int, device: str) -> tuple[set[str], set[str]]:
    """Run forward and backward passes; return the parameters with a gradient and the buffers that have changed."""
    stack = ClientStack(copy_network(net, device), num_clients).to(device)
    shape = (num_clients, BATCH_SIZE, *spec.shape)
    images = torch.ones(shape, device=device, dtype=net.head.weight.dtype)
    labels = torch.zeros(shape[:2], dtype=torch.int64, device=device)
    with torch.random.fork_rng(devices=[]):
        with torch.no_grad():
            stack.eval().features(images)
        before = _versions(stack)
        sample_losses(stack.train()(images), labels).sum().backward()
    after = _versions(stack)
    return set(stack.gradients()), {name for name, version in before.items() if after[name] != version}


def _versions(stack: ClientStack) -> dict[str, tuple[int, int]]:
    """Return, by name, values that change when a buffer is written to or replaced."""
    source: dict[str, Tensor] = stack.net_buffers()
    if stack.num_clients == 1:
        source = dict(stack.net.named_buffers())
    return {name: (id(buffer), buffer._version) for name, buffer in source.items()}


def _described(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}"
