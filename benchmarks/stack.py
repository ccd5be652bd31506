"""Time of training K clients as one stack, against one by one: a ratio taken in one run.

    python benchmarks/stack.py [--sizes 2 5 10 20] [--seconds 1.0]

Prints, for networks and inputs of different cost, the floating-point operations of one client's forward pass and the
speed-up of a stack. `lpft.clients.stack_size.STEP_FLOPS` was read off this table.
"""

from __future__ import annotations

import argparse
import time

import torch

from lpft.clients.stack import ClientStack, sample_losses
from lpft.clients.stack_size import forward_flops
from lpft.models.base import BodyHeadNet
from lpft.models.cnn import SmallCNN
from lpft.models.fedbn import FedBNDigitCNN
from lpft.models.mcmahan import McMahanCNN
from lpft.models.mlp import MLP
from lpft.types import DataSpec

CASES: dict[str, tuple[type[BodyHeadNet], dict[str, object], DataSpec, int]] = {
    "MLP 64-32-10, batch 8": (MLP, {"widths": [32]}, DataSpec(1, 8, 10), 8),
    "MLP 64-32-10, batch 32": (MLP, {"widths": [32]}, DataSpec(1, 8, 10), 32),
    "SmallCNN(8) 8x8, batch 8": (SmallCNN, {"width": 8}, DataSpec(1, 8, 10), 8),
    "SmallCNN(8) 8x8, batch 32": (SmallCNN, {"width": 8}, DataSpec(1, 8, 10), 32),
    "MLP 784-64-10, batch 32": (MLP, {"widths": [64]}, DataSpec(1, 28, 10), 32),
    "SmallCNN(16) 16x16, batch 32": (SmallCNN, {}, DataSpec(3, 16, 10), 32),
    "SmallCNN(16) BN 16x16, batch 32": (SmallCNN, {"norm": True}, DataSpec(3, 16, 10), 32),
    "SmallCNN(32) BN 28x28, batch 32": (SmallCNN, {"width": 32, "norm": True}, DataSpec(3, 28, 10), 32),
    "McMahanCNN 28x28, batch 32": (McMahanCNN, {}, DataSpec(1, 28, 10), 32),
    "FedBNDigitCNN 28x28, batch 32": (FedBNDigitCNN, {}, DataSpec(3, 28, 10), 32),
}


def seconds_per_step(net: BodyHeadNet, spec: DataSpec, batch: int, size: int, seconds: float, device: str) -> float:
    """Return the least time of a training step of one client among `size`, over repeated steps."""
    stack = ClientStack(net, size).train().to(device)
    optimizer = torch.optim.SGD(stack.parameters(), lr=1e-9, momentum=0.9)  # a fitted net slows down by denormals
    x = torch.rand(size, batch, spec.in_channels, spec.image_size, spec.image_size, device=device)
    y = torch.randint(0, 10, (size, batch), device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        optimizer.zero_grad()
        sample_losses(stack(x), y).mean(1).sum().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':34}{'MFLOP':>8}{'1 [ms]':>9}" + "".join(f"{f'x{size}':>7}" for size in options.sizes))
    for name, (network, settings, spec, batch) in CASES.items():
        net = network(spec, **settings)  # type: ignore[arg-type, call-arg]
        alone = seconds_per_step(net, spec, batch, 1, options.seconds, options.device)
        ratios = [
            alone / seconds_per_step(net, spec, batch, size, options.seconds, options.device) for size in options.sizes
        ]
        flops = forward_flops(net, spec, batch)
        print(
            f"{name:34}{flops / 1e6:8.2f}{1e3 * alone:9.3f}" + "".join(f"{ratio:7.2f}" for ratio in ratios), flush=True
        )


if __name__ == "__main__":
    main()
