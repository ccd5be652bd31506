"""Ways of training the clients of a stack on one GPU: milliseconds of a step per client, in one run.

    python benchmarks/gpu.py [--seconds 1.0] [--clients 8] [--device cuda]

Prints one row for every network: one client at a time with channels last (as `ClientStack` does for one client) and
first, in bfloat16, in one CUDA stream per client, and with a captured CUDA graph of one step; all clients at once with
`vmap` (as `ClientStack` does for several); and the share of time in which kernels run, one client at a time. Takes some
minutes. ``--device cpu`` tests the script, without streams and graphs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lpft.clients.stack import ClientStack, sample_losses
from lpft.models.base import BodyHeadNet
from lpft.models.cnn import SmallCNN
from lpft.models.mlp import MLP
from lpft.models.resnet import CifarResNet18
from lpft.types import DataSpec

CASES: dict[str, tuple[type[BodyHeadNet], dict[str, object], DataSpec]] = {
    "MLP 784-64-10": (MLP, {}, DataSpec(1, 28, 10)),
    "SmallCNN(16) BN 28x28": (SmallCNN, {"norm": True}, DataSpec(1, 28, 10)),
    "SmallCNN(32) BN 32x32": (SmallCNN, {"width": 32, "norm": True}, DataSpec(3, 32, 10)),
    "CifarResNet18 32x32": (CifarResNet18, {}, DataSpec(3, 32, 10)),
}
BATCH = 32
Step = Callable[[], None]


def training_step(stack: ClientStack, x: Tensor, y: Tensor, mixed: bool = False) -> Step:
    """Return a function that takes one step of SGD for all clients of a stack."""
    optimizer = torch.optim.SGD(stack.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            logits = stack(x)
        sample_losses(logits.float(), y).mean(1).sum().backward()
        optimizer.step()

    return step


def one_by_one(net: BodyHeadNet, x: Tensor, y: Tensor, layout: torch.memory_format, mixed: bool) -> list[Step]:
    """Return a step function for each client, with its network in a memory format."""
    stacks = [ClientStack(net, 1).to(x.device).to(memory_format=layout).train() for _ in x]
    return [training_step(stack, x[k : k + 1], y[k : k + 1], mixed) for k, stack in enumerate(stacks)]


def in_turn(steps: list[Step]) -> Step:
    """Return a function that takes every client's step sequentially."""

    def step() -> None:
        for one in steps:
            one()

    return step


def in_streams(steps: list[Step]) -> Step:
    """Return a function that takes every client's step in a separate CUDA stream."""
    streams = [torch.cuda.Stream() for _ in steps]

    def step() -> None:
        for stream, one in zip(streams, steps, strict=True):
            with torch.cuda.stream(stream):
                one()

    return step


def captured(step: Step) -> Step:
    """Return a function that replays a step as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def milliseconds(step: Step, num_clients: int, seconds: float, device: torch.device) -> float:
    """Return the minimum time of a step per client."""
    best, end, steps = float("inf"), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or steps < 5:
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best, steps = min(best, time.perf_counter() - began), steps + 1
    return 1e3 * best / num_clients


def share_in_kernels(step: Step) -> float:
    """Return kernel time over wall-clock time, percent."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 100 * sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device, num_clients = torch.device(options.device), options.clients
    on_gpu = device.type == "cuda"
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name(device) if on_gpu else 'CPU'}, ms per client and step"
    )
    columns = ("one by one", "NCHW", "bf16", "vmap", "streams", "graph", "kernels")
    print(f"{'network':24}" + "".join(f"{column:>12}" for column in columns))
    for name, (network, settings, spec) in CASES.items():
        net = network(spec, **settings).to(device)  # type: ignore[arg-type, call-arg]
        x = torch.rand(num_clients, BATCH, spec.in_channels, spec.image_size, spec.image_size, device=device)
        y = torch.randint(0, spec.num_classes, (num_clients, BATCH), device=device)

        last, first, mixed = (
            one_by_one(net, x, y, layout, in_bfloat16)
            for layout, in_bfloat16 in (
                (torch.channels_last, False),
                (torch.contiguous_format, False),
                (torch.channels_last, True),
            )
        )
        ways: list[Step | None] = [in_turn(last), in_turn(first), in_turn(mixed)]
        ways.append(training_step(ClientStack(net, num_clients).to(device).train(), x, y))
        ways += [in_streams(last), in_turn([captured(step) for step in last])] if on_gpu else [None, None]
        times = [
            f"{milliseconds(way, num_clients, options.seconds, device):12.3f}" if way else f"{'-':>12}" for way in ways
        ]
        kernels = f"{share_in_kernels(in_turn(last)):11.0f}%" if on_gpu else f"{'-':>12}"
        print(f"{name:24}" + "".join(times) + kernels, flush=True)


if __name__ == "__main__":
    main()
