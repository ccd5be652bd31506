"""The launcher of this process: srun, torchrun, or neither. The module imports only the standard library.

Containers and Slurm allocations set environment variables that Lightning and torch mistake for those of a rank. If
neither srun nor torchrun started the ranks, `without_foreign_ranks` hides them before Lightning is imported.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lpft.runtime import slurm

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
"""Variables that torchrun sets for every rank."""
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
"""Prefixes of variables that describe ranks or change Lightning's settings."""


def launched_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return all(name in os.environ for name in TORCHRUN)


def launched_by_cluster() -> bool:
    """Return whether srun or torchrun started one process per device."""
    return slurm.num_tasks() > 1 or launched_by_torchrun()


def launched_processes_per_node() -> int | None:
    """Return the number of processes that srun or torchrun started on this node; None without a launcher."""
    if slurm.num_tasks() > 1:
        return slurm.number("SLURM_NTASKS_PER_NODE")
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched_by_torchrun() else None


def launched_rank() -> int:
    """Return the rank of this process under srun or torchrun; 0 without a launcher."""
    if slurm.num_tasks() > 1:
        return slurm.number("SLURM_PROCID") or 0
    return int(os.environ["RANK"]) if launched_by_torchrun() else 0


@contextmanager
def without_foreign_ranks() -> Iterator[None]:
    """Hide the environment variables of ranks unless srun or torchrun started this process; restore them afterwards.

    Ranks started by lpft communicate over the loopback interface, whatever the machine's host name resolves to.
    """
    if launched_by_cluster():
        yield
        return
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_of_ranks(name)}
    loopback = [name for name in _interfaces() if name in ("lo", "lo0")]
    added = {"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}
    if sys.platform == "win32" and "USE_LIBUV" not in os.environ:
        added["USE_LIBUV"] = "0"  # torch for Windows is built without libuv, which its store uses by default
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        os.environ.update(hidden)


def _interfaces() -> list[str]:
    """Return the names of the network interfaces; empty if they cannot be determined."""
    try:
        return [name for _, name in socket.if_nameindex()]
    except (AttributeError, OSError):  # Windows, sandboxes
        return []


def _is_of_ranks(name: str) -> bool:
    return name in OF_RANKS or name.startswith(PREFIXES)
