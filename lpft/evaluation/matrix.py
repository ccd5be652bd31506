"""Test every personalized model on every client's test data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lpft.clients.accuracy import AccuracyMatrix, percent
from lpft.clients.features import CHUNK, GlobalFeatures, chunks
from lpft.clients.stack import ClientStack
from lpft.evaluation.distortion import ClientMeans


@dataclass(frozen=True)
class StackEvaluation:
    """How K personalized models do on the test sets of all C clients. NaN for test sets that are empty.

    Args:
        accuracy: percent, ``(K, C)``: K rows of the accuracy matrix.
        distortion: mean l2 distance of the features from the global model's on each client's test set, ``(K, C)``.
        group_hits: number of correct predictions on each client's test samples of each group, int64, ``(K, C, G)``.
    """

    accuracy: Tensor
    distortion: Tensor
    group_hits: Tensor


class Evaluator:
    """Tests models in inference mode; the test data are shared by all clients of a stack.

    Args:
        features: the global model and its features.
        split: which samples to test on; ``val`` for what a choice is made by.
    """

    def __init__(self, features: GlobalFeatures, split: Literal["test", "val"] = "test") -> None:
        self.global_features = features
        self.clients = features.data.clients
        sets = [getattr(client, split) for client in self.clients]
        self.index = torch.cat(sets)
        self.owner = torch.cat([torch.full_like(samples, i) for i, samples in enumerate(sets)])
        self.num_groups = len(features.data.arrays.group_names)
        # one bin for every client and group, the first of a client's bins for samples of no group
        self.bin = self.owner * (1 + self.num_groups) + features.data.arrays.groups[self.index] + 1

    @cached_property
    def on_val(self) -> Evaluator:
        """The same on the validation sets of all clients."""
        return Evaluator(self.global_features, "val")

    @cached_property
    def group_sizes(self) -> Tensor:
        """Number of every client's samples tested on in each group, int64, ``(C, G)``."""
        return self.bin.bincount(minlength=self._num_bins).unflatten(0, (len(self.clients), -1))[:, 1:]

    @cached_property
    def test_features(self) -> Tensor:
        """The global model's features of all samples tested on, ``(num_test, k)``."""
        return self.global_features.of(self.index)

    @cached_property
    def global_evaluation(self) -> StackEvaluation:
        """How the global model itself does, as a stack of one."""
        net = self.global_features.net
        return self._heads(lambda features: net.head(features).unsqueeze(0), 1)

    @property
    def global_accuracy(self) -> Tensor:
        """The global model's accuracy on every client's test set, percent, ``(C,)``."""
        return self.global_evaluation.accuracy[0]

    @cached_property
    def global_norms(self) -> Tensor:
        """Mean l2 norm of the global model's features over each client's test samples, ``(C,)``."""
        means = ClientMeans(1, len(self.clients), self.global_features.device)
        means.update(self.test_features.norm(dim=-1).unsqueeze(0), self.owner.to(self.global_features.device))
        return means.compute().squeeze(0)

    @torch.inference_mode()
    def test(self, stack: ClientStack) -> StackEvaluation:
        """Test the K models of a stack, which keep the mode that they are in, on the test sets of all clients.

        Where only heads differ from the global model, its stored features serve, and the distortion is 0.
        """
        if self.shares_body(stack):
            return self._heads(lambda features: stack.classify(features, shared=True), stack.num_clients)
        counts = AccuracyMatrix(stack.num_clients, self._num_bins).to(self.global_features.device)
        moved = ClientMeans(stack.num_clients, len(self.clients), self.global_features.device)
        size = max(16, CHUNK // stack.num_clients)
        with _inference(stack):
            for index, owner, bins, before in zip(
                *(chunks(tensor, size) for tensor in (self.index, self.owner, self.bin, self.test_features)),
                strict=True,
            ):
                after = stack.features(self.global_features.images(index), shared=True)
                counts.update(stack.classify(after), self._labels(index), bins.to(self.global_features.device))
                moved.update((after - before).norm(dim=-1), owner.to(self.global_features.device))
        return self._evaluation(counts, moved.compute())

    def shares_body(self, stack: ClientStack) -> bool:
        """Tell whether all bodies of a stack, their buffers included, are the global model's, bit for bit."""
        state = self.global_features.net.state_dict()
        tensors = {**stack.params(), **stack.net_buffers()}
        bodies = {name: t for name, t in tensors.items() if name.startswith("body.")}
        return all(name in state and bool((t == state[name]).all()) for name, t in bodies.items())

    @torch.inference_mode()
    def hits(self, stack: ClientStack, sets: Sequence[Tensor], features: Tensor | None = None) -> list[Tensor]:
        """Return for each of the K models which samples of a set of its own it classifies correctly.

        Args:
            stack: K models.
            sets: positions of the samples in the dataset's arrays, int64, ``(n,)``, one tensor per model.
            features: of those samples, ``(K, n_max, k)``, where they are known: those of a stack whose bodies are
                the global model's.

        Returns:
            K tensors on the CPU, bool, ``(n,)``.
        """
        index = torch.nn.utils.rnn.pad_sequence(list(sets), batch_first=True)
        size = max(16, CHUNK // len(sets))
        hits = [torch.zeros(len(sets), 0, dtype=torch.bool)]
        with _inference(stack):
            for number, part in enumerate(index.split(size, dim=1) if index.numel() else ()):
                if features is not None:
                    own = features[:, number * size : (number + 1) * size]
                else:
                    own = stack.features(self.global_features.images(part))
                hits.append((stack.classify(own).argmax(-1) == self._labels(part)).cpu())
        correct = torch.cat(hits, dim=1)
        return [row[: len(samples)] for row, samples in zip(correct, sets, strict=True)]

    def val(self, stack: ClientStack, clients: Sequence[int]) -> Tensor:
        """Return the accuracy of each of the K models on its own client's validation set, percent, ``(K,)``."""
        return share(self.hits(stack, [self.clients[client].val for client in clients]))

    @torch.inference_mode()
    def _heads(self, classify: Callable[[Tensor], Tensor], num_models: int) -> StackEvaluation:
        counts = AccuracyMatrix(num_models, self._num_bins).to(self.global_features.device)
        for features, index, bins in zip(chunks(self.test_features), chunks(self.index), chunks(self.bin), strict=True):
            counts.update(classify(features), self._labels(index), bins.to(self.global_features.device))
        return self._evaluation(counts)

    @property
    def _num_bins(self) -> int:
        return len(self.clients) * (1 + self.num_groups)

    def _evaluation(self, counts: AccuracyMatrix, distortion: Tensor | None = None) -> StackEvaluation:
        """Sum up the bins; without a distortion it is 0."""
        hits, sizes = (count.cpu().unflatten(-1, (len(self.clients), -1)) for count in (counts.correct, counts.total))
        accuracy = percent(hits.sum(-1), sizes.sum(-1))
        if distortion is None:
            distortion = torch.zeros_like(accuracy).masked_fill(accuracy.isnan(), torch.nan)
        return StackEvaluation(accuracy, distortion, hits[..., 1:])

    def _labels(self, index: Tensor) -> Tensor:
        return self.global_features.samples.labels(index)


def share(hits: Sequence[Tensor]) -> Tensor:
    """Return the share of correct predictions per model, percent, float64; NaN where there are no samples.

    >>> share([torch.tensor([True, False]), torch.tensor([], dtype=torch.bool)])
    tensor([50., nan], dtype=torch.float64)
    """
    return torch.stack([100 * row.double().mean() for row in hits])


@contextmanager
def _inference(stack: ClientStack) -> Iterator[None]:
    """Evaluation mode for a block; afterwards the modes of all parts are as before."""
    modes = {part: part.training for part in stack.module.modules()}
    stack.module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
