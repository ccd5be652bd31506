"""The federated stage: train the global model of every seed, on all ranks, and save it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace

import torch
from lightning.fabric import Fabric
from torch import distributed

from lpft.data.datamodule import FederatedDataModule
from lpft.federated.fedavg import FedAvg, any_rank, gathered
from lpft.federated.files import GlobalModelFiles, Logs
from lpft.federated.settings import Federation
from lpft.models.base import NetFactory, build_network
from lpft.models.weights import DamagedFileError, load_model
from lpft.runtime.devices import Devices
from lpft.runtime.heartbeat import Heartbeat, Work
from lpft.runtime.processes import ending_children
from lpft.runtime.progress import Steps
from lpft.runtime.signals import Stopped, ignore, listen, note_progress, restore_default_handlers, stop_before
from lpft.runtime.slurm import requeue
from lpft.storage.run import Run

log = logging.getLogger("lpft")


@dataclass
class GlobalTask:
    """The training of the global models of an experiment; can be sent to other processes.

    Args:
        run: the run that the models belong to.
        seeds: seeds of the models, one model each.
        data: the clients.
        network: builds the network.
        settings: the section `federation`.
        devices: the section `trainer`.
        clients_per_stack: maximum number of clients in a stack.
        fingerprint: hash of all settings that the models depend on.
        title: label of the progress bar.
    """

    run: Run
    seeds: list[int]
    data: FederatedDataModule
    network: NetFactory
    settings: Federation
    devices: Devices
    clients_per_stack: int
    fingerprint: str
    title: str = "federate"


def train_global_models(task: GlobalTask, logs: Logs | None = None, siblings: Iterable[GlobalTask] = ()) -> list[str]:
    """Train the missing global models, each from its last checkpoint if there is one.

    Args:
        task: the training.
        logs: receives the history after every round; picklable.
        siblings: other tasks; their global models are copied if settings and data are the same.

    Returns:
        Error messages, one per failed seed.

    Raises:
        Stopped: if a signal stopped the training.
    """
    _reuse_global_models(task, siblings)
    missing = [seed for seed in task.seeds if not is_done(task, seed)]
    if not missing:
        return []
    task.data.setup()
    fabric = task.devices.fabric()
    failures: list[str]
    try:
        with ending_children():
            failures, stopped = fabric.launch(_train_seeds, task, missing, logs)  # type: ignore[arg-type]
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException) as error:
        return [f"A process has ended: {error}"]
    if stopped:
        ignore()
        if fabric.is_global_zero:
            requeue()
    if distributed.is_initialized():  # this process is a rank itself
        fabric.barrier()  # as soon as one rank has left, srun ends the others
        distributed.destroy_process_group()  # at its exit, threads left over could abort it
    if stopped:
        raise Stopped(failures)
    note_progress()  # the rounds were perhaps those of other processes
    return failures


def is_done(task: GlobalTask, seed: int) -> bool:
    """Return whether the global model of a seed exists and is intact."""
    algorithm, path = task.settings.algorithm, task.run.global_model(seed)
    try:
        done = load_model(path)[1] == task.fingerprint
        if done and algorithm is not None and algorithm.personalizes and task.settings.init is None:
            path = task.run.client_models(seed)
            done = load_model(path)[1] == task.fingerprint
        return done
    except FileNotFoundError:
        return False
    except DamagedFileError as error:
        log.warning("%s is damaged (%s) and is trained again", path, error)
        return False


def _reuse_global_models(task: GlobalTask, siblings: Iterable[GlobalTask]) -> None:
    """Copy missing global models from runs that trained them with the same settings and data.

    The runs of a sweep over keys of personalization share their global models. Ranks started by a cluster do not copy:
    each of them would check on its own, and a network file system may differ between machines.
    """
    if task.devices.launched_by_cluster:
        return
    alike = [other for other in siblings if other.fingerprint == task.fingerprint and other.run.root != task.run.root]
    for seed in task.seeds if alike else ():
        if not is_done(task, seed):
            source = next((other for other in alike if is_done(other, seed)), None)
            if source is not None:
                task.run.copy_global_model(source.run, seed)
                log.info("seed %d: the global model is that of %s", seed, source.run.root)


def _train_seeds(fabric: Fabric, task: GlobalTask, seeds: list[int], logs: Logs | None) -> tuple[list[str], bool]:
    """Train the seeds on this rank; return error messages, and whether a signal stopped the training.

    Ranks cannot share a round of a single client, such as the pooled data. So each rank that lpft started trains other
    seeds. (Ranks started by a cluster may not all receive a signal; the ones that do would wait for the others.)
    """
    torch.set_num_threads(1)
    own_processes = fabric.world_size > 1 and not task.devices.launched_by_cluster
    if own_processes:
        restore_default_handlers()
        listen()
    task.data.setup()
    with closing(Heartbeat(task.run)) as heartbeat, closing(logs) if logs else nullcontext():
        if own_processes and len(seeds) > 1 and len(task.data.clients) == 1:
            task = replace(task, title=f"{task.title}, {min(fabric.world_size, len(seeds))} at a time,")
            own, shown = seeds[fabric.global_rank :: fabric.world_size], fabric.is_global_zero
            ends = gathered(fabric, _train_each(task.devices.fabric_of_one(fabric), task, own, logs, heartbeat, shown))
            fabric.barrier()
            return [failure for failed, _ in ends for failure in failed], any(stopped for _, stopped in ends)
        return _train_each(fabric, task, seeds, logs, heartbeat, fabric.is_global_zero)


def _train_each(
    fabric: Fabric, task: GlobalTask, seeds: list[int], logs: Logs | None, heartbeat: Heartbeat, shown: bool
) -> tuple[list[str], bool]:
    """Train seeds one at a time; return error messages, and whether a signal stopped the training."""
    failures: list[str] = []
    stopped = False
    for seed in seeds:
        if fabric.is_global_zero:
            heartbeat.set_work([Work(seed, "global", [])])
        try:
            stopped = any_rank(fabric, stop_before()) or not _train_seed(fabric, task, seed, logs, shown)
        except FloatingPointError as error:  # on all ranks at once, since all know the same sum
            failures.append(str(error))
            if fabric.is_global_zero:
                _note_failure(task, seed, str(error))
        except OSError as error:  # a full disk: it would be the same with every other seed
            return [*failures, str(error)], False
        else:
            if stopped:
                break
            if fabric.is_global_zero:
                _note_failure(task, seed, None)
    fabric.barrier()  # nobody leaves while another still needs the connections
    return failures, stopped


def _train_seed(fabric: Fabric, task: GlobalTask, seed: int, logs: Logs | None, shown: bool) -> bool:
    """Train the global model of a seed; return whether all rounds are finished."""
    steps = Steps(f"{task.title} seed {seed}", task.settings.rounds, "round", shown)
    files = GlobalModelFiles(fabric, task.run, seed, task.fingerprint, steps, logs)
    net = build_network(task.network, task.data.spec, task.devices.dtype, seed)
    if task.settings.init is not None:
        files.take({**net.state_dict(), **task.settings.read_init(net)})
        return True
    return FedAvg(fabric, net, task.data, task.settings, task.clients_per_stack, seed).fit(files)


def _note_failure(task: GlobalTask, seed: int, error: str | None) -> None:
    """Record an error, or success, for `lpft status`; training does not depend on this file."""
    path = task.run.failure(seed, "global")
    with suppress(OSError):
        if error is None:
            path.unlink(missing_ok=True)
        else:
            task.run.write_failure(path, seed, "global", [], error)
