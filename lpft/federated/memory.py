"""What clients keep between the rounds of federated training, as every rank knows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lpft.federated.algorithms import Algorithm
from lpft.models.base import BodyHeadNet
from lpft.storage.run import CLIENTS
from lpft.types import State


class ClientMemory:
    """The memory of every client that has taken part, on the host of every rank.

    A client may be trained by another rank in every round, so the ranks exchange what the cohort keeps, in the
    all-reduce of the round. Algorithms whose clients keep a model cost as much memory as there are clients, on every
    rank; the others cost nothing.

    Args:
        algorithm: says what is kept.
        net: the initial network.
        num_clients: number of clients that could take part.
        device: where the clients are trained.
    """

    def __init__(self, algorithm: Algorithm, net: BodyHeadNet, num_clients: int, device: torch.device) -> None:
        self._initial = {name: t.detach().cpu().clone() for name, t in algorithm.memory(net).items()}
        self._averaged = algorithm.averages_memory
        self._num_clients, self._device = num_clients, device
        self._kept: dict[int, Tensor] = {}  # flat, (P,)
        self._mean: State | None = None

    @property
    def size(self) -> int:
        """How many numbers a client keeps."""
        return sum(t.numel() for t in self._initial.values())

    def of(self, clients: Sequence[int]) -> State:
        """Return what clients keep, each tensor ``(K, ...)``."""
        if not self._initial:
            return {}
        return self._named(torch.stack([self._kept.get(client, self._start) for client in clients]))

    def shared(self) -> State:
        """Return the mean over all clients, where the algorithm asks for it: what the server keeps."""
        if not self._averaged:
            return {}
        if self._mean is None:
            total = self._start.double() * (self._num_clients - len(self._kept))
            for client in sorted(self._kept):
                total += self._kept[client]
            mean = (total / self._num_clients).to(self._start.dtype)
            self._mean = {name: t.squeeze(0) for name, t in self._named(mean.unsqueeze(0)).items()}
        return self._mean

    def rows(self, memory: State, dtype: torch.dtype) -> Tensor:
        """Return what the clients of a stack keep, ``(K, ...)`` each, as rows ``(K, P)``."""
        return torch.cat([memory[name].to(dtype).flatten(1) for name in self._initial], dim=1)

    def put(self, clients: Sequence[int], rows: Tensor) -> None:
        """Take over what the clients of a round keep, ``(len(clients), P)``; a row that is not finite is ignored."""
        self._mean = None
        rows = rows.to("cpu", self._start.dtype) if self._initial else rows
        for client, row in zip(clients, rows, strict=True) if self._initial else ():
            if row.isfinite().all():
                self._kept[client] = row.clone()

    def state_dict(self) -> State:
        """Return what was kept: positions of the clients, and each tensor ``(len(clients), ...)``; {} if nothing."""
        if not self._kept:
            return {}
        clients = sorted(self._kept)
        named = self._named(torch.stack([self._kept[client] for client in clients]), torch.device("cpu"))
        return {CLIENTS: torch.tensor(clients), **named}

    def load_state_dict(self, saved: State) -> None:
        """Take over what `state_dict` returned."""
        if saved:
            rows = self.rows({name: saved[name] for name in self._initial}, self._start.dtype)
            self.put(saved[CLIENTS].tolist(), rows)

    @property
    def _start(self) -> Tensor:
        """What a client keeps before its first round, ``(P,)``."""
        return torch.cat([t.flatten() for t in self._initial.values()])

    def _named(self, rows: Tensor, device: torch.device | None = None) -> State:
        parts = rows.to(device or self._device).split([t.numel() for t in self._initial.values()], dim=1)
        return {
            name: part.reshape(len(rows), *like.shape)
            for part, (name, like) in zip(parts, self._initial.items(), strict=True)
        }
