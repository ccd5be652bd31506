"""From the global models to every client's result: missing cells -> stacks -> devices; fit, evaluate, save."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer

from lpft.clients.batches import stacks
from lpft.clients.features import GlobalFeatures
from lpft.clients.stack import ClientStack
from lpft.data.datamodule import FederatedDataModule
from lpft.evaluation.depth import distortion_by_depth
from lpft.evaluation.distortion import summarize
from lpft.evaluation.groups import by_group
from lpft.evaluation.matrix import Evaluator, StackEvaluation, share
from lpft.methods.base import Method
from lpft.models.base import BodyHeadNet, NetFactory
from lpft.models.weights import load_model, save_model
from lpft.personalization.module import EpochRecord, Personalizer
from lpft.personalization.settings import Personalization
from lpft.runtime.devices import Devices
from lpft.runtime.heartbeat import Heartbeat, Work
from lpft.runtime.processes import leave_with_parent
from lpft.runtime.progress import Steps
from lpft.runtime.signals import Stopped, got_on, listen, stop_before, stop_requested
from lpft.runtime.slurm import requeue
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.run import Run, listed, read_cell
from lpft.types import State

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class Job:
    """The clients of one stack, to be personalized by one method from one seed's global model.

    Args:
        seed: the seed.
        method: name of the method.
        clients: positions of the clients.
        names: their names.
    """

    seed: int
    method: str
    clients: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def work(self) -> Work:
        """What others are told of it."""
        return Work(self.seed, self.method, list(self.names))

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.method}, clients {listed(self.names)}"


@dataclass
class PersonalTask:
    """The personalization of an experiment: what is needed to do any part of it, in any process.

    Args:
        run: where global models come from and results go.
        seeds: the seeds.
        data: the clients.
        network: builds the network.
        settings: the section `personalization`.
        methods: the methods, by name.
        devices: the section `trainer`.
        clients_per_stack: the most clients trained as one.
        fingerprints: hash of all that a method's results depend on, by name of the method.
        recipe: a function and its arguments that make the task anew, for a process that shares no memory with this one.
    """

    run: Run
    seeds: list[int]
    data: FederatedDataModule
    network: NetFactory
    settings: Personalization
    methods: dict[str, Method]
    devices: Devices
    clients_per_stack: int
    fingerprints: dict[str, str]
    recipe: tuple[Callable[..., Any], tuple[Any, ...]] = field(repr=False)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.recipe

    def jobs(self) -> list[Job]:
        """Return the fixed list of all jobs, done or not; it depends on nothing but the configuration."""
        num_samples = [len(client.train) for client in self.data.clients]
        everyone = range(len(num_samples))
        parts = stacks(everyone, num_samples, self.settings.batch_size, self.clients_per_stack)
        named = [(tuple(part), tuple(self.data.clients[client].name for client in part)) for part in parts]
        return [Job(seed, method, *part) for seed in self.seeds for method in self.methods for part in named]

    def missing(self, job: Job) -> list[int]:
        """Return those clients of a job whose results are not there, or damaged."""
        return [client for client in job.clients if not self._is_done(job, client)]

    def failure(self, job: Job) -> Path:
        """Return the file for what went wrong with a job."""
        return self.run.failure(job.seed, job.method, job.clients[0])

    def count(self) -> tuple[int, int]:
        """Return how many jobs are missing, and how many there are."""
        jobs = self.jobs()
        return sum(bool(self.missing(job)) for job in jobs), len(jobs)

    def _is_done(self, job: Job, client: int) -> bool:
        name = self.data.clients[client].name
        path = self.run.cell(job.seed, job.method, name)
        try:
            if read_cell(path).fingerprint != self.fingerprints[job.method]:
                return False
            if self.settings.save_models:
                path = self.run.model(job.seed, job.method, name)
                return load_model(path)[1] == self.fingerprints[job.method]
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
            return False
        return True


def personalize(task: PersonalTask, shard: tuple[int, int] = (0, 1)) -> list[str]:
    """Compute the results that are missing.

    A failing job does not stop the others.

    Args:
        task: what to do.
        shard: ``(i, n)``: of the fixed list of jobs only the entries i, i + n, i + 2n, ...

    Returns:
        What went wrong, one text per failed job.

    Raises:
        Stopped: if a signal has asked to stop before all was done; what had been begun was finished.
    """
    task.data.setup()
    jobs = [job for job in task.jobs()[shard[0] :: shard[1]] if task.missing(job)]
    failures: list[str] = []
    if jobs and stop_before():
        requeue()
        raise Stopped(failures)
    with Steps("personalize", len(jobs), "stack") as steps, closing(_work(task, jobs)) as work:
        try:
            for job, outcome in work:
                try:
                    text = outcome()
                    task.failure(job).unlink(missing_ok=True)
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    failures.append(_report_failure(task, job, error))
                    text = "FAILED"
                got_on()
                steps.advance(f"seed {job.seed} {job.method}: {text}", len(job.clients))
        except BrokenProcessPool:
            return [*failures, "A worker process was killed (out of memory?); the results so far are kept."]
    if steps.done < len(jobs):
        requeue()
        raise Stopped(failures)
    return failures


def _work(task: PersonalTask, jobs: list[Job]) -> Generator[tuple[Job, Callable[[], str]]]:
    """Yield every job with a function that returns what came out, or raises what went wrong.

    After a signal it begins no other job. Closed before the end, as by Ctrl-C, it ends its processes at once.
    """
    processes = min(task.devices.processes, len(jobs))
    if processes <= 1:
        bench = StackWorker(task, task.devices.device())
        with closing(Heartbeat(task.run)) as heartbeat:
            for job in jobs:
                heartbeat.at([job.work])
                yield job, lambda job=job: bench.do(job)  # type: ignore[misc]
                if stop_requested():
                    return
        return
    context = multiprocessing.get_context("fork" if task.devices.kind == "cpu" else "spawn")
    numbers = context.SimpleQueue()
    for number in range(processes):
        numbers.put(number)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(task, numbers, os.getpid()))
    heartbeat = Heartbeat(task.run)
    try:
        todo = iter(jobs)
        running: dict[Future[str], Job] = {pool.submit(_do, job): job for job in islice(todo, processes)}
        while running:
            heartbeat.at(job.work for job in running.values())
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result
                for job in islice(todo, 0 if stop_requested() else 1):
                    running[pool.submit(_do, job)] = job
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        heartbeat.close()
        pool.shutdown(wait=True, cancel_futures=True)


_bench: StackWorker


def _start_worker(task: PersonalTask, numbers: Any, parent: int) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    leave_with_parent(parent)
    listen()
    torch.set_num_threads(1)
    task.data.setup()
    _bench = StackWorker(task, task.devices.device(numbers.get()))


def _do(job: Job) -> str:
    return _bench.do(job)


def _report_failure(task: PersonalTask, job: Job, error: Exception) -> str:
    path = task.failure(job)
    try:
        text = "".join(traceback.format_exception(error))
        task.run.write_failure(path, job.seed, job.method, job.names, text)
    except OSError:  # a full disk: it would be the same with every other job
        raise error from None
    return f"{job}: {type(error).__name__}: {error} (details: {path})"


class StackWorker:
    """One device of one process, with the global model it works on.

    Args:
        task: what to do.
        device: the device.
    """

    def __init__(self, task: PersonalTask, device: torch.device) -> None:
        self.task = task
        self.device = device
        self._seed: int | None = None

    def do(self, job: Job) -> str:
        """Personalize the clients of a stack and write the results that are missing; return a summary."""
        if not self.task.missing(job):
            return "done elsewhere"
        began = time.perf_counter()
        self._take_global_model(job.seed)
        method = self.task.methods[job.method]
        trainable = bool(method.phases(self.task.settings.epochs)) and bool(len(self._clients(job)[0].train))
        stack, records, passes, probed = self._fit(job, method) if trainable else self._untrained(job)
        results = StackResults.of(self.evaluator, stack, job.clients, probed)
        shown = self._epochs(results, records)
        missing = self.task.missing(job)
        seconds = (time.perf_counter() - began) / len(job.clients)
        for k, client in enumerate(job.clients):
            if client in missing:
                cell = self._cell(job, results, k, shown[k], passes[k], seconds)
                self._save(cell, results.states[k])
        local = torch.stack([results.accuracy[k, client] for k, client in enumerate(job.clients)])
        return f"local {float(local.nanmean()):.2f}%  global {float(results.accuracy.nanmean()):.2f}%"

    def _take_global_model(self, seed: int) -> None:
        if seed == self._seed:
            return
        task = self.task
        path = task.run.global_model(seed)
        state, _ = load_model(path)
        net = task.network(task.data.spec).to(task.devices.dtype)
        net.load_state_dict(state)
        self.features = GlobalFeatures(net, task.data, self.device)
        self.evaluator = Evaluator(self.features)
        self._seed = seed

    def _fit(self, job: Job, method: Method) -> tuple[ClientStack, list[EpochRecord], list[float], bool]:
        settings = self.task.settings
        module = Personalizer(
            self.features, list(job.clients), method, settings, job.seed, lambda *args: self.evaluator.test(*args)
        )
        trainer = self._trainer(job, module.num_epochs)
        with quietly(), _interruptible(trainer), torch.random.fork_rng(devices=[]):
            trainer.fit(module)
        module.to(self.device)
        return module.stack, module.records, module.train_passes, module.body_is_global

    def _trainer(self, job: Job, epochs: int) -> Trainer:
        devices = self.task.devices
        return Trainer(
            accelerator=devices.kind,
            devices=1 if self.device.index is None else [self.device.index],
            precision=devices.precision,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.task.run.method_file(job.seed, job.method, ""),
            plugins=[LightningEnvironment()],
        )

    def _untrained(self, job: Job) -> tuple[ClientStack, list[EpochRecord], list[float], bool]:
        num_clients = len(job.clients)
        return ClientStack(self.features.net, num_clients).to(self.device), [], [0.0] * num_clients, True

    def _clients(self, job: Job) -> list[Any]:
        return [self.task.data.clients[client] for client in job.clients]

    def _epochs(self, results: StackResults, records: list[EpochRecord]) -> list[list[dict[str, Any]]]:
        """Return each client's list of epochs: theta_G, the recorded epochs, with the final test in the last."""
        evaluator, every = self.evaluator, self.task.settings.eval_every
        num_clients = len(results.clients)
        start = EpochRecord(0, "start", None, None, [math.nan] * num_clients)
        if every:
            same, hits = evaluator.global_accuracy, evaluator.global_evaluation.group_hits
            same, hits = same.expand(num_clients, -1), hits.expand(num_clients, -1, -1)
            start.evaluation = StackEvaluation(same, torch.zeros_like(same), hits)
            if records:
                records[-1].evaluation = StackEvaluation(results.accuracy, results.distortion, results.group_hits)
        return [[_epoch(record, k, client) for record in [start, *records]] for k, client in enumerate(results.clients)]

    def _cell(
        self, job: Job, results: StackResults, k: int, epochs: list[dict[str, Any]], passes: float, seconds: float
    ) -> ClientResult:
        task, client = self.task, self.task.data.clients[job.clients[k]]
        own = job.clients[k]
        norm = float(self.evaluator.global_norms[own])
        num_test = torch.tensor([len(other.test) for other in task.data.clients])
        status = _status(results.finite[k], len(client.train), len(client.test))
        figures: tuple[float | None, ...] = (None, None, None)
        if status != "diverged":
            figures = summarize(results.distortion[k], own, num_test, norm)
        return ClientResult(
            seed=job.seed,
            method=job.method,
            client=client.name,
            fingerprint=task.fingerprints[job.method],
            status=status,
            clients=[other.name for other in task.data.clients],
            accuracy=[_number(a) for a in results.accuracy[k].tolist()],
            local_before=_number(float(self.evaluator.global_accuracy[own])),
            val_before=_number(results.val_before[k]),
            val_after=_number(results.val_after[k]),
            distortion_own=_number(figures[0]),
            distortion_all=_number(figures[1]),
            distortion_relative=_number(figures[2]),
            num_train=len(client.train),
            num_val=len(client.val),
            num_test=len(client.test),
            train_passes=passes * len(client.train),
            seconds=seconds,
            clients_per_stack=task.clients_per_stack,
            device=self.device.type,
            epochs=epochs,
            train_accuracy=_number(results.train_accuracy[k]),
            val_gained=results.val_gained[k],
            val_lost=results.val_lost[k],
            val_global=_number(results.val_global[k]),
            num_classes=task.data.spec.num_classes,
            num_train_classes=len(self.features.samples.labels(client.train).unique()),
            groups=self._by_group(results.group_hits[k], own),
            depth=None
            if results.probed or status in ("diverged", "no_test")
            else self._by_depth(results.states[k], own),
        )

    def _by_group(self, hits: torch.Tensor, own: int) -> dict[str, Any] | None:
        names = self.task.data.group_names
        return by_group(names, hits.numpy(), self.evaluator.group_sizes.numpy(), own) if names else None

    def _by_depth(self, state: State, own: int) -> dict[str, float | None] | None:
        try:
            found = distortion_by_depth(self.features, state, self.task.data.clients[own].test)
        except Exception as error:  # networks can be anything, and a diagnosis must not cost what was trained
            log.warning("Distortion by depth cannot be computed: %s: %s", type(error).__name__, error)
            return None
        return {name: _number(value) for name, value in found.items()}

    def _save(self, cell: ClientResult, state: State) -> None:
        run = self.task.run
        if self.task.settings.save_models:
            save_model(run.model(cell.seed, cell.method, cell.client), state, cell.fingerprint)
        write_atomically(run.cell(cell.seed, cell.method, cell.client), cell.to_json())  # last: it means done


