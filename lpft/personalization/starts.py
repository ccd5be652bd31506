"""Initial networks of methods, and results shared by the runs of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from lpft.models.base import BodyHeadNet, build_network
from lpft.models.weights import load_model
from lpft.personalization.jobs import Job, PersonalTask
from lpft.storage.run import CLIENTS
from lpft.types import State

log = logging.getLogger("lpft")


def start_network(task: PersonalTask, job: Job, global_net: BodyHeadNet) -> BodyHeadNet:
    """Return the network that a job's method starts from, according to `Method.start`.

    Raises:
        FileNotFoundError: if its file does not exist.
    """
    start = task.methods[job.method].start
    if start == "global":
        return global_net
    net = build_network(task.network, task.data.spec, task.devices.dtype, job.seed)
    if start != "initial":
        state, _ = load_model(task.run.reference(job.method).global_model(job.seed))
        net.load_state_dict(state)
    return net.to(global_net.head.weight.device).to(memory_format=torch.channels_last).eval()


def own_entries(task: PersonalTask, job: Job, net: BodyHeadNet) -> State:
    """Return the unshared entries of a job's clients from the method's own federated training, each ``(K, ...)``.

    Args:
        task: the personalization of the experiment.
        job: the job.
        net: the global model of that training; clients that took no part get its entries.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    saved, _ = load_model(task.run.reference(job.method).client_models(job.seed))
    participants = [client.name for client in task.data.participants().clients]
    rows = {participants[client]: row for row, client in enumerate(saved.pop(CLIENTS).tolist())}
    start = net.state_dict()
    return {
        name: torch.stack(
            [own[rows[client]].to(start[name]) if client in rows else start[name] for client in job.names]
        )
        for name, own in saved.items()
    }


def reuse_references(task: PersonalTask, siblings: Iterable[PersonalTask]) -> None:
    """Copy missing results of references from other runs with the same settings.

    References do not depend on the settings of personalization, so the runs of a sweep over these share them.
    """
    references = [name for name, method in task.methods.items() if method.start != "global"]
    missing = [(job, client) for job in task.jobs() if job.method in references for client in task.missing(job)]
    if not missing:
        return
    for other in siblings:
        for job, client in missing:
            name, alike = job.method, other.fingerprints.get(job.method) == task.fingerprints[job.method]
            if alike and other.run.root != task.run.root and task.missing(job) and not other.misses(job, client):
                task.run.copy_result(other.run, job.seed, name, task.data.clients[client].name)
