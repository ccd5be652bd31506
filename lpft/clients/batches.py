"""The order of clients' samples in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lpft.data.datamodule import FederatedDataModule
from lpft.runtime.seeding import generator


def num_steps(num_samples: int, batch_size: int) -> int:
    """Return the number of batches in one pass over a client's samples.

    >>> num_steps(100, 32), num_steps(0, 32)
    (4, 0)
    """
    return math.ceil(num_samples / batch_size)


def epoch_order(num_samples: int, batch_size: int, generator: Generator) -> Tensor:
    """Draw the order of a client's samples in one pass.

    The last batch is filled from the start of the same permutation, so that all batches have the same size.

    Args:
        num_samples: number of the client's training samples, at least 1.
        batch_size: samples in a batch.
        generator: source of all randomness.

    Returns:
        Positions among the client's samples, int64, shape ``(num_steps * batch_size,)``.

    >>> epoch_order(3, 2, Generator().manual_seed(0)).shape
    torch.Size([4])
    """
    order = torch.randperm(num_samples, generator=generator)
    length = num_steps(num_samples, batch_size) * batch_size
    return order.repeat(math.ceil(length / num_samples))[:length]


@dataclass(frozen=True)
class StackSamples:
    """The training samples of a stack's clients, which all need the same number of steps per epoch.

    Args:
        names: names of the clients, K of them.
        index: positions of their samples in the dataset's arrays, ``(K, n_max)``; rows are padded with zeros.
        counts: number of samples of each client.
        batch_size: samples in a batch.
    """

    names: tuple[str, ...]
    index: Tensor
    counts: tuple[int, ...]
    batch_size: int

    @classmethod
    def of(cls, data: FederatedDataModule, clients: Sequence[int], batch_size: int) -> StackSamples:
        """Collect the training samples of clients, given by their positions in the list of all clients."""
        chosen = [data.clients[i] for i in clients]
        counts = tuple(len(client.train) for client in chosen)
        if len({num_steps(count, batch_size) for count in counts}) != 1:
            raise ValueError(f"The clients of a stack need the same number of steps, but have {counts} samples.")
        index = torch.zeros(len(chosen), max(counts), dtype=torch.int64)
        for row, client in zip(index, chosen, strict=True):
            row[: len(client.train)] = client.train
        return cls(tuple(client.name for client in chosen), index, counts, batch_size)

    @property
    def num_steps(self) -> int:
        """Number of batches in one pass."""
        return num_steps(self.counts[0], self.batch_size)

    def epoch(self, *key: int | str) -> Tensor:
        """Draw one pass: positions among each client's own samples, ``(steps, K, batch_size)``.

        Args:
            key: seed, stage, round or epoch. The key and the client's name determine a client's batches.
        """
        orders = [
            epoch_order(count, self.batch_size, generator(*key, name))
            for name, count in zip(self.names, self.counts, strict=True)
        ]
        return torch.stack(orders).view(len(orders), self.num_steps, self.batch_size).transpose(0, 1)

    def draws(self, count: int, *key: int | str) -> Tensor:
        """Draw uniform numbers for every image of one pass, ``(steps, K, batch_size, count)``.

        Args:
            count: numbers per image.
            key: seed, stage, round or epoch. The key and the client's name determine a client's numbers.
        """
        shape = (self.num_steps, self.batch_size, count)
        return torch.stack([torch.rand(shape, generator=generator(*key, name)) for name in self.names], dim=1)

    def shares(self) -> Tensor:
        """Return weights that make one pass a mean over each client's samples, ``(steps, K, batch_size)``.

        Repeated samples, which fill the last batch, have weight 0.

        >>> StackSamples(("a",), torch.zeros(1, 3, dtype=torch.int64), (4,), 3).shares().tolist()
        [[[0.25, 0.25, 0.25]], [[0.25, 0.0, 0.0]]]
        """
        position = torch.arange(self.num_steps * self.batch_size)
        rows = torch.stack([(position < count) / count for count in self.counts])
        return rows.view(len(rows), self.num_steps, self.batch_size).transpose(0, 1)

    def in_dataset(self, positions: Tensor) -> Tensor:
        """Convert positions among each client's samples, ``(..., K, n)``, to positions in the dataset's arrays."""
        index = self.index.to(positions.device)
        return index.expand(*positions.shape[:-2], *index.shape).gather(-1, positions)


def stacks(clients: Sequence[int], num_samples: Sequence[int], batch_size: int, size: int) -> list[list[int]]:
    """Cut a list of clients into stacks whose clients need the same number of steps.

    Args:
        clients: the *whole* cohort or list of clients, by position, before it is divided over devices.
        num_samples: training samples of every client in the dataset, by position.
        batch_size: samples in a batch.
        size: the most clients in a stack, K.

    Returns:
        Stacks of positions; every client is in exactly one. Clients without samples have separate stacks.

    >>> stacks([0, 1, 2, 3], num_samples=[40, 90, 50, 33], batch_size=32, size=2)
    [[0, 2], [3], [1]]
    """
    groups: dict[int, list[int]] = {}
    for client in clients:
        groups.setdefault(num_steps(num_samples[client], batch_size), []).append(client)
    return [group[i : i + size] for _, group in sorted(groups.items()) for i in range(0, len(group), size)]


def joined(parts: Sequence[list[int]], num_samples: Sequence[int], batch_size: int, most: int) -> list[list[list[int]]]:
    """Group stacks that can be trained as one: clients need the same number of steps.

    Smaller stacks come last; stacks of a single client, whose network runs in another way, stay separate.

    Args:
        parts: stacks from `stacks`; all or those of one rank.
        num_samples: training samples of every client in the dataset, by position.
        batch_size: samples in a batch.
        most: the most clients in a group; a larger stack is a separate group.

    Returns:
        Groups of stacks of about the same size; every stack is in exactly one.

    >>> joined([[0, 1], [2, 3], [4, 5], [6]], num_samples=[9] * 7, batch_size=3, most=5)
    [[[0, 1], [2, 3]], [[4, 5]], [[6]]]
    """
    by_steps: dict[tuple[int, bool], list[list[int]]] = {}
    for part in sorted(parts, key=len, reverse=True):
        by_steps.setdefault((num_steps(num_samples[part[0]], batch_size), len(part) == 1), []).append(part)
    groups = []
    for (_, single), joinable in by_steps.items():
        count = len(joinable) if single else min(len(joinable), math.ceil(sum(map(len, joinable)) / most))
        size = math.ceil(len(joinable) / count)
        groups += [joinable[i : i + size] for i in range(0, len(joinable), size)]
    return groups
