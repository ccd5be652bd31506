"""Time of training K clients as one stack relative to one client at a time, in the same run.

    python benchmarks/stack.py [--sizes 1 2 4 8 16 32 64] [--seconds 0.6] [--write]

Prints, for networks and inputs of different cost, the floating-point operations of one client's forward pass, the
speed-up of a stack of each size, and the size that `clients_per_stack: auto` chooses. ``--write`` writes the smallest
size within 5% of the best one to lpft/clients/stack_sizes.csv, for the measured device; `auto` reads this table.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd
import torch

from lpft.clients.stack import ClientStack, sample_losses
from lpft.clients.stack_size import MIN_STACKS, TABLE, clients_per_stack, forward_flops, has_convolutions
from lpft.models.base import BodyHeadNet
from lpft.models.cnn import SmallCNN
from lpft.models.fedbn import FedBNDigitCNN
from lpft.models.mcmahan import McMahanCNN
from lpft.models.mlp import MLP
from lpft.models.resnet import CifarResNet18
from lpft.types import DataSpec

CASES: dict[str, tuple[type[BodyHeadNet], dict[str, object], DataSpec, int]] = {
    "MLP 64-32-10, batch 8": (MLP, {"widths": [32]}, DataSpec(1, 8, 10), 8),
    "MLP 64-32-10, batch 32": (MLP, {"widths": [32]}, DataSpec(1, 8, 10), 32),
    "MLP 784-64-10, batch 20": (MLP, {"widths": [64]}, DataSpec(1, 28, 10), 20),
    "MLP 784-200-200-10, batch 32": (MLP, {"widths": [200, 200]}, DataSpec(1, 28, 10), 32),
    "MLP 3072-512-512-10, batch 32": (MLP, {"widths": [512, 512]}, DataSpec(3, 32, 10), 32),
    "SmallCNN(8) 8x8, batch 8": (SmallCNN, {"width": 8}, DataSpec(1, 8, 10), 8),
    "SmallCNN(8) 8x8, batch 32": (SmallCNN, {"width": 8}, DataSpec(1, 8, 10), 32),
    "SmallCNN(16) 8x8, batch 32": (SmallCNN, {}, DataSpec(1, 8, 10), 32),
    "SmallCNN(8) 16x16, batch 32": (SmallCNN, {"width": 8}, DataSpec(1, 16, 10), 32),
    "SmallCNN(16) 16x16, batch 32": (SmallCNN, {}, DataSpec(3, 16, 10), 32),
    "SmallCNN(16) BN 16x16, batch 32": (SmallCNN, {"norm": True}, DataSpec(3, 16, 10), 32),
    "SmallCNN(16) 28x28, batch 32": (SmallCNN, {}, DataSpec(1, 28, 10), 32),
    "McMahanCNN 28x28, batch 20": (McMahanCNN, {}, DataSpec(1, 28, 10), 20),
    "FedBNDigitCNN 28x28, batch 32": (FedBNDigitCNN, {}, DataSpec(3, 28, 10), 32),
    "CifarResNet18(16) 32x32, batch 32": (CifarResNet18, {"width": 16}, DataSpec(3, 32, 10), 32),
}


def seconds_per_step(net: BodyHeadNet, spec: DataSpec, batch: int, size: int, seconds: float, device: str) -> float:
    """Return the minimum time per client of a training step of `size` clients, over repeated steps.

    CPU time on the CPU, since other processes may be at work there too.
    """
    stack = ClientStack(net, size).train().to(device)
    optimizer = torch.optim.SGD(stack.parameters(), lr=1e-9, momentum=0.9)  # a fitted net slows down by denormals
    x = torch.rand(size, batch, spec.in_channels, spec.image_size, spec.image_size, device=device)
    y = torch.randint(0, 10, (size, batch), device=device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    best, end, steps = float("inf"), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or steps < 3:
        began = clock()
        optimizer.zero_grad()
        sample_losses(stack(x), y).mean(1).sum().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        best, steps = min(best, clock() - began), steps + 1
    return best / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=0.6, help="for each figure")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--write", action="store_true", help="update the table that `auto` reads")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'network':34}{'MFLOP':>9}{'1 [ms]':>9}" + "".join(f"{f'x{size}':>7}" for size in options.sizes) + "   auto"
    )
    rows = []
    for name, (network, settings, spec, batch) in CASES.items():
        net = network(spec, **settings)  # type: ignore[arg-type, call-arg]
        times: dict[int, float] = {}
        for size in options.sizes:
            times[size] = seconds_per_step(net, spec, batch, size, options.seconds, options.device)
            if times[size] > 2 * min(times.values()):
                break  # larger stacks of this network only get slower
        chosen = clients_per_stack("auto", net, spec, batch, MIN_STACKS * max(options.sizes), options.device)
        flops = forward_flops(net, spec, batch)
        best = min(size for size, seconds in times.items() if seconds <= 1.05 * min(times.values()))
        rows.append([options.device, has_convolutions(net), round(flops / 1e6, 3), best])
        ratios = "".join(f"{times[1] / times[size]:7.2f}" if size in times else f"{'':7}" for size in options.sizes)
        print(f"{name:34}{flops / 1e6:9.2f}{1e3 * times[1]:9.3f}{ratios}   {chosen}", flush=True)
    if options.write:
        table = pd.read_csv(TABLE)
        measured = pd.DataFrame(rows, columns=table.columns)
        pd.concat([table[table["device"] != options.device], measured]).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
