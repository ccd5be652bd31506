"""Which devices and processes do the work."""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment

from lpft.runtime import slurm
from lpft.runtime.processes import available_cores

PRECISIONS = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
}
"""Type of the parameters in each precision."""


class Devices:
    """Devices that a command may use: four of the Lightning Trainer's settings.

    Args:
        accelerator: `cpu` or `cuda`; `auto` takes the GPUs if there are any.
        devices: number of devices on each node; `auto` is the number of processes that srun or torchrun started,
            otherwise of GPUs, or of cores that this process may use.
        num_nodes: number of machines; more than one under srun or torchrun only.
        precision: `32-true`, `64-true`, `bf16-mixed` or `bf16-true`.

    Only `check` refuses devices, so that work for other machines can be counted on this one.
    """

    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "cuda", "gpu"] = "auto",
        devices: PositiveInt | Literal["auto"] = "auto",
        num_nodes: PositiveInt = 1,
        precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true",
    ) -> None:
        has_gpu = torch.cuda.is_available()
        self.kind = "cuda" if accelerator in ("cuda", "gpu") or (has_gpu and accelerator == "auto") else "cpu"
        self.available = torch.cuda.device_count() if self.kind == "cuda" else available_cores()
        self.count: int = (launched_here() or self.available) if devices == "auto" else devices
        self.accelerator = accelerator
        self.num_nodes: int = num_nodes
        self.precision = precision

    def check(self) -> None:
        """Raise ValueError if this machine lacks the devices, or Slurm started another number of tasks."""
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

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return PRECISIONS[self.precision]

    @property
    def processes(self) -> int:
        """How many processes train stacks at the same time on this machine."""
        return self.count

    def device(self, number: int = 0) -> torch.device:
        """Return one of the devices."""
        return torch.device(self.kind, number) if self.kind == "cuda" else torch.device("cpu")

    def fabric(self) -> Fabric:
        """Make the Fabric of federated training; with one device it starts no process."""
        plugins: list[Any] = [LightningEnvironment()]
        if self.launched_by_cluster:
            strategy, plugins = "ddp", []
        elif self.count == 1:
            strategy = "auto"
        else:
            strategy = "ddp_fork" if self.kind == "cpu" else "ddp_spawn"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*srun.*available on your system but is not used.*")
            return Fabric(
                accelerator=self.kind,
                devices=self.count,
                num_nodes=self.num_nodes,
                strategy=strategy,
                precision=self.precision,
                plugins=plugins,
            )

    @property
    def launched_by_cluster(self) -> bool:
        """Whether srun or torchrun has already started one process per device."""
        return slurm.num_tasks() > 1 or "TORCHELASTIC_RUN_ID" in os.environ


def launched_here() -> int | None:
    """Return how many processes srun or torchrun have started on this machine; None if they have not."""
    if slurm.num_tasks() > 1:
        return int(os.environ.get("SLURM_NTASKS_PER_NODE", 0)) or None
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or None if "TORCHELASTIC_RUN_ID" in os.environ else None
