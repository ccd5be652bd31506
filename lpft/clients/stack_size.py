"""The number of clients in a stack: a pure function of the work, never a measurement.

The size of a stack changes rounding errors, which grow over many steps. It must therefore not depend on load, timing or
the number of devices.
"""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path
from typing import Literal

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lpft.clients.stack import is_plain
from lpft.models.base import BodyHeadNet, dry_run
from lpft.types import DataSpec

ClientsPerStack = int | Literal["auto"]

TABLE = Path(__file__).with_name("stack_sizes.csv")
"""Best sizes of stacks by device type, kind of network, and work of a client's forward pass, measured with
benchmarks/stack.py; those for CUDA are estimates."""
STACK_BYTES = {"cpu": 1e9, "cuda": 8e9}
"""Memory for a stack's parameters, their gradients and the optimizer's state."""
MIN_STACKS = 4
MIN_SIZE = 4
"""Smaller stacks are not faster: such clients are trained one by one."""
ALIGNMENT = 64
"""Bytes. The rounding of matrix kernels depends on the alignment of their operands, so that a network at another
position in a stack may differ in the last bit, unless all operands are aligned to this, as separate tensors are."""


def clients_per_stack(
    setting: ClientsPerStack,
    net: BodyHeadNet,
    spec: DataSpec,
    batch_size: int,
    num_clients: int,
    device_type: str,
) -> int:
    """Resolve the setting ``clients_per_stack``.

    Args:
        setting: a number, or ``auto``: the best size of the most similar network in the table.
        net: the network; its values do not matter.
        spec: shape of the inputs.
        batch_size: samples of one client in a step.
        num_clients: clients in a cohort; they form at least four stacks, so that devices can share the work.
        device_type: ``cpu`` or ``cuda``.

    Returns:
        The most clients in a stack, at least 1.
    """
    if setting != "auto":
        return setting
    flops = forward_flops(net, spec, batch_size)
    return _best_size(flops, has_convolutions(net), net, num_clients, device_type)


def heads_per_stack(
    setting: ClientsPerStack, net: BodyHeadNet, batch_size: int, num_clients: int, device_type: str
) -> int:
    """Resolve ``clients_per_stack`` for methods that train only heads, on stored features; see `clients_per_stack`."""
    if setting != "auto":
        return setting
    flops = 2 * batch_size * net.head.in_features * net.head.out_features
    return _best_size(flops, False, net, num_clients, device_type)


def can_be_joined(net: BodyHeadNet, batch_size: int, size: int) -> bool:
    """Return whether the CPU can train several stacks as one with bitwise equal results.

    Args:
        net: the network, which must be a chain of linear layers.
        batch_size: samples of one client in a step.
        size: clients in each of the stacks.
    """
    if not is_plain(net.body, [name for name, _ in net.body.named_parameters()]):
        return False
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    numbers = [
        count
        for layer in layers
        for count in (layer.weight.numel(), batch_size * layer.in_features, batch_size * layer.out_features)
    ]
    return all(size * count * net.head.weight.element_size() % ALIGNMENT == 0 for count in numbers)


def size_to_join(size: int, net: BodyHeadNet, batch_size: int) -> int:
    """Round a size of stacks down to one that `can_be_joined`; if there is none, return it unchanged."""
    sizes = range(size, MIN_SIZE - 1, -1)
    return next((smaller for smaller in sizes if can_be_joined(net, batch_size, smaller)), size)


def _best_size(flops: int, convolutions: bool, net: BodyHeadNet, num_clients: int, device_type: str) -> int:
    kind = "cuda" if device_type == "cuda" else "cpu"
    sizes = _best_sizes()[kind, convolutions]
    work = math.log(max(flops, 1))
    by_work = sizes[min(sizes, key=lambda flops: abs(math.log(flops) - work))]
    by_memory = STACK_BYTES[kind] / max(16 * sum(p.numel() for p in net.parameters()), 1)
    size = int(min(by_work, by_memory, num_clients // MIN_STACKS))
    return size if size >= MIN_SIZE else 1


def has_convolutions(net: nn.Module) -> bool:
    """Return whether a network has convolutions, which are faster one by one, in another memory layout."""
    return any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) for module in net.modules())


@cache
def _best_sizes() -> dict[tuple[str, bool], dict[float, int]]:
    """Read the table: for each device type and kind of network, the best size by floating-point operations."""
    sizes: dict[tuple[str, bool], dict[float, int]] = {}
    with TABLE.open() as file:
        for row in csv.DictReader(file):
            key = row["device"], row["convolutions"] == "True"
            sizes.setdefault(key, {})[1e6 * float(row["mflop"])] = int(row["size"])
    return sizes


def forward_flops(net: BodyHeadNet, spec: DataSpec, batch_size: int) -> int:
    """Count the floating-point operations of one client's forward pass, without computing anything."""
    with FlopCounterMode(display=False) as counter:
        images, _ = dry_run(net, spec, training=True)
    of_body = counter.get_total_flops() * batch_size // len(images)  # BatchNorm may not accept a batch of one
    return int(of_body) + 2 * batch_size * net.head.in_features * net.head.out_features
