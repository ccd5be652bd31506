"""Evaluation of every personalized model on every client's test set: the rows of the accuracy matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from lpft.clients.features import CHUNK, GlobalFeatures, chunks
from lpft.clients.stack import ClientStack
from lpft.evaluation.distortion import client_means
from lpft.evaluation.scores import SCORES, Samples, score, temperatures
from lpft.evaluation.settings import MetricName

MOST_LOGITS = 2**24
"""Maximum number of logits that are scored at the same time, to limit memory."""


@dataclass(frozen=True)
class StackEvaluation:
    """The evaluation of K personalized models on the test sets of all C clients; NaN for empty test sets.

    Args:
        accuracy: K rows of the accuracy matrix, or of the evaluator's other metric, percent, ``(K, C)``.
        distortion: mean l2 distance of the features from the global model's on each client's test set, ``(K, C)``.
        group_hits: number of correct predictions on each client's test samples of each group, int64, ``(K, C, G)``.
    """

    accuracy: Tensor
    distortion: Tensor
    group_hits: Tensor


@dataclass(frozen=True)
class Outcomes:
    """The outputs of K models for n samples, on the CPU.

    Args:
        hits: whether the prediction is correct, bool, ``(K, n)``.
        moved: l2 distance of the features from the global model's, ``(K, n)``; None if the models have its body.
        logits: ``(K, n, num_classes)``; None if not requested.
    """

    hits: Tensor
    moved: Tensor | None
    logits: Tensor | None


class Evaluator:
    """Evaluates models in inference mode; all models of a stack share the test data.

    Args:
        features: the global model and its features.
        split: the samples to test on; ``val`` if a choice depends on the result.
        metric: the metric on the test sets.
        drawn: positions of the clients whose samples every model is tested on; None for all clients.
        own: positions of the K clients of a stack; each model is also tested on its own client's samples.
    """

    def __init__(
        self,
        features: GlobalFeatures,
        split: Literal["test", "val"] = "test",
        metric: MetricName = "accuracy",
        drawn: Sequence[int] | None = None,
        own: Sequence[int] = (),
    ) -> None:
        self.global_features = features
        self.clients = features.data.clients
        self.metric = metric
        self.drawn, self.own = drawn, own
        tested = range(len(self.clients)) if drawn is None else {*drawn, *own}
        empty = torch.empty(0, dtype=torch.int64)
        sets = [getattr(client, split) if i in tested else empty for i, client in enumerate(self.clients)]
        self.index = torch.cat(sets)
        self.sizes = [len(samples) for samples in sets]
        self.owner = torch.arange(len(sets)).repeat_interleave(torch.tensor(self.sizes))
        self.labels = features.samples.labels(self.index)
        self.num_groups = len(features.data.arrays.group_names)
        # one bin for every client and group; the first bin of a client is for samples without a group
        self.bin = self.owner * (1 + self.num_groups) + features.data.arrays.groups[self.index] + 1

    @cached_property
    def on_val(self) -> Evaluator:
        """The evaluator of accuracy on the validation sets of the same clients."""
        return Evaluator(self.global_features, "val", drawn=self.drawn, own=self.own)

    @cached_property
    def samples(self) -> Samples:
        """The samples tested on, on the CPU."""
        return Samples(self.labels.cpu(), self.owner, len(self.clients))

    @cached_property
    def bin_sizes(self) -> Tensor:
        """Number of samples tested on in every bin, int64, ``(C, 1 + G)``."""
        num_bins = len(self.clients) * (1 + self.num_groups)
        return self.bin.bincount(minlength=num_bins).unflatten(0, (len(self.clients), -1))

    @property
    def group_sizes(self) -> Tensor:
        """Number of every client's samples tested on in each group, int64, ``(C, G)``."""
        return self.bin_sizes[:, 1:]

    @cached_property
    def test_features(self) -> Tensor:
        """The global model's features of all samples tested on, ``(num_test, k)``."""
        return self.global_features.of(self.index)

    @cached_property
    def global_hits(self) -> Tensor:
        """Whether the global model classifies each sample tested on correctly, on the CPU, bool, ``(num_test,)``."""
        return self._global_outcomes.hits[0]

    @cached_property
    def _global_outcomes(self) -> Outcomes:
        net = self.global_features.net
        with torch.inference_mode():
            return self._outcomes_of_heads(lambda features: net.head(features).unsqueeze(0), 1, self._needs_logits)

    @cached_property
    def global_evaluation(self) -> StackEvaluation:
        """The evaluation of the global model, as a stack of one."""
        return self._evaluation(self._global_outcomes)

    def tests(self, k: int) -> Tensor:
        """Return on which clients' test sets the k-th model of the stack is tested, bool, ``(C,)``."""
        tested = torch.full((len(self.clients),), self.drawn is None)
        tested[[*(self.drawn or ()), *self.own[k : k + 1]]] = True
        return tested

    @property
    def global_accuracy(self) -> Tensor:
        """The global model's accuracy on every client's test set, percent, ``(C,)``."""
        return self.global_evaluation.accuracy[0]

    @cached_property
    def global_norms(self) -> Tensor:
        """Mean l2 norm of the global model's features over each client's test samples, ``(C,)``."""
        return client_means(self.test_features.norm(dim=-1).unsqueeze(0).cpu(), self.owner, self.sizes)[0]

    def test(self, stack: ClientStack) -> StackEvaluation:
        """Evaluate the K models of a stack on the test sets of all clients; their training mode is restored.

        If only heads differ from the global model, its stored features are used, and the distortion is 0.
        """
        return self._masked_evaluation(self._outcomes(stack, self._needs_logits))

    def test_with_scores(self, stack: ClientStack, clients: Sequence[int]) -> tuple[StackEvaluation, dict[str, Tensor]]:
        """Evaluate the K models of a stack, and compute all of `SCORES` on each client's test set, ``(K, C)`` each.

        Args:
            stack: the models.
            clients: positions of the K clients, on whose validation data the temperatures are fitted.
        """
        outcomes = self._outcomes(stack, True)
        assert outcomes.logits is not None
        fitted = self._temperatures(stack, clients)
        scores: dict[str, list[Tensor]] = {name: [] for name in SCORES}
        size = max(1, MOST_LOGITS // max(1, outcomes.logits[0].numel()))
        for logits, part in zip(outcomes.logits.split(size), fitted.split(size), strict=True):
            for name, values in scores.items():
                values.append(score(name, logits, self.samples, part))
        evaluation = self._masked_evaluation(outcomes)
        masked = {name: self._masked(torch.cat(values), torch.nan) for name, values in scores.items()}
        return evaluation, masked

    def hits_of_all(self, stack: ClientStack) -> Tensor:
        """Return whether each of the K models classifies each sample correctly, on the CPU, bool, ``(K, num_test)``."""
        return self._outcomes(stack).hits

    def accuracy(self, hits: Tensor) -> Tensor:
        """Return the accuracy of hits ``(K, num_test)`` on each client's samples, percent, float64, ``(K, C)``."""
        return percent(self._count(hits).sum(-1), self.bin_sizes.sum(-1))

    def of_client(self, tensor: Tensor, client: int) -> Tensor:
        """Return the entries of a tensor ``(num_test, ...)`` that belong to a client's samples."""
        start = sum(self.sizes[:client])
        return tensor[start : start + self.sizes[client]]

    def shares_body(self, stack: ClientStack) -> bool:
        """Return whether all bodies of a stack, including buffers, are bitwise equal to the global model's."""
        state = self.global_features.net.state_dict()
        tensors = {**stack.params(), **stack.net_buffers()}
        bodies = {name: t for name, t in tensors.items() if name.startswith("body.")}
        return all(name in state and bool((t == state[name]).all()) for name, t in bodies.items())

    def hits(self, stack: ClientStack, sets: Sequence[Tensor], features: Tensor | None = None) -> list[Tensor]:
        """Return which samples of its own set each of the K models classifies correctly; see `hits_and_finite`."""
        return self.hits_and_finite(stack, sets, features)[0]

    @torch.inference_mode()
    def hits_and_finite(
        self, stack: ClientStack, sets: Sequence[Tensor], features: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return which samples of its own set each of the K models classifies correctly, and if its logits are finite.

        Args:
            stack: K models.
            sets: positions of the samples in the dataset's arrays, int64, ``(n,)``, one tensor per model.
            features: features of these samples, ``(K, n_max, k)``, if all bodies of the stack are the global model's;
                None to compute them.

        Returns:
            K tensors on the CPU, bool, ``(n,)``, and whether all logits of each model are finite, on the CPU, ``(K,)``.
        """
        nothing = torch.zeros(len(sets), 0, dtype=torch.bool, device=self.global_features.device)
        hits, finite = [nothing], [nothing]
        for logits, labels in self._own_logits(stack, sets, features):
            hits.append(logits.argmax(-1) == labels)
            finite.append(logits.isfinite().all(-1))
        correct, usable = (
            [row[: len(samples)] for row, samples in zip(torch.cat(parts, dim=1).cpu(), sets, strict=True)]
            for parts in (hits, finite)
        )
        return correct, torch.stack([row.all() for row in usable])

    def _own_logits(
        self, stack: ClientStack, sets: Sequence[Tensor], features: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits ``(K, batch, num_classes)`` and labels of sets as in `hits`; shorter sets are padded."""
        index = torch.nn.utils.rnn.pad_sequence(list(sets), batch_first=True)
        size = _batch_size(len(sets))
        with _inference(stack):
            for number, part in enumerate(index.split(size, dim=1) if index.numel() else ()):
                if features is not None:
                    features_of_set = features[:, number * size : (number + 1) * size]
                else:
                    features_of_set = stack.features(self.global_features.images(part))
                yield stack.classify(features_of_set), self.global_features.samples.labels(part)

    @torch.inference_mode()
    def _temperatures(self, stack: ClientStack, clients: Sequence[int]) -> Tensor:
        """Return the temperatures of the K models of these clients, ``(K,)``."""
        sets = [self.clients[client].val for client in clients]
        batches = [(logits.cpu(), labels.cpu()) for logits, labels in self._own_logits(stack, sets)]
        if not batches:
            return torch.ones(len(sets), dtype=torch.float64)
        logits, labels = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
        counted = torch.arange(logits.shape[1]) < torch.tensor([[len(samples)] for samples in sets])
        return temperatures(logits, labels, counted)

    def val(self, stack: ClientStack, clients: Sequence[int]) -> Tensor:
        """Return the accuracy of each of the K models on its own client's validation set, percent, ``(K,)``."""
        return share(self.hits(stack, [self.clients[client].val for client in clients]))

    @torch.inference_mode()
    def _outcomes(self, stack: ClientStack, keep_logits: bool = False) -> Outcomes:
        """Return the outputs of the K models of a stack for all samples tested on."""
        num_models = stack.num_clients
        if self.shares_body(stack):
            classify = partial(stack.classify, shared=True)
            return self._outcomes_of_heads(classify, num_models, keep_logits)
        size = _batch_size(num_models)
        device = self.global_features.device
        moved, collected = [torch.zeros(num_models, 0, device=device)], _Collector(num_models, device, keep_logits)
        with _inference(stack):
            for index, labels, before in zip(
                *(chunks(tensor, size) for tensor in (self.index, self.labels, self.test_features)), strict=True
            ):
                after = stack.features(self.global_features.images(index), shared=True)
                collected.add(stack.classify(after), labels)
                moved.append((after - before).norm(dim=-1))
        return collected.outcomes(torch.cat(moved, dim=1).cpu())

    def _outcomes_of_heads(self, classify: Callable[[Tensor], Tensor], num_models: int, keep_logits: bool) -> Outcomes:
        """Return the outputs of heads on the global model's features."""
        collected = _Collector(num_models, self.global_features.device, keep_logits)
        for features, labels in zip(chunks(self.test_features), chunks(self.labels), strict=True):
            collected.add(classify(features), labels)
        return collected.outcomes(None)

    @property
    def _needs_logits(self) -> bool:
        return self.metric != "accuracy"

    def _count(self, hits: Tensor) -> Tensor:
        """Count the hits ``(K, num_test)`` in every bin, int64, ``(K, C, 1 + G)``."""
        counts = torch.zeros(len(hits), self.bin_sizes.numel(), dtype=torch.int64)
        counts.scatter_add_(1, self.bin.expand(len(hits), -1), hits.long())
        return counts.unflatten(1, (len(self.clients), -1))

    def _evaluation(self, outcomes: Outcomes) -> StackEvaluation:
        """Summarize outcomes by client; without distances the distortion is 0."""
        accuracy = self.accuracy(outcomes.hits)
        if outcomes.moved is None:
            distortion = torch.zeros_like(accuracy).masked_fill(accuracy.isnan(), torch.nan)
        else:
            distortion = client_means(outcomes.moved, self.owner, self.sizes)
        if outcomes.logits is not None and self.metric != "accuracy":
            accuracy = score(self.metric, outcomes.logits, self.samples)
        return StackEvaluation(accuracy, distortion, self._count(outcomes.hits)[..., 1:])

    def _masked_evaluation(self, outcomes: Outcomes) -> StackEvaluation:
        """Summarize the outcomes of a stack; each model is evaluated on the drawn clients and its own."""
        evaluation = self._evaluation(outcomes)
        return StackEvaluation(
            self._masked(evaluation.accuracy, torch.nan),
            self._masked(evaluation.distortion, torch.nan),
            self._masked(evaluation.group_hits, 0),
        )

    def _masked(self, values: Tensor, fill: float) -> Tensor:
        """Replace values ``(K, C, ...)`` of clients that a model is not tested on: neither drawn nor its own."""
        if self.drawn is None:
            return values
        tested = torch.stack([self.tests(k) for k in range(len(values))])
        return values.masked_fill(~tested.view(*tested.shape, *[1] * (values.dim() - 2)), fill)


class _Collector:
    """Collects outcomes batch by batch."""

    def __init__(self, num_models: int, device: torch.device, keep_logits: bool) -> None:
        self.keep_logits = keep_logits
        self.hits = [torch.zeros(num_models, 0, dtype=torch.bool, device=device)]
        self.logits: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits ``(K, batch, num_classes)`` of samples with labels ``(batch,)``."""
        self.hits.append(logits.argmax(-1) == labels)
        if self.keep_logits:
            self.logits.append(logits.float().cpu())

    def outcomes(self, moved: Tensor | None) -> Outcomes:
        """Return the outcomes of all batches."""
        return Outcomes(
            torch.cat(self.hits, dim=1).cpu(), moved, torch.cat(self.logits, dim=1) if self.logits else None
        )


def _batch_size(num_models: int) -> int:
    """Return the number of images in one forward pass of a stack."""
    return max(32, min(CHUNK, 1024 // num_models))


def share(hits: Sequence[Tensor]) -> Tensor:
    """Return the share of correct predictions of each model, percent, float64; NaN without samples.

    >>> share([torch.tensor([True, False]), torch.tensor([], dtype=torch.bool)])
    tensor([50., nan], dtype=torch.float64)
    """
    return torch.stack([100 * row.double().mean() for row in hits])


def percent(correct: Tensor, total: Tensor) -> Tensor:
    """Return the share of correct predictions in percent, float64; NaN where the total is 0.

    >>> percent(torch.tensor([3, 0]), torch.tensor([4, 0]))
    tensor([75., nan], dtype=torch.float64)
    """
    return 100 * correct.double() / total.double()


@contextmanager
def _inference(stack: ClientStack) -> Iterator[None]:
    """Set evaluation mode for a block, and restore the modes of all modules afterwards."""
    modes = {part: part.training for part in stack.module.modules()}
    stack.module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