@dataclass
class StackResults:
    """What came out for the clients of a stack; theta_G has taken the place of networks that have diverged.

    Args:
        clients: positions of the K clients.
        states: the personalized networks.
        finite: whether each network is finite; False means diverged.
        probed: whether all bodies are theta_G's.
        accuracy: percent, ``(K, C)``.
        distortion: mean distance of features over each client's test samples, ``(K, C)``.
        group_hits: number of correct predictions per client and group, int64, ``(K, C, G)``.
        val_before: theta_G's accuracy on each client's validation set, percent.
        val_after: the personalized network's.
        val_gained: number of validation samples that only the personalized network gets right.
        val_lost: number of those that only theta_G gets right.
        train_accuracy: the personalized network's accuracy on each client's training samples, percent.
        val_global: its mean accuracy over the validation sets of all clients, percent.
    """

    clients: Sequence[int]
    states: list[State]
    finite: list[bool]
    probed: bool
    accuracy: torch.Tensor
    distortion: torch.Tensor
    group_hits: torch.Tensor
    val_before: list[float]
    val_after: list[float]
    val_gained: list[int]
    val_lost: list[int]
    train_accuracy: list[float]
    val_global: list[float]

    @classmethod
    def of(cls, evaluator: Evaluator, stack: ClientStack, clients: Sequence[int], probed: bool) -> StackResults:
        """Replace networks that have diverged, and test the stack."""
        net = evaluator.global_features.net
        finite = stack.finite()
        for name, tensor in {**stack.params(), **stack.net_buffers()}.items():
            mine = net.get_parameter(name) if name in dict(net.named_parameters()) else net.get_buffer(name)
            keep = finite.view(-1, *[1] * mine.dim())
            stack.write({name: torch.where(keep, tensor.detach(), mine.detach())})
        probed = probed and _has_body_of(stack, net)  # what a method says of itself is not taken on trust
        result = evaluator.test(stack, probed)
        known = evaluator.global_features
        train = [evaluator.clients[client].train for client in clients]
        val = [evaluator.clients[client].val for client in clients]
        stored = evaluator.features_of(val)
        before = evaluator.hits(ClientStack(net, len(clients)).to(evaluator.device), val, stored)
        after = evaluator.hits(stack, val, stored if probed else None)
        return cls(
            clients,
            stack.states(),
            finite.tolist(),
            probed,
            result.accuracy,
            result.distortion,
            result.group_hits,
            share(before).tolist(),
            share(after).tolist(),
            [int((a & ~b).sum()) for a, b in zip(after, before, strict=True)],
            [int((b & ~a).sum()) for a, b in zip(after, before, strict=True)],
            share(evaluator.hits(stack, train, known.stacked(list(clients)) if probed else None)).tolist(),
            evaluator.on_val.test(stack, probed).accuracy.nanmean(dim=1).tolist(),
        )


