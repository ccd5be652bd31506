"""How many clients a stack should hold: a pure function of the work, never a measurement.

The size of a stack changes rounding, and rounding grows over many steps. It must therefore not depend on load, timing
or the number of devices.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from lpft.models.base import BodyHeadNet
from lpft.types import DataSpec

ClientsPerStack = int | Literal["auto"]

STEP_FLOPS = {"cpu": 2e7, "cuda": 2e10}
"""Floating-point operations of a stack's forward pass above which stacking no longer pays: on the CPU as measured
by benchmarks/stack.py, on CUDA an estimate."""
STACK_BYTES = {"cpu": 1e9, "cuda": 8e9}
"""Memory for a stack's parameters, their gradients and the optimizer's state."""
MAX_SIZE = 64
MIN_STACKS = 4


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
        setting: a number, or ``auto``.
        net: the network; its values do not matter.
        spec: size of the images.
        batch_size: samples of one client in a step.
        num_clients: clients in a cohort; at least four stacks are made of them, so that devices can share the work.
        device_type: ``cpu`` or ``cuda``.

    Returns:
        The most clients in a stack, at least 1.
    """
    if setting != "auto":
        return setting
    kind = device_type if device_type in STEP_FLOPS else "cpu"
    by_work = STEP_FLOPS[kind] / max(forward_flops(net, spec, batch_size), 1)
    by_memory = STACK_BYTES[kind] / max(16 * sum(p.numel() for p in net.parameters()), 1)
    return max(1, int(min(by_work, by_memory, MAX_SIZE, num_clients // MIN_STACKS)))


def forward_flops(net: BodyHeadNet, spec: DataSpec, batch_size: int) -> int:
    """Count the floating-point operations of one client's forward pass, without computing anything."""
    shape = (batch_size, spec.in_channels, spec.image_size, spec.image_size)
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(net).to("meta")(torch.empty(shape, device="meta", dtype=net.head.weight.dtype))
    return int(counter.get_total_flops())
