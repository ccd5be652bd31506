"""From an experiment to the global model of each seed, on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import distributed

from lpft.data.datamodule import FederatedDataModule
from lpft.federated.checkpoint import Checkpoint
from lpft.federated.fedavg import FedAvg, any_rank
from lpft.federated.settings import Federation
from lpft.models.base import BodyHeadNet, NetFactory, check_network
from lpft.models.weights import DamagedFileError, load_model, save_model
from lpft.runtime.devices import Devices
from lpft.runtime.heartbeat import Heartbeat, Work
from lpft.runtime.processes import leave_with_parent
from lpft.runtime.progress import Steps
from lpft.runtime.seeding import global_generator
from lpft.runtime.signals import Stopped, got_on, listen, stop_before, stop_requested
from lpft.runtime.slurm import requeue
from lpft.storage.run import Run

log = logging.getLogger("lpft")


@dataclass
class GlobalTask:
    """The global models of an experiment: what is needed to train them, in any process.

    Args:
        run: where they go.
        seeds: one global model each.
        data: the clients.
        network: builds the network.
        settings: the section `federation`.
        devices: the section `trainer`.
        clients_per_stack: the most clients trained as one.
        fingerprint: hash of all that the global models depend on.
        recipe: a function and its arguments that make the task anew, for a process that shares no memory with this one.
    """

    run: Run
    seeds: list[int]
    data: FederatedDataModule
    network: NetFactory
    settings: Federation
    devices: Devices
    clients_per_stack: int
    fingerprint: str
    recipe: tuple[Callable[..., Any], tuple[Any, ...]] = field(repr=False)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.recipe


def federate(task: GlobalTask) -> list[str]:
    """Train the global models that are missing; go on from the last round where there is a checkpoint.

    Returns:
        What went wrong, one text per seed that has failed.

    Raises:
        Stopped: if a signal has asked to stop before all was done.
    """
    missing = [seed for seed in task.seeds if not is_done(task, seed)]
    if not missing:
        return []
    task.data.setup()
    fabric = task.devices.fabric()
    failures: list[str]
    failures, stopped = fabric.launch(_on_every_rank, task, missing, os.getpid())  # type: ignore[arg-type]
    if distributed.is_initialized():  # this process is a rank itself; at its exit, threads left over could abort it
        distributed.destroy_process_group()
    if stopped:
        raise Stopped(failures)
    got_on()  # the rounds were perhaps those of other processes
    return failures


def is_done(task: GlobalTask, seed: int) -> bool:
    """Tell whether a seed's global model is there and whole."""
    path = task.run.global_model(seed)
    try:
        return load_model(path)[1] == task.fingerprint
    except FileNotFoundError:
        return False
    except DamagedFileError as error:
        log.warning("%s is damaged (%s) and is made again", path, error)
        return False


def take_trained(task: GlobalTask, others: Iterable[GlobalTask]) -> None:
    """Copy the global models that are missing from runs that have trained them with the same settings and data.

    The points of a sweep over the personalization's keys share theirs in this way. Ranks that a cluster has started
    share none: each would look for itself, and files of a network may look different from different machines.
    """
    if task.devices.launched_by_cluster:
        return
    alike = [other for other in others if other.fingerprint == task.fingerprint and other.run.root != task.run.root]
    for seed in task.seeds if alike else ():
        if not is_done(task, seed):
            source = next((other for other in alike if is_done(other, seed)), None)
            if source is not None:
                task.run.take_global_model(source.run, seed)
                log.info("seed %d: the global model is that of %s", seed, source.run.root)


def build_network(network: NetFactory, data: FederatedDataModule, devices: Devices, seed: int) -> BodyHeadNet:
    """Build the network of a seed; its initial values depend on the seed alone.

    Raises:
        ValueError: if it is not made of a body and a linear head alone.
    """
    with global_generator(seed, "network"):
        net = network(data.spec)
    check_network(net)
    return net.to(devices.dtype)


