"""Measure image folders: memory of `prepare`, and the time of an epoch afterwards.

    python benchmarks/image_folders.py [--limit 128] [--images 5000] [--epochs 5]

First, the script prepares two sets of image files of 192x192 pixels, the second four times as large, each in a process
that may use at most `--limit` MiB of memory in addition to its imports (RLIMIT_DATA, inherited by its workers), and
prints the size of the arrays and the growth of memory. Then it prepares 5,000 images of 64x64 pixels, and prints the
time of an epoch over the memory-mapped arrays relative to an epoch over a copy in memory: of training with a small
network, and of the data only (gather and normalize a batch). The two kinds of epoch alternate, and the ratio is that of
the medians.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

# Heavy modules are imported where they are used, since worker processes that decode import this file again.

MIB = 2**20
CLASSES = 10


def save_noise(root: Path, num: int, side: int, clients: int = 3) -> None:
    """Save `num` different images, divided among clients and classes."""
    rng = np.random.default_rng(0)
    for client in range(clients):
        for label in range(CLASSES):
            (root / f"site-{client}" / str(label)).mkdir(parents=True)
    for i in range(num):
        pixels = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
        folder = root / f"site-{i % clients}" / str(i // clients % CLASSES)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=1)


def prepare_within(root: Path, image_size: int, limit: int) -> None:
    """Prepare a folder with at most `limit` MiB of additional private memory; print the memory used."""
    from lpft.data.datamodule import FederatedDataModule
    from lpft.data.sources import Sites

    status = Path("/proc/self/status").read_text()
    has = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmData")).split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (has + limit * MIB, has + limit * MIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = FederatedDataModule(Sites(str(root)), image_size=image_size, cache_dir=str(root.parent / "cache"))
    start = time.perf_counter()
    data.prepare_data()
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    data.setup()
    print(
        f"prepare: {len(data.images)} images, {data.images.nbytes / MIB:.0f} MiB as arrays, within +{limit} MiB:"
        f" {seconds:.0f} s, peak +{grown:.0f} MiB",
        flush=True,
    )


def compare(what: str, mapped: Callable[[int], None], copied: Callable[[int], None], epochs: int) -> None:
    """Alternate two kinds of epoch, after an uncounted one of each, and print the ratio of the medians."""
    seconds: dict[str, list[float]] = {"mapped": [], "copied": []}
    for epoch in range(epochs + 1):
        for name, run in (("mapped", mapped), ("copied", copied)):
            start = time.perf_counter()
            run(epoch)
            seconds[name].append(time.perf_counter() - start)
    first = seconds["mapped"][0]
    slow, fast = (statistics.median(times[1:]) for times in seconds.values())
    print(f"{what}: {slow:.3f} s mapped, {fast:.3f} s in memory, ratio {slow / fast:.2f} (first pass {first:.3f} s)")


def compare_epochs(epochs: int) -> None:
    """Prepare 5,000 images; compare epochs over the mapped arrays and over a copy in memory."""
    import torch
    from lightning.fabric import Fabric

    from lpft.clients.batches import StackSamples
    from lpft.clients.device_data import DeviceSamples
    from lpft.data.datamodule import FederatedDataModule
    from lpft.data.sources import Sites
    from lpft.federated.local import LocalTrainer
    from lpft.federated.settings import Federation
    from lpft.models.cnn import SmallCNN

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_noise(Path(folder) / "sites", 5000, side=64, clients=1)
        fabric = Fabric(accelerator="cpu", devices=1)
        runs, reads = [], []
        for in_memory in (False, True):
            cache = str(Path(folder) / "cache")
            data = FederatedDataModule(
                Sites(f"{folder}/sites"), image_size=64, val_share=0.0, test_share=0.0, cache_dir=cache
            )
            data.setup()
            if in_memory and data.arrays:
                data.arrays = replace(data.arrays, images=data.images.clone())
            net = SmallCNN(data.spec, width=8, features=32)
            trainer = LocalTrainer(fabric, net, data, Federation(), seed=0)
            batches, device = StackSamples.of(data, [0], 32), DeviceSamples(data, fabric.device)

            def train(epoch: int, trainer: LocalTrainer = trainer, net: SmallCNN = net) -> None:
                for _ in trainer.train([0], dict(net.state_dict()), epoch):
                    pass

            def read(epoch: int, batches: StackSamples = batches, device: DeviceSamples = device) -> None:
                for positions in batches.epoch(0, "benchmark", epoch):
                    device.images(batches.in_dataset(positions), torch.float32)

            runs.append(train)
            reads.append(read)
        compare("epoch of 5000 images 64x64, small network", *runs, epochs)
        compare("epoch of 5000 images 64x64, data alone", *reads, epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=128, help="MiB")
    parser.add_argument("--images", type=int, default=5000, help="of the larger set that is prepared within the limit")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs of each kind")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare_within(options.prepare, 192, options.limit)
        return
    for num in (options.images // 4, options.images):
        with tempfile.TemporaryDirectory() as folder:
            save_noise(Path(folder) / "sites", num, side=24)
            words = ["--prepare", f"{folder}/sites", "--limit", str(options.limit)]
            subprocess.run([sys.executable, __file__, *words], check=True)

    compare_epochs(options.epochs)


if __name__ == "__main__":
    main()
