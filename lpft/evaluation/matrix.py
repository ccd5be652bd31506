"""Test every personalized model on every client's test data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lpft.clients.features import CHUNK, GlobalFeatures, chunks
from lpft.clients.stack import ClientStack
from lpft.evaluation.distortion import client_means


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
        self.sizes = [len(samples) for samples in sets]
        self.owner = torch.arange(len(sets)).repeat_interleave(torch.tensor(self.sizes))
        self.labels = features.samples.labels(self.index)
        self.num_groups = len(features.data.arrays.group_names)
        # one bin for every client and group, the first of a client's bins for samples of no group
        self.bin = self.owner * (1 + self.num_groups) + features.data.arrays.groups[self.index] + 1

    @cached_property
    def on_val(self) -> Evaluator:
        """The same on the validation sets of all clients."""
        return Evaluator(self.global_features, "val")

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
        """Whether the global model is right about each sample tested on, on the CPU, bool, ``(num_test,)``."""
        net = self.global_features.net
        return self._hits_of_heads(lambda features: net.head(features).unsqueeze(0), 1)[0]

    @cached_property
    def global_evaluation(self) -> StackEvaluation:
        """How the global model itself does, as a stack of one."""
        return self._evaluation(self.global_hits.unsqueeze(0))

    @property
    def global_accuracy(self) -> Tensor:
        """The global model's accuracy on every client's test set, percent, ``(C,)``."""
        return self.global_evaluation.accuracy[0]

    @cached_property
    def global_norms(self) -> Tensor:
        """Mean l2 norm of the global model's features over each client's test samples, ``(C,)``."""
        return client_means(self.test_features.norm(dim=-1).unsqueeze(0).cpu(), self.owner, self.sizes)[0]

    def test(self, stack: ClientStack) -> StackEvaluation:
        """Test the K models of a stack, which keep the mode that they are in, on the test sets of all clients.

        Where only heads differ from the global model, its stored features serve, and the distortion is 0.
        """
        return self._evaluation(*self._outcomes(stack))

    def hits_of_all(self, stack: ClientStack) -> Tensor:
        """Return whether each of the K models is right about each sample, on the CPU, bool, ``(K, num_test)``."""
        return self._outcomes(stack)[0]

    def accuracy(self, hits: Tensor) -> Tensor:
        """Return the accuracy on each client's samples in percent, float64, ``(K, C)``, of hits ``(K, num_test)``."""
        return percent(self._count(hits).sum(-1), self.bin_sizes.sum(-1))

    def of_client(self, tensor: Tensor, client: int) -> Tensor:
        """Return the entries of a tensor ``(num_test, ...)`` that belong to a client's samples."""
        start = sum(self.sizes[:client])
        return tensor[start : start + self.sizes[client]]

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
        size = _batch_size(len(sets))
        hits = [torch.zeros(len(sets), 0, dtype=torch.bool, device=self.global_features.device)]
        with _inference(stack):
            for number, part in enumerate(index.split(size, dim=1) if index.numel() else ()):
                if features is not None:
                    features_of_set = features[:, number * size : (number + 1) * size]
                else:
                    features_of_set = stack.features(self.global_features.images(part))
                labels = self.global_features.samples.labels(part)
                hits.append(stack.classify(features_of_set).argmax(-1) == labels)
        correct = torch.cat(hits, dim=1).cpu()
        return [row[: len(samples)] for row, samples in zip(correct, sets, strict=True)]

    def val(self, stack: ClientStack, clients: Sequence[int]) -> Tensor:
        """Return the accuracy of each of the K models on its own client's validation set, percent, ``(K,)``."""
        return share(self.hits(stack, [self.clients[client].val for client in clients]))

    @torch.inference_mode()
    def _outcomes(self, stack: ClientStack) -> tuple[Tensor, Tensor | None]:
        """Return hits and, if the bodies differ from the global model's, distances of features, ``(K, num_test)``."""
        if self.shares_body(stack):
            return self._hits_of_heads(lambda features: stack.classify(features, shared=True), stack.num_clients), None
        size = _batch_size(stack.num_clients)
        device = self.global_features.device
        hits = [torch.zeros(stack.num_clients, 0, dtype=torch.bool, device=device)]
        moved = [torch.zeros(stack.num_clients, 0, device=device)]
        with _inference(stack):
            for index, labels, before in zip(
                *(chunks(tensor, size) for tensor in (self.index, self.labels, self.test_features)), strict=True
            ):
                after = stack.features(self.global_features.images(index), shared=True)
                hits.append(stack.classify(after).argmax(-1) == labels)
                moved.append((after - before).norm(dim=-1))
        return torch.cat(hits, dim=1).cpu(), torch.cat(moved, dim=1).cpu()

    @torch.inference_mode()
    def _hits_of_heads(self, classify: Callable[[Tensor], Tensor], num_models: int) -> Tensor:
        hits = [torch.zeros(num_models, 0, dtype=torch.bool, device=self.global_features.device)]
        for features, labels in zip(chunks(self.test_features), chunks(self.labels), strict=True):
            hits.append(classify(features).argmax(-1) == labels)
        return torch.cat(hits, dim=1).cpu()

    def _count(self, hits: Tensor) -> Tensor:
        """Count the hits ``(K, num_test)`` in every bin, int64, ``(K, C, 1 + G)``."""
        counts = torch.zeros(len(hits), self.bin_sizes.numel(), dtype=torch.int64)
        counts.scatter_add_(1, self.bin.expand(len(hits), -1), hits.long())
        return counts.unflatten(1, (len(self.clients), -1))

    def _evaluation(self, hits: Tensor, moved: Tensor | None = None) -> StackEvaluation:
        """Sum up by client; without distances the distortion is 0."""
        accuracy = self.accuracy(hits)
        if moved is None:
            distortion = torch.zeros_like(accuracy).masked_fill(accuracy.isnan(), torch.nan)
        else:
            distortion = client_means(moved, self.owner, self.sizes)
        return StackEvaluation(accuracy, distortion, self._count(hits)[..., 1:])


def _batch_size(num_models: int) -> int:
    """Return the images in one forward pass of so many models."""
    return max(32, min(CHUNK, 1024 // num_models))


def share(hits: Sequence[Tensor]) -> Tensor:
    """Return the share of correct predictions per model, percent, float64; NaN where there are no samples.

    >>> share([torch.tensor([True, False]), torch.tensor([], dtype=torch.bool)])
    tensor([50., nan], dtype=torch.float64)
    """
    return torch.stack([100 * row.double().mean() for row in hits])


def percent(correct: Tensor, total: Tensor) -> Tensor:
    """Return the share of correct predictions in percent, float64; NaN where there is none at all.

    >>> percent(torch.tensor([3, 0]), torch.tensor([4, 0]))
    tensor([75., nan], dtype=torch.float64)
    """
    return 100 * correct.double() / total.double()


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
