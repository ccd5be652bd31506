"""From a trained stack to one result per client."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lpft.clients.stack import ClientStack
from lpft.evaluation.depth import distortion_by_depth
from lpft.evaluation.distortion import summarize
from lpft.evaluation.groups import by_group
from lpft.evaluation.matrix import Evaluator, StackEvaluation, share
from lpft.models.base import BodyHeadNet
from lpft.personalization.jobs import Job, PersonalTask
from lpft.personalization.module import EpochRecord
from lpft.storage.client_result import ClientResult
from lpft.types import State

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class TrainedStack:
    """What training returns for the K clients of a stack.

    Args:
        stack: the personalized networks.
        start: the network that they started from; it takes the place of networks that have diverged.
        records: one per epoch.
        train_passes: each client's cost per training sample.
    """

    stack: ClientStack
    start: BodyHeadNet
    records: list[EpochRecord]
    train_passes: list[float]


@dataclass(frozen=True)
class EvaluatedStack:
    """How the K networks of a stack do; those that have diverged are replaced by their start.

    Args:
        states: the networks.
        start: the network that they started from.
        finite: whether each network is finite; False means diverged.
        shares_body: whether only heads differ from the global model.
        test: on the test sets of all clients.
        val_global: mean accuracy over the validation sets of all clients, percent, ``(K,)``.
        val_before: whether the global model is right about each client's validation samples, K tensors ``(n,)``.
        val_after: the same of the personalized network.
        train: whether the personalized network is right about each client's training samples.
    """

    states: list[State]
    start: BodyHeadNet
    finite: list[bool]
    shares_body: bool
    test: StackEvaluation
    val_global: Tensor
    val_before: list[Tensor]
    val_after: list[Tensor]
    train: list[Tensor]


def evaluate_stack(evaluator: Evaluator, trained: TrainedStack, clients: Sequence[int]) -> EvaluatedStack:
    """Replace networks that have diverged, and test the stack.

    Args:
        evaluator: tests against the global model.
        trained: the stack.
        clients: positions of its clients.
    """
    stack, features = trained.stack, evaluator.global_features
    finite = stack.finite()
    start = trained.start.state_dict()
    for name, tensor in {**stack.params(), **stack.net_buffers()}.items():
        keep = finite.view(-1, *[1] * start[name].dim())
        stack.write({name: torch.where(keep, tensor.detach(), start[name])})
    shares_body = evaluator.shares_body(stack)
    train = [evaluator.clients[client].train for client in clients]
    val = [evaluator.clients[client].val for client in clients]
    val_features = evaluator.features_of(val)
    global_stack = ClientStack(features.net, len(clients)).to(evaluator.device)
    return EvaluatedStack(
        states=stack.states(),
        start=trained.start,
        finite=finite.tolist(),
        shares_body=shares_body,
        test=evaluator.test(stack),
        val_global=evaluator.on_val.test(stack).accuracy.nanmean(dim=1),
        val_before=evaluator.hits(global_stack, val, val_features),
        val_after=evaluator.hits(stack, val, val_features if shares_body else None),
        train=evaluator.hits(stack, train, features.stacked(list(clients)) if shares_body else None),
    )


def client_result(
    task: PersonalTask, job: Job, k: int, trained: TrainedStack, evaluated: EvaluatedStack, evaluator: Evaluator
) -> ClientResult:
    """Return the result of the k-th client of a job; it lacks the time, ``seconds``."""
    position = job.clients[k]
    client = task.data.clients[position]
    status = _status(evaluated.finite[k], len(client.train), len(client.test))
    own, everywhere, relative = _distortion(task, evaluator, evaluated, k, position, status)
    before, after = evaluated.val_before[k], evaluated.val_after[k]
    only_heads = evaluated.shares_body and all(record.phase == "LP" for record in trained.records)
    return ClientResult(
        seed=job.seed,
        method=job.method,
        client=client.name,
        fingerprint=task.fingerprints[job.method],
        status=status,
        clients=[other.name for other in task.data.clients],
        accuracy=[_number(a) for a in evaluated.test.accuracy[k].tolist()],
        local_before=_number(float(evaluator.global_accuracy[position])),
        val_before=_percent(before),
        val_after=_percent(after),
        distortion_own=own,
        distortion_all=everywhere,
        distortion_relative=relative,
        num_train=len(client.train),
        num_val=len(client.val),
        num_test=len(client.test),
        train_passes=trained.train_passes[k] * len(client.train),
        seconds=0.0,
        clients_per_stack=task.clients_per_stack,
        device=evaluator.device.type,
        epochs=_epochs(task, trained.records, evaluated, evaluator, k, position),
        train_accuracy=_percent(evaluated.train[k]),
        val_gained=int((after & ~before).sum()),
        val_lost=int((before & ~after).sum()),
        val_global=_number(float(evaluated.val_global[k])),
        num_classes=task.data.spec.num_classes,
        num_train_classes=len(task.data.labels[client.train].unique()),
        groups=_by_group(task, evaluator, evaluated, k, position),
        depth=None
        if only_heads or status in ("diverged", "no_test")
        else _by_depth(task, evaluator, evaluated, k, position),
    )


def _distortion(
    task: PersonalTask, evaluator: Evaluator, evaluated: EvaluatedStack, k: int, position: int, status: str
) -> tuple[float | None, float | None, float | None]:
    """Return the distortion on the client's own test samples, on all, and the first relative to the norm."""
    if status == "diverged":
        return None, None, None
    num_test = torch.tensor([len(other.test) for other in task.data.clients])
    norm = float(evaluator.global_norms[position])
    own, everywhere, relative = summarize(evaluated.test.distortion[k], position, num_test, norm)
    return _number(own), _number(everywhere), _number(relative)


