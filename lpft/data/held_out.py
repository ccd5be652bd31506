"""Who takes part in federated training: all clients but those that are held out; and all their data as one client."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lpft.data.cache import ClientSplit
from lpft.data.messages import shortened
from lpft.data.splits import SPLITS
from lpft.runtime.seeding import generator

POOLED = "pooled"
"""Name of the client that has everything: its batches depend on it, as those of every client on its name."""


def chosen_to_be_held_out(clients: Sequence[ClientSplit], held_out: int | list[str] | None, seed: int) -> list[str]:
    """Return the names of the clients that are held out, in the order of clients.

    Args:
        clients: all clients.
        held_out: how many are drawn, or their names. More of them with the same seed are those of fewer, and others.
        seed: of the draw, ``data.seed``.

    Raises:
        ValueError: if a name is unknown, or nobody who has training samples would take part.
    """
    names = [client.name for client in clients]
    if isinstance(held_out, list):
        unknown = [name for name in held_out if name not in names]
        if unknown:
            raise ValueError(
                f"`data.held_out` names no client {shortened([repr(name) for name in unknown])}."
                f" HINT: the clients are {shortened(names, most=40)}."
            )
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


def pooled(clients: Sequence[ClientSplit]) -> ClientSplit:
    """Return a client that has the training and validation samples of all clients, and their test samples."""
    return ClientSplit(POOLED, *(torch.cat([getattr(client, split) for client in clients]) for split in SPLITS))