def _on_every_rank(fabric: Fabric, task: GlobalTask, seeds: list[int], parent: int) -> tuple[list[str], bool]:
    """Train the seeds; return what went wrong, and whether a signal has stopped it."""
    torch.set_num_threads(1)
    if fabric.world_size > 1 and not task.devices.launched_by_cluster:
        leave_with_parent(parent)
        listen()
    task.data.setup()
    failures: list[str] = []
    with closing(Heartbeat(task.run)) as heartbeat:
        for seed in seeds:
            if fabric.is_global_zero:
                heartbeat.at([Work(seed, "global", [])])
            try:
                finished = not any_rank(fabric, stop_before()) and _one_seed(fabric, task, seed)
            except FloatingPointError as error:  # on all ranks at once, since all know the same sum
                failures.append(str(error))
                if fabric.is_global_zero:
                    _note_failure(task, seed, str(error))
                continue
            except OSError as error:  # a full disk: it would be the same with every other seed
                return [*failures, str(error)], False
            if not finished:
                if fabric.is_global_zero:
                    requeue()
                fabric.barrier()  # as soon as one rank has left, srun ends the others
                return failures, True
            if fabric.is_global_zero:
                _note_failure(task, seed, None)
    fabric.barrier()  # nobody leaves while another still needs the connections
    return failures, False


def _note_failure(task: GlobalTask, seed: int, error: str | None) -> None:
    """Note for `lpft status` what went wrong, or that all went well; training does not depend on it."""
    path = task.run.failure(seed, "global")
    with suppress(OSError):
        if error is None:
            path.unlink(missing_ok=True)
        else:
            task.run.write_failure(path, seed, "global", [], error)


def _one_seed(fabric: Fabric, task: GlobalTask, seed: int) -> bool:
    """Train one global model; return False if a signal has stopped it before the last round.

    Raises:
        OSError: on every rank, if a file cannot be written.
    """
    net = build_network(task.network, task.data, task.devices, seed)
    writer = _FirstRank(fabric)
    if task.settings.init is not None:
        writer.do(lambda: _take_model(task, seed, net))
        writer.agree()
        return True
    checkpoint_file, history_file = (task.run.global_file(seed, name) for name in ("checkpoint.pt", "history.csv"))
    # One rank reads, since files of a network may look different from different machines.
    start = fabric.broadcast(_load_checkpoint(checkpoint_file, task.fingerprint) if fabric.is_global_zero else None)
    steps = Steps(
        f"federate seed {seed}", task.settings.rounds, "round", fabric.is_global_zero, start.round if start else 0
    )

    def save_round(now: Checkpoint) -> None:
        now.save(checkpoint_file, task.fingerprint)
        now.write_history(history_file)
        last = now.history[-1]
        steps.advance(f"train loss {last.train_loss:.4f}  val accuracy {last.val_accuracy:.2f}%", last.num_clients)

    def save_end(end: Checkpoint) -> None:
        end.write_history(history_file)
        save_model(task.run.global_model(seed), end.state, task.fingerprint)
        checkpoint_file.unlink(missing_ok=True)

    with steps:
        fedavg = FedAvg(fabric, net, task.data, task.settings, task.clients_per_stack, seed)
        end = fedavg.fit(
            start,
            after_round=lambda now: writer.do(lambda: save_round(now)),
            stopping=lambda: writer.has_failed or stop_requested(),
        )
    finished = end.round == task.settings.rounds
    if finished:
        writer.do(lambda: save_end(end))
    writer.agree()
    return finished


class _FirstRank:
    """The rank that alone writes. Where it cannot, all ranks have to end together: the others would wait for it."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.problem: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether this rank could not write."""
        return self.problem is not None

    def do(self, write: Callable[[], None]) -> None:
        """Write, on the first rank; after a failure nothing more."""
        if self.fabric.is_global_zero and not self.has_failed:
            try:
                write()
            except OSError as error:
                self.problem = str(error)

    def agree(self) -> None:
        """Raise OSError on every rank if the first one could not write."""
        problem = self.fabric.broadcast(self.problem)
        if problem is not None:
            raise OSError(problem)


def _take_model(task: GlobalTask, seed: int, net: BodyHeadNet) -> None:
    """Let a model that comes from elsewhere be the global model; remove what is left of one that was trained here."""
    state = {**net.state_dict(), **task.settings.read_init(net)}
    for pattern in ("checkpoint.pt", "history.csv", "events.out.tfevents.*"):
        for path in task.run.global_model(seed).parent.glob(pattern):
            path.unlink()
    save_model(task.run.global_model(seed), state, task.fingerprint)


def _load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    if not path.exists():
        return None
    try:
        checkpoint, made_with = Checkpoint.load(path)
    except DamagedFileError as error:
        log.warning("%s is damaged (%s) and is left out: training starts at round 1", path, error)
        return None
    return checkpoint if made_with == fingerprint else None
