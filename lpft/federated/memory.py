"""Tensors that clients keep between the rounds of federated training, on all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lpft.federated.algorithms import Algorithm
from lpft.models.base import BodyHeadNet
from lpft.storage.run import CLIENTS
from lpft.types import State


class ClientMemory:
    """The memory of each client that has taken part; every rank has all of it, on the CPU.

    A client may be trained by a different rank in each round, so the all-reduce of the round exchanges the memory of
    the cohort. Each rank needs memory in proportion to the number of clients, unless clients keep nothing.

    Args:
        algorithm: the federated algorithm.
        net: the initial network.
        num_clients: number of clients that can take part.
        device: device of training.
    """

    def __init__(self, algorithm: Algorithm, net: BodyHeadNet, num_clients: int, device: torch.device) -> None:
        initial = check_tensors(f"`memory` of {type(algorithm).__name__}", algorithm.memory(net))
        self._initial = {name: t.detach().cpu().clone() for name, t in initial.items()}
        self._averaged = algorithm.averages_memory
        self._num_clients, self._device = num_clients, device
        self._rows: dict[int, Tensor] = {}  # flat, (P,)
        self._mean: State | None = None

    @property
    def size(self) -> int:
        """Number of values that a client keeps, P."""
        return sum(t.numel() for t in self._initial.values())

    def of(self, clients: Sequence[int]) -> State:
        """Return the memory of clients, each tensor ``(K, ...)``."""
        if not self._initial:
            return {}
        return self._named(torch.stack([self._rows.get(client, self._start) for client in clients]))

    def shared(self) -> State:
        """Return the mean over all clients if the algorithm needs it, otherwise {}."""
        if not self._averaged:
            return {}
        if self._mean is None:
            total = self._start.double() * (self._num_clients - len(self._rows))
            for client in sorted(self._rows):
                total += self._rows[client]
            mean = (total / self._num_clients).to(self._start.dtype)
            self._mean = {name: t.squeeze(0) for name, t in self._named(mean.unsqueeze(0)).items()}
        return self._mean

    def rows(self, memory: State, dtype: torch.dtype) -> Tensor:
        """Return the memory of the clients of a stack, ``(K, ...)`` each, as rows ``(K, P)``."""
        return torch.cat([memory[name].to(dtype).reshape(len(memory[name]), -1) for name in self._initial], dim=1)

    def put(self, clients: Sequence[int], rows: Tensor) -> None:
        """Replace the memory of clients by rows ``(len(clients), P)``; rows that are not finite are ignored."""
        self._mean = None
        rows = rows.to("cpu", self._start.dtype) if self._initial else rows
        for client, row in zip(clients, rows, strict=True) if self._initial else ():
            if row.isfinite().all():
                self._rows[client] = row.clone()

    def state_dict(self) -> State:
        """Return the clients' positions, and each tensor ``(len(clients), ...)``; {} if no client has a memory."""
        if not self._rows:
            return {}
        clients = sorted(self._rows)
        named = self._named(torch.stack([self._rows[client] for client in clients]), torch.device("cpu"))
        return {CLIENTS: torch.tensor(clients), **named}

    def load_state_dict(self, saved: State) -> None:
        """Restore a state returned by `state_dict`."""
        if saved:
            rows = self.rows({name: saved[name] for name in self._initial}, self._start.dtype)
            self.put(saved[CLIENTS].tolist(), rows)

    @property
    def _start(self) -> Tensor:
        """A client's initial memory, ``(P,)``."""
        return torch.cat([t.flatten() for t in self._initial.values()])

    def _named(self, rows: Tensor, device: torch.device | None = None) -> State:
        parts = rows.to(device or self._device).split([t.numel() for t in self._initial.values()], dim=1)
        return {
            name: part.reshape(len(rows), *like.shape)
            for part, (name, like) in zip(parts, self._initial.items(), strict=True)
        }


def check_tensors(hook: str, result: State) -> State:
    """Return the result of a hook of an algorithm.

    Raises:
        TypeError: if it is not a dict of tensors.
    """
    if not isinstance(result, dict) or not all(isinstance(value, Tensor) for value in result.values()):
        given = {type(value).__name__ for value in (result.values() if isinstance(result, dict) else [result])}
        raise TypeError(
            f"{hook} returned values of type {', '.join(sorted(given))}, but must return a dict of tensors."
        )
    return result
