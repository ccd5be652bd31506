"""Who has started this process: srun, torchrun, or neither. Imports nothing heavy.

Containers and allocations leave variables behind that Lightning and torch take for a rank's. Where neither srun nor
torchrun has made the ranks, `without_foreign_ranks` removes them, before Lightning is imported.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lpft.runtime import slurm

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
"""Variables that torchrun sets, all of them, for each rank."""
OF_RANKS = {*TORCHRUN, "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "STANDALONE_PORT"}
OF_RANKS |= {
    "GLOO_SOCKET_IFNAME",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "MPI_LOCALNRANKS",
    "MPI_LOCALRANKID",
    "KUBERNETES_PORT",
}
PREFIXES = ("TORCHELASTIC_", "LT_", "OMPI_COMM_", "PMI_", "PMIX_", "LSB_", "JSM_NAMESPACE_", "TPU_", "XRT_", "PJRT_")
"""Variables that say something about ranks, or that change Lightning's settings."""


def launched_by_torchrun() -> bool:
    """Return whether torchrun has started this process."""
    return all(name in os.environ for name in TORCHRUN)


def launched_by_cluster() -> bool:
    """Return whether srun or torchrun has started one process per device."""
    return slurm.num_tasks() > 1 or launched_by_torchrun()


def launched_here() -> int | None:
    """Return how many processes srun or torchrun have started on this machine; None if they have not."""
    if slurm.num_tasks() > 1:
        return slurm.number("SLURM_NTASKS_PER_NODE")
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched_by_torchrun() else None


def launched_rank() -> int:
    """Return which of the processes that srun or torchrun have started this one is; 0 if they have not."""
    if slurm.num_tasks() > 1:
        return slurm.number("SLURM_PROCID") or 0
    return int(os.environ["RANK"]) if launched_by_torchrun() else 0


@contextmanager
def without_foreign_ranks() -> Iterator[None]:
    """Hide what the environment says about ranks, unless srun or torchrun has made them; restore it afterwards.

    Ranks that lpft starts talk over the loopback interface, whatever the machine's name resolves to.
    """
    if launched_by_cluster():
        yield
        return
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_of_ranks(name)}
    loopback = [name for name in _interfaces() if name in ("lo", "lo0")]
    added = {"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}
    if sys.platform == "win32" and "USE_LIBUV" not in os.environ:
        added["USE_LIBUV"] = "0"  # torch's packages for Windows lack what its store uses by default
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        os.environ.update(hidden)


def _interfaces() -> list[str]:
    """Return the names of the network interfaces; none where that is not known."""
    try:
        return [name for _, name in socket.if_nameindex()]
    except (AttributeError, OSError):  # Windows, sandboxes
        return []


def _is_of_ranks(name: str) -> bool:
    return name in OF_RANKS or name.startswith(PREFIXES)
