"""Time the array cache: writing, opening, gathering batches by index.

python benchmarks/data_cache.py [--images 60000] [--clients 3400]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lpft.data.cache import Samples, open_or_build
from lpft.data.sources.image_files import Decoded
from lpft.data.splits import SplitPositions
from lpft.types import DataSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--clients", type=int, default=3400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = DataSpec(in_channels=3, image_size=32, num_classes=10)
    rng = np.random.default_rng(0)
    num = options.images // options.clients

    rows = np.arange(num * options.clients)

    def samples() -> Samples:
        parts = rows.reshape(options.clients, num)
        clients = {
            f"client-{k}": SplitPositions(part[: num // 2], part[:0], part[num // 2 :]) for k, part in enumerate(parts)
        }
        return Samples(rows, rows % 10, np.full(len(rows), -1), clients)

    def decode(samples: Samples, done: int) -> Iterator[Decoded]:
        for start in range(done, len(rows), 1024):
            size = min(1024, len(rows) - start)
            images = rng.integers(256, size=(size, 3, 32, 32), dtype=np.uint8)
            yield Decoded(images, np.ones(size, bool), [])

    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        arrays = open_or_build(Path(folder), "Benchmark", {}, samples, decode, spec)
        seconds = time.perf_counter() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"write: {seconds:.2f} s, {arrays.images.nbytes / 2**20 / seconds:.0f} MiB/s, memory +{grown:.0f} MiB")

        start = time.perf_counter()
        arrays = open_or_build(Path(folder), "Benchmark", {}, samples, decode, spec)
        print(f"open: {1000 * (time.perf_counter() - start):.1f} ms for {len(arrays.clients)} clients")

        batches = torch.randint(len(arrays.labels), (1000, 32))
        start = time.perf_counter()
        for batch in batches:
            arrays.images[batch]
        print(f"gather: {1e6 * (time.perf_counter() - start) / len(batches):.0f} us per batch of 32 images 3x32x32")


if __name__ == "__main__":
    main()
