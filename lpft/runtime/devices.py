"""The section `trainer`: devices and processes of a command."""

from __future__ import annotations

import os
import socket
import warnings
from datetime import timedelta
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.strategies import DDPStrategy

from lpft.runtime import slurm
from lpft.runtime.launcher import launched_by_cluster, launched_by_torchrun, launched_processes_per_node
from lpft.runtime.processes import StartMethod, available_cores, is_interactive, leave_with_parent, start_method

PRECISIONS = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
}
"""Data type of the parameters by precision."""
TIMEOUT = timedelta(days=1)
"""How long a rank waits for the others. PyTorch's default, 30 minutes, or 10 with NCCL, would abort a round in which
one rank trains a large client. Whoever started the ranks notices if one of them ends."""


class Devices:
    """Devices that a command may use: four of the Lightning Trainer's settings, and one of `lpft`.

    Args:
        accelerator: `cpu` or `cuda`; `auto` uses the GPUs if there are any. `mps`, Apple's GPU, is refused.
        devices: number of devices per node. `auto` is the number of processes that srun or torchrun started on this
            node; otherwise the number of GPUs, or of cores that this process may use; 1 in a notebook without fork.
        num_nodes: number of nodes; more than one requires srun or torchrun.
        precision: `32-true`, `64-true`, `bf16-mixed` or `bf16-true`.
        processes_per_device: number of processes that personalize on each device at the same time, each a different
            stack of clients, for GPUs that one process does not fill. Results stay the same. Federated training has one
            process per device.

    Only `check` refuses devices, so that the work of another machine can be counted on this one.
    """

    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = "auto",
        devices: PositiveInt | Literal["auto"] = "auto",
        num_nodes: PositiveInt = 1,
        precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true",
        processes_per_device: PositiveInt = 1,
    ) -> None:
        has_gpu = torch.cuda.is_available()
        self.kind = "cuda" if accelerator in ("cuda", "gpu") or (has_gpu and accelerator == "auto") else "cpu"
        self.available = torch.cuda.device_count() if self.kind == "cuda" else available_cores()
        self.count: int = (launched_processes_per_node() or self._default_count()) if devices == "auto" else devices
        self.accelerator = accelerator
        self.num_nodes: int = num_nodes
        self.precision = precision
        self.processes_per_device: int = processes_per_device

    def check(self) -> None:
        """Raise ValueError if this machine lacks the devices, or if Slurm started a different number of tasks."""
        if start_method(self.kind) == "spawn" and self.count > 1 and is_interactive() and not launched_by_cluster():
            raise ValueError(
                f"`trainer.devices={self.count}` in a notebook needs to fork it, which is not safe here."
                " HINT: use `auto` or 1, or the command `lpft`."
            )
        if self.accelerator == "mps":
            raise ValueError(
                "`trainer.accelerator=mps`: Apple's GPUs have no float64, in which clients are averaged."
                " HINT: use `--trainer.accelerator cpu`, as `auto` does on a Mac."
            )
        if self.kind == "cuda" and not self.available:
            raise ValueError(
                f"`trainer.accelerator={self.accelerator}`, but torch {torch.__version__} finds no GPU on this machine."
                " HINT: use `--trainer.accelerator cpu`."
            )
        if self.kind == "cuda" and self.count > self.available:
            hint = "`--gres=gpu:N` or `--gpus-per-node`; --gpus-per-task and --gpu-bind hide GPUs from the other tasks"
            raise ValueError(
                f"`trainer.devices={self.count}`, but there are {self.available} GPUs."
                f" HINT: use {hint if slurm.num_tasks() > 1 else '`auto`'}."
            )
        if slurm.num_tasks() > 1:
            slurm.check_devices(self.count, self.num_nodes)
        elif self.num_nodes > 1 and not self.launched_by_cluster:
            raise ValueError(
                f"`trainer.num_nodes={self.num_nodes}`, but this is a single process. HINT: start one for each device"
                f" with `srun --nodes={self.num_nodes} --ntasks-per-node={self.count}`, or use `--trainer.num_nodes 1`."
            )

    def _default_count(self) -> int:
        """Return the number of available devices, or 1 if processes for them cannot be started."""
        return 1 if is_interactive() and start_method(self.kind) == "spawn" else self.available

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the parameters."""
        return PRECISIONS[self.precision]

    @property
    def processes(self) -> int:
        """Number of processes that personalize at the same time on this machine."""
        return self.count * self.processes_per_device

    def device(self, process: int = 0) -> torch.device:
        """Return the device of one of the processes."""
        return torch.device(self.kind, process % self.count) if self.kind == "cuda" else torch.device("cpu")

    def fabric(self) -> Fabric:
        """Return the Fabric of federated training; with one device it starts no processes."""
        ranks: ClusterEnvironment = OwnProcesses()
        strategy: DDPStrategy | Literal["auto"] = "auto"
        if self.launched_by_cluster:
            strategy = DDPStrategy(timeout=TIMEOUT)
            ranks = TorchElasticEnvironment() if launched_by_torchrun() else SLURMEnvironment(auto_requeue=False)
        elif self.count > 1:
            strategy = DDPStrategy(start_method=self.start_method, timeout=TIMEOUT)
        return self._fabric(devices=self.count, num_nodes=self.num_nodes, strategy=strategy, plugins=[ranks])

    def fabric_of_one(self, rank: Fabric) -> Fabric:
        """Return a Fabric of a single process, on the device of a rank."""
        return self._fabric(devices=[rank.device.index] if self.kind == "cuda" else 1, plugins=[OwnProcesses()])

    def _fabric(self, **settings: Any) -> Fabric:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*srun.*available on your system but is not used.*")
            return Fabric(accelerator=self.kind, precision=self.precision, **settings)

    @property
    def start_method(self) -> StartMethod:
        """Start method of the processes of several devices."""
        return start_method(self.kind)

    @property
    def launched_by_cluster(self) -> bool:
        """Whether srun or torchrun has already started one process per device."""
        return launched_by_cluster()


class OwnProcesses(LightningEnvironment):
    """Processes that lpft starts itself, on this machine; environment variables are ignored.

    The processes exit with the one that started them, also if it is killed while they wait for each other to connect.
    """

    def __init__(self) -> None:
        super().__init__()
        self._starter = os.getpid()

    def set_global_rank(self, rank: int) -> None:
        """Set the rank of this process, before it connects to the others."""
        if os.getpid() != self._starter:
            leave_with_parent(self._starter)
        super().set_global_rank(rank)

    @property
    def creates_processes_externally(self) -> bool:
        """Whether an external launcher started the ranks."""
        return False

    @property
    def main_address(self) -> str:
        """Address of the first rank."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A port that was free at the first access."""
        if self._main_port == -1:
            with socket.socket() as probe:
                probe.bind((self.main_address, 0))
                self._main_port = probe.getsockname()[1]
        return self._main_port

    def node_rank(self) -> int:
        """Return the rank of this node, the only one."""
        return 0
