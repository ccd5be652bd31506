"""A random generator for every draw, seeded by the purpose of the draw.

No draw depends on the global generator, the order of work or the process. A run that is resumed, or distributed over
other devices, therefore draws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def stable_seed(*key: int | str) -> int:
    """Map the purpose of a draw to a seed in ``[0, 2**63)`` that is the same in every process and on every machine.

    >>> stable_seed(0, "batches", 3, 7) == stable_seed(0, "batches", 3, 7)
    True
    >>> stable_seed(0, "batches", 3, 7) == stable_seed(0, "batches", 37)
    False
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: int | str) -> Generator:
    """Return a CPU generator for a key, such as ``(seed, "batches", epoch, client)``."""
    return Generator().manual_seed(stable_seed(*key))


def seed_global_generator(device: torch.device, *key: int | str) -> None:
    """Seed the generator from which layers on a device draw, such as dropout.

    `torch.manual_seed` seeds the generators of all device types, which takes a millisecond even if only one exists.
    """
    seed = stable_seed(*key)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def global_generator(*key: int | str) -> Iterator[None]:
    """Seed torch's global generator for code that uses it, such as layer initialization, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed(*key))
        yield
