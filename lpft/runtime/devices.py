"""Which devices and processes do the work."""

from __future__ import annotations

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
from lpft.runtime.launched import launched_by_cluster, launched_by_torchrun, launched_here
from lpft.runtime.processes import StartMethod, available_cores, is_interactive, start_method

PRECISIONS = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
}
"""Type of the parameters in each precision."""
TIMEOUT = timedelta(days=1)
"""How long a rank waits for the others. PyTorch's half an hour, or ten minutes with NCCL, would end a round in which
one of them trains a large client; that a rank has ended is noticed by who has started it."""


class Devices:
    """Devices that a command may use: four of the Lightning Trainer's settings, and one of `lpft`.

    Args:
        accelerator: `cpu` or `cuda`; `auto` takes the GPUs if there are any. `mps`, Apple's GPU, is refused.
        devices: number of devices on each node; `auto` is the number of processes that srun or torchrun started,
            otherwise of GPUs, or of cores that this process may use; 1 in a notebook on a system without fork.
        num_nodes: number of machines; more than one under srun or torchrun only.
        precision: `32-true`, `64-true`, `bf16-mixed` or `bf16-true`.
        processes_per_device: processes that personalize on each device at the same time, each another stack of clients:
            for GPUs that one does not fill. Results stay the same. Federated training has one process per device.

    Only `check` refuses devices, so that work for other machines can be counted on this one.
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
        self.count: int = (launched_here() or self._most()) if devices == "auto" else devices
        self.accelerator = accelerator
        self.num_nodes: int = num_nodes
        self.precision = precision
        self.processes_per_device: int = processes_per_device

    def check(self) -> None:
        """Raise ValueError if this machine lacks the devices, or Slurm started another number of tasks."""
        if start_method(self.kind) == "spawn" and self.count > 1 and is_interactive() and not launched_by_cluster():
            raise ValueError(
                f"`trainer.devices={self.count}` in a notebook needs processes that are copies of it, which is not safe"
                " here. HINT: use `auto` or 1, or the command `lpft`."
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

    def _most(self) -> int:
        """Return how many devices there are, or 1 where processes cannot be started for them."""
        return 1 if is_interactive() and start_method(self.kind) == "spawn" else self.available

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return PRECISIONS[self.precision]

    @property
    def processes(self) -> int:
        """How many processes train stacks at the same time on this machine."""
        return self.count * self.processes_per_device

    def device(self, process: int = 0) -> torch.device:
        """Return the device of one of the processes."""
        return torch.device(self.kind, process % self.count) if self.kind == "cuda" else torch.device("cpu")

    def fabric(self) -> Fabric:
        """Make the Fabric of federated training; with one device it starts no process."""
        ranks: ClusterEnvironment = OwnProcesses()
        strategy: DDPStrategy | Literal["auto"] = "auto"
        if self.launched_by_cluster:
            strategy = DDPStrategy(timeout=TIMEOUT)
            ranks = TorchElasticEnvironment() if launched_by_torchrun() else SLURMEnvironment(auto_requeue=False)
        elif self.count > 1:
            strategy = DDPStrategy(start_method=self.start_method, timeout=TIMEOUT)
        return self._fabric(devices=self.count, num_nodes=self.num_nodes, strategy=strategy, plugins=[ranks])

    def fabric_of_one(self, rank: Fabric) -> Fabric:
        """Make a Fabric for one rank on its own, with the device that it has."""
        return self._fabric(devices=[rank.device.index] if self.kind == "cuda" else 1, plugins=[OwnProcesses()])

    def _fabric(self, **settings: Any) -> Fabric:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*srun.*available on your system but is not used.*")
            return Fabric(accelerator=self.kind, precision=self.precision, **settings)

    @property
    def start_method(self) -> StartMethod:
        """How the processes of several devices are started."""
        return start_method(self.kind)

    @property
    def launched_by_cluster(self) -> bool:
        """Whether srun or torchrun has already started one process per device."""
        return launched_by_cluster()


class OwnProcesses(LightningEnvironment):
    """The processes that lpft starts itself, on this machine: no variable of the environment says who they are."""

    @property
    def creates_processes_externally(self) -> bool:
        """Whether somebody else has started the ranks."""
        return False

    @property
    def main_address(self) -> str:
        """Address of the first rank."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A port that was free when it was first asked for."""
        if self._main_port == -1:
            with socket.socket() as free:
                free.bind((self.main_address, 0))
                self._main_port = free.getsockname()[1]
        return self._main_port

    def node_rank(self) -> int:
        """Return the number of this machine, the only one."""
        return 0
