"""The jobs of personalization: one per seed, method and stack of clients."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lpft.clients.batches import stacks
from lpft.data.datamodule import FederatedDataModule
from lpft.evaluation.settings import EvaluationSettings
from lpft.methods.base import Method
from lpft.models.base import NetFactory
from lpft.models.weights import load_model
from lpft.personalization.settings import Personalization
from lpft.runtime.devices import Devices
from lpft.runtime.heartbeat import Work
from lpft.runtime.once import log_once
from lpft.runtime.seeding import generator
from lpft.storage.client_result import DamagedFileError
from lpft.storage.run import Run, listed, read_client_result

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
        """The job as the heartbeat shows it."""
        return Work(self.seed, self.method, list(self.names))

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.method}, clients {listed(self.names)}"


@dataclass
class PersonalTask:
    """The personalization of an experiment: all that any process needs to do any part of it. It can be pickled.

    Args:
        run: where global models come from and results go.
        seeds: the seeds.
        data: the clients.
        network: builds the network.
        settings: the section `personalization`.
        methods: the methods, by name.
        devices: the section `trainer`.
        clients_per_stack: the most clients trained as one.
        heads_per_stack: the same for methods that leave the body as it is.
        fingerprints: hash of all that a method's results depend on, by name of the method.
        evaluation: the section `evaluation`.
        own_settings: what some methods have instead of `settings`, by name of the method.
    """

    run: Run
    seeds: list[int]
    data: FederatedDataModule
    network: NetFactory
    settings: Personalization
    methods: dict[str, Method]
    devices: Devices
    clients_per_stack: int
    heads_per_stack: int
    fingerprints: dict[str, str]
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    own_settings: dict[str, Personalization] = field(default_factory=dict)

    def settings_of(self, method: str) -> Personalization:
        """Return the settings that a method is trained with."""
        return self.own_settings.get(method, self.settings)

    def jobs(self, shard: tuple[int, int] = (0, 1)) -> list[Job]:
        """Return the jobs, done or not; the list depends on nothing but the configuration.

        Args:
            shard: ``(i, n)``: only the entries i, i + n, i + 2n, ...
        """
        names = [client.name for client in self.data.clients]
        parts = {method: self.stacks(self.stack_size(method), method) for method in self.methods}
        jobs = [
            Job(seed, method, tuple(part), tuple(names[client] for client in part))
            for seed in self.seeds
            for method in self.methods
            for part in parts[method]
        ]
        return jobs[shard[0] :: shard[1]]

    def drawn_clients(self, seed: int) -> list[int] | None:
        """Draw the clients that all models of a seed are tested on, among those with test samples.

        Returns:
            Their positions, sorted; None for all.
        """
        testable = [position for position, client in enumerate(self.data.clients) if len(client.test)]
        number = self.evaluation.clients
        if number is None or number >= len(testable):
            return None
        order = torch.randperm(len(testable), generator=generator(seed, "evaluation"))
        return sorted(testable[place] for place in order[:number].tolist())

    def stacks(self, size: int, method: str = "") -> list[list[int]]:
        """Return the positions of all clients in stacks of at most `size`, for a method or in general."""
        num_samples = [len(client.train) for client in self.data.clients]
        return stacks(range(len(num_samples)), num_samples, self.settings_of(method).batch_size, size)

    def stack_size(self, method: str) -> int:
        """Return the most clients that a method trains as one."""
        own = self.own_settings.get(method)
        if own is not None and own.clients_per_stack != "auto":
            return own.clients_per_stack
        leaves_body = self.methods[method].leaves_body(self.settings.epochs)
        return self.heads_per_stack if leaves_body else self.clients_per_stack

    def missing(self, job: Job) -> list[int]:
        """Return those clients of a job whose results are missing or damaged."""
        return [client for client in job.clients if self.misses(job, client)]

    def failure(self, job: Job) -> Path:
        """Return the path of the file for the traceback of a failed job."""
        return self.run.failure(job.seed, job.method, job.clients[0])

    def count(self) -> tuple[int, int]:
        """Return the numbers of missing jobs and of all jobs."""
        jobs = self.jobs()
        return sum(bool(self.missing(job)) for job in jobs), len(jobs)

    def misses(self, job: Job, client: int) -> bool:
        """Return whether the result of one client of a job is missing, damaged, or of other settings."""
        return not self._is_done(job, client)

    def _is_done(self, job: Job, client: int) -> bool:
        name = self.data.clients[client].name
        path = self.run.cell(job.seed, job.method, name)
        try:
            if read_client_result(path).fingerprint != self.fingerprints[job.method]:
                return False
            if self.settings.save_models:
                path = self.run.model(job.seed, job.method, name)
                return load_model(path)[1] == self.fingerprints[job.method]
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            log_once(logging.WARNING, f"{path} is damaged ({error}) and is computed again")  # jobs are counted often
            return False
        return True
