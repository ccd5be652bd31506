"""Converts a trained stack to one result per client."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lpft.clients.stack import ClientStack
from lpft.evaluation.depth import distortion_by_depth
from lpft.evaluation.distortion import summarize
from lpft.evaluation.groups import by_group
from lpft.evaluation.line import LinePoint, evaluate_line
from lpft.evaluation.matrix import Evaluator, StackEvaluation, share
from lpft.evaluation.sampling import mean_of_all, split_row
from lpft.models.base import BodyHeadNet
from lpft.personalization.jobs import Job, PersonalTask
from lpft.personalization.module import EpochRecord
from lpft.storage.client_result import ClientResult
from lpft.types import State

log = logging.getLogger("lpft")


@dataclass(frozen=True)
class TrainedStack:
    """The result of training the K clients of a stack.

    Args:
        stack: the personalized networks.
        start: the network that they started from; it replaces networks that have diverged.
        records: one per epoch.
        train_passes: each client's cost per training sample.
        collapsed: positions in the stack of networks with unusable norm statistics; they count as diverged.
    """

    stack: ClientStack
    start: BodyHeadNet
    records: list[EpochRecord]
    train_passes: list[float]
    collapsed: tuple[int, ...] = ()


@dataclass(frozen=True)
class EvaluatedStack:
    """Test results of the K networks of a stack; diverged networks are replaced by the network they started from.

    Args:
        states: state dicts of the networks.
        finite: whether each network, and its logits of the training samples, are finite; False means diverged.
        shares_body: whether only heads differ from the global model.
        test: evaluation on the test sets of all clients.
        scores: scores of `lpft.evaluation.scores` on the test sets of all clients, ``(K, C)`` each.
        val_global: mean accuracy over the validation sets of all clients, percent, ``(K,)``.
        val_before: whether the global model classifies each client's validation samples correctly, K tensors ``(n,)``.
        val_after: the same for the personalized network.
        train: the same for the personalized network and the training samples.
        line: evaluations of the networks between the global and the personalized ones; empty if nothing was trained.
    """

    states: list[State]
    finite: list[bool]
    shares_body: bool
    test: StackEvaluation
    scores: dict[str, Tensor]
    val_global: Tensor
    val_before: list[Tensor]
    val_after: list[Tensor]
    train: list[Tensor]
    line: list[LinePoint]


def evaluate_stack(
    evaluator: Evaluator, trained: TrainedStack, clients: Sequence[int], num_between: int = 0
) -> EvaluatedStack:
    """Replace networks that have diverged, and test the stack.

    Args:
        evaluator: tests against the global model.
        trained: the stack.
        clients: positions of its clients.
        num_between: number of models to test between the global and every personalized model.
    """
    stack, features = trained.stack, evaluator.global_features
    train = [evaluator.clients[client].train for client in clients]
    shares_body = evaluator.shares_body(stack)
    train_features = features.stacked(list(clients)) if shares_body else None
    train_hits, finite_logits = evaluator.hits_and_finite(stack, train, train_features)
    finite = stack.finite() & finite_logits.to(features.device)
    finite[list(trained.collapsed)] = False
    if not finite.all():
        start = trained.start.state_dict()
        for name, tensor in {**stack.params(), **stack.net_buffers()}.items():
            keep = finite.view(-1, *[1] * start[name].dim())
            stack.write({name: torch.where(keep, tensor.detach(), start[name])})
        shares_body = evaluator.shares_body(stack)
        train_hits = evaluator.hits(stack, train, features.stacked(list(clients)) if shares_body else None)
    on_val = evaluator.on_val
    val_hits = on_val.hits_of_all(stack)
    test, scores = evaluator.test_with_scores(stack, clients)
    return EvaluatedStack(
        states=stack.states(),
        finite=finite.tolist(),
        shares_body=shares_body,
        test=test,
        scores=scores,
        val_global=on_val.accuracy(val_hits).nanmean(dim=1),
        val_before=[on_val.of_client(on_val.global_hits, client) for client in clients],
        val_after=[on_val.of_client(hits, client) for hits, client in zip(val_hits, clients, strict=True)],
        train=train_hits,
        line=evaluate_line(evaluator, stack, trained.start, clients, num_between if trained.records else 0),
    )


@dataclass(frozen=True)
class ResultMaker:
    """Builds the results of an evaluated stack, one client at a time.

    Args:
        task: the personalization of the experiment.
        job: the job that was done.
        evaluator: holds the global model.
        trained: the stack.
        evaluated: its test results.
    """

    task: PersonalTask
    job: Job
    evaluator: Evaluator
    trained: TrainedStack
    evaluated: EvaluatedStack

    def result(self, k: int, seconds: float) -> ClientResult:
        """Return the result of the k-th client.

        Args:
            k: position of the client in the stack.
            seconds: wall-clock seconds per client.
        """
        data, test, position = self.task.data, self.evaluated.test, self.job.clients[k]
        client = data.clients[position]
        num_train, num_val, num_test = len(client.train), len(client.val), len(client.test)
        before, after = self.evaluated.val_before[k], self.evaluated.val_after[k]
        own, everywhere, relative = self._distortion(k)
        return ClientResult(
            seed=self.job.seed,
            method=self.job.method,
            client=client.name,
            fingerprint=self.task.fingerprints[self.job.method],
            status=self._status(k),
            clients=[other.name for other in data.clients],
            accuracy=[_number(a) for a in test.accuracy[k].tolist()],
            local_before=_number(float(self.evaluator.global_accuracy[position])),
            val_before=_percent(before),
            val_after=_percent(after),
            distortion_own=own,
            distortion_all=everywhere,
            distortion_relative=relative,
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            train_passes=self.trained.train_passes[k] * num_train,
            seconds=seconds,
            clients_per_stack=self.task.stack_size(self.job.method),
            device=self.evaluator.global_features.device.type,
            epochs=self._epochs(k),
            train_accuracy=_percent(self.evaluated.train[k]),
            val_gained=int((after & ~before).sum()),
            val_lost=int((before & ~after).sum()),
            val_global=_number(float(self.evaluated.val_global[k])),
            num_classes=data.spec.num_classes,
            num_train_classes=len(data.labels[client.train].unique()),
            groups=self._groups(k),
            depth=self._depth(k),
            line=self._line(k),
            scores=self._scores(k),
            head_norms=[_head_norm(state) for state in (self.trained.start.state_dict(), self.evaluated.states[k])],
            num_testable=self.num_testable,
        )

    def _status(self, k: int) -> str:
        client = self.task.data.clients[self.job.clients[k]]
        if not self.evaluated.finite[k]:
            return "diverged"
        if not len(client.train):
            return "no_train"
        return "ok" if len(client.test) else "no_test"

    @property
    def _is_moved(self) -> bool:
        """Whether the networks started from the global model; otherwise features cannot be compared with its."""
        return self.task.methods[self.job.method].start == "global"

    def _distortion(self, k: int) -> tuple[float | None, ...]:
        """Return the distortion on the client's own test samples, on all, and the first relative to the norm."""
        if not (self.evaluated.finite[k] and self._is_moved):
            return None, None, None
        position = self.job.clients[k]
        num_test = torch.tensor([len(other.test) for other in self.task.data.clients])
        norm = float(self.evaluator.global_norms[position])
        return tuple(map(_number, summarize(self.evaluated.test.distortion[k], position, num_test, norm)))

    def _groups(self, k: int) -> dict[str, Any] | None:
        names, hits = self.task.data.arrays.group_names, self.evaluated.test.group_hits[k]
        if not names:
            return None
        sizes = self.evaluator.group_sizes * self.evaluator.tests(k).unsqueeze(1)
        return by_group(names, hits.numpy(), sizes.numpy(), self.job.clients[k])

    def _depth(self, k: int) -> dict[str, float | None] | None:
        only_heads = self.evaluated.shares_body and all(record.phase == "LP" for record in self.trained.records)
        if only_heads or not self._is_moved or self._status(k) in ("diverged", "no_test"):
            return None
        state, samples = self.evaluated.states[k], self.task.data.clients[self.job.clients[k]].test
        try:
            layers = distortion_by_depth(self.evaluator.global_features, state, samples, self.trained.start)
        except Exception as error:  # networks can be anything, and a diagnosis must not cost what was trained
            log.warning("Distortion by depth cannot be computed: %s: %s", type(error).__name__, error)
            return None
        return {name: _number(value) for name, value in layers.items()}

    @cached_property
    def num_testable(self) -> int | None:
        """Number of clients with test samples, if models are tested only on some of them."""
        if self.evaluator.drawn is None:
            return None
        return sum(len(client.test) > 0 for client in self.task.data.clients)

    def _scores(self, k: int) -> dict[str, dict[str, float | None]]:
        """Return every score on the client's own test set and over all clients."""
        position = self.job.clients[k]
        return {
            name: {
                "local": _number(float(values[k, position])),
                "global_all": _number(mean_of_all(values[k].tolist(), position, self.num_testable)),
            }
            for name, values in self.evaluated.scores.items()
        }

    def _line(self, k: int) -> list[dict[str, float | None]]:
        """Return the rows of the models between the global and the personalized one."""
        position = self.job.clients[k]
        return [
            {
                "a": point.a,
                **_accuracies(point.test, k, position, self.num_testable),
                "global_others": _mean_of_others(point.test.accuracy[k].tolist(), position),
                "val": _number(float(point.val[k])),
            }
            for point in self.evaluated.line
        ]

    def _global_evaluation(self, k: int) -> StackEvaluation:
        """Return the evaluation of the global model on the test sets of the k-th model."""
        found = self.evaluator.global_evaluation
        return replace(found, accuracy=found.accuracy.masked_fill(~self.evaluator.tests(k), torch.nan))

    def _epochs(self, k: int) -> list[dict[str, Any]]:
        """Return the rows of all epochs: the global model, the recorded ones, with the final test in the last."""
        start = EpochRecord(0, "start", None, None, [math.nan] * len(self.job.clients))
        records = [start, *self.trained.records]
        tests = [(record.evaluation, k) for record in records]
        if self.task.settings_of(self.job.method).eval_every:
            tests[-1] = (self.evaluated.test, k)
            tests[0] = (self._global_evaluation(k), 0)
        rows = []
        for record, (test, row) in zip(records, tests, strict=True):
            training: dict[str, Any] = {
                "epoch": record.epoch,
                "phase": record.phase,
                "lr_head": record.lr_head,
                "lr_body": record.lr_body,
                "train_loss": _number(record.train_loss[k]),
            }
            rows.append(training | (_accuracies(test, row, self.job.clients[k], self.num_testable) if test else {}))
        return rows


def _accuracies(
    evaluation: StackEvaluation, k: int, position: int, num_testable: int | None
) -> dict[str, float | None]:
    """Return the accuracies of a tested epoch."""
    accuracy = evaluation.accuracy[k]
    row = accuracy.tolist()
    everywhere = float(accuracy.nanmean()) if num_testable is None else mean_of_all(row, position, num_testable)
    return {
        "local": _number(row[position]),
        "global_all": _number(everywhere),
        "worst": min(split_row(row, position)[1], default=None),
        "distortion": _number(float(evaluation.distortion[k, position])),
    }


def _mean_of_others(row: list[float], position: int) -> float | None:
    others = split_row(row, position)[1]
    return fmean(others) if others else None


def _head_norm(state: State) -> float | None:
    return _number(float(state["head.weight"].double().norm()))


def _percent(hits: Tensor) -> float | None:
    return _number(float(share([hits])))


def _number(value: float | None) -> float | None:
    """Return None for values that JSON cannot represent: NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None
