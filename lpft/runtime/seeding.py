"""A generator for every draw, made from what the draw is for.

No draw depends on the global generator, on the order of work or on the process that does it. A run that is resumed, or
spread over other devices, therefore sees the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def stable_seed(*key: int | str) -> int:
    """Map a key to a seed that is the same in every process and on every machine.

    Args:
        key: what the draw is for, such as ``(seed, "batches", epoch, client)``.

    Returns:
        An integer in ``[0, 2**63)``.

    >>> stable_seed(0, "batches", 3, 7) == stable_seed(0, "batches", 3, 7)
    True
    >>> stable_seed(0, "batches", 3, 7) == stable_seed(0, "batches", 37)
    False
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: int | str) -> Generator:
    """Make the CPU generator that belongs to a key."""
    return Generator().manual_seed(stable_seed(*key))


def seed_global_generator(device: torch.device, *key: int | str) -> None:
    """Seed the generator of a device that layers draw from (dropout).

    `torch.manual_seed` seeds those of all kinds of devices, which takes a millisecond even where there is only one.
    """
    seed = stable_seed(*key)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def global_generator(*key: int | str) -> Iterator[None]:
    """Seed torch's global generator for code that knows no other (layer initialisation), and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed(*key))
        yield