def _by_group(
    task: PersonalTask, evaluator: Evaluator, evaluated: EvaluatedStack, k: int, position: int
) -> dict[str, Any] | None:
    names, hits = task.data.group_names, evaluated.test.group_hits[k]
    return by_group(names, hits.numpy(), evaluator.group_sizes.numpy(), position) if names else None


def _by_depth(
    task: PersonalTask, evaluator: Evaluator, evaluated: EvaluatedStack, k: int, position: int
) -> dict[str, float | None] | None:
    samples = task.data.clients[position].test
    try:
        layers = distortion_by_depth(evaluator.global_features, evaluated.states[k], samples, evaluated.start)
    except Exception as error:  # networks can be anything, and a diagnosis must not cost what was trained
        log.warning("Distortion by depth cannot be computed: %s: %s", type(error).__name__, error)
        return None
    return {name: _number(value) for name, value in layers.items()}


def _epochs(
    task: PersonalTask,
    records: list[EpochRecord],
    evaluated: EvaluatedStack,
    evaluator: Evaluator,
    k: int,
    position: int,
) -> list[dict[str, Any]]:
    """Return the client's rows of all epochs: the global model, the recorded ones, with the final test in the last."""
    rows: list[dict[str, Any]] = [{"epoch": 0, "phase": "start", "lr_head": None, "lr_body": None, "train_loss": None}]
    evaluations: list[tuple[StackEvaluation, int] | None] = [None]
    for record in records:
        rates = {"lr_head": record.lr_head, "lr_body": record.lr_body}
        loss = _number(record.train_loss[k])
        rows.append({"epoch": record.epoch, "phase": record.phase, **rates, "train_loss": loss})
        evaluations.append((record.evaluation, k) if record.evaluation else None)
    if task.settings.eval_every:
        evaluations[-1] = (evaluated.test, k)
        evaluations[0] = (evaluator.global_evaluation, 0)
    tests = [_test_row(*evaluation, position) if evaluation else {} for evaluation in evaluations]
    return [row | test for row, test in zip(rows, tests, strict=True)]


def _test_row(evaluation: StackEvaluation, k: int, position: int) -> dict[str, float | None]:
    """Return what an epoch's row holds of its test."""
    accuracy = evaluation.accuracy[k]
    others = [a for j, a in enumerate(accuracy.tolist()) if j != position and not math.isnan(a)]
    return {
        "local": _number(float(accuracy[position])),
        "global_all": _number(float(accuracy.nanmean())),
        "worst": min(others, default=None),
        "distortion": _number(float(evaluation.distortion[k, position])),
    }


def _status(finite: bool, num_train: int, num_test: int) -> str:
    if not finite:
        return "diverged"
    if not num_train:
        return "no_train"
    return "ok" if num_test else "no_test"


def _percent(hits: Tensor) -> float | None:
    return _number(float(share([hits])))


def _number(value: float | None) -> float | None:
    """Return None for what JSON cannot hold: NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None
