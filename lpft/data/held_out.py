"""Selects held-out clients and the clients of this machine, and pools the data of clients."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from lpft.data.cache import ClientSplit
from lpft.data.messages import shortened
from lpft.data.splits import SPLITS
from lpft.runtime.seeding import generator

POOLED = "pooled"
"""Name of the pooled client; its batches depend on it, as those of every client on its name."""


def chosen_to_be_held_out(clients: Sequence[ClientSplit], held_out: int | list[str] | None, seed: int) -> list[str]:
    """Return the names of the held-out clients, in the order of clients.

    Args:
        clients: all clients.
        held_out: their number, to be drawn, or their names. With the same seed, a larger number includes the clients of
            a smaller one.
        seed: seed of the draw, ``data.seed``.

    Raises:
        ValueError: if a name is unknown, or no client with training samples would take part.
    """
    names = [client.name for client in clients]
    if isinstance(held_out, list):
        _check_names("held_out", held_out, names)
        chosen = set(held_out)
    else:
        order = torch.randperm(len(names), generator=generator(seed, "held out"))
        chosen = {names[number] for number in order[: held_out or 0].tolist()}
    if chosen and not any(len(client.train) for client in clients if client.name not in chosen):
        raise ValueError(
            f"`data.held_out={held_out}` leaves nobody with training samples to take part in federated training:"
            f" there are {len(names)} clients. HINT: hold out fewer."
        )
    return [name for name in names if name in chosen]


def chosen_to_be_kept(clients: Sequence[ClientSplit], keep: str | list[str] | None) -> list[ClientSplit]:
    """Return the clients for this machine.

    Args:
        clients: all clients.
        keep: their names, or ``I/N`` for every N-th, beginning with number I; None for all.

    Raises:
        ValueError: if a name is unknown, or no client is left.
    """
    if keep is None:
        return list(clients)
    if isinstance(keep, list):
        _check_names("keep", keep, [client.name for client in clients])
        chosen = [client for client in clients if client.name in keep]
    else:
        numbers = re.fullmatch(r"(\d+)/(\d+)", keep)
        if not numbers or int(numbers[1]) >= int(numbers[2]):
            raise ValueError(
                f"`data.keep={keep}` is not I/N with 0 <= I < N. HINT: for every fourth client from the second on, 1/4;"
                " names of clients are a list, [north, south]."
            )
        chosen = list(clients[int(numbers[1]) :: int(numbers[2])])
    if not chosen:
        raise ValueError(f"`data.keep={keep}` leaves no client: there are {len(clients)}. HINT: make fewer parts.")
    return chosen


def _check_names(key: str, named: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ValueError(
            f"`data.{key}` names no client {shortened([repr(name) for name in unknown])}."
            f" HINT: the clients are {shortened(names, most=40)}."
        )


def pooled(clients: Sequence[ClientSplit]) -> ClientSplit:
    """Return one client with the train, val and test samples of all clients."""
    return ClientSplit(POOLED, *(torch.cat([getattr(client, split) for client in clients]) for split in SPLITS))