def _has_body_of(stack: ClientStack, net: BodyHeadNet) -> bool:
    """Tell whether the bodies of a stack, their buffers included, are a network's, bit for bit."""
    state = net.state_dict()
    tensors = {**stack.params(), **stack.net_buffers()}
    return all(bool((t == state[name]).all()) for name, t in tensors.items() if name.startswith("body."))


def _epoch(record: EpochRecord, k: int, client: int) -> dict[str, Any]:
    """Return one client's share of an epoch's record."""
    row: dict[str, Any] = {"epoch": record.epoch, "phase": record.phase}
    row |= {"lr_head": record.lr_head, "lr_body": record.lr_body, "train_loss": _number(record.train_loss[k])}
    if record.evaluation is not None:
        accuracy = record.evaluation.accuracy[k].numpy()
        others = [a for j, a in enumerate(accuracy.tolist()) if j != client and a == a]
        row["local"] = _number(float(accuracy[client]))
        row["global_all"] = _number(float(record.evaluation.accuracy[k].nanmean()))
        row["worst"] = min(others) if others else None
        row["distortion"] = _number(float(record.evaluation.distortion[k, client]))
    return row


def _status(finite: bool, num_train: int, num_test: int) -> str:
    if not finite:
        return "diverged"
    if not num_train:
        return "no_train"
    return "ok" if num_test else "no_test"


def _number(value: float | None) -> float | None:
    """Return None for what JSON cannot hold: NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, where the Trainer ignores it from then on, and exits."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def quietly() -> Iterator[None]:
    """Silence what the Trainer says about the choices that are made here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
