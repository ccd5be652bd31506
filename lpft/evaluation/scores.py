"""Scores of predictions in addition to accuracy, vectorized over K models and the test sets of C clients.

torchmetrics and scikit-learn provide all of them for one model and one set of samples, but thousands of calls, one per
model and client, take longer than training small networks. The tests compare with both libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 15
"""Number of bins of the calibration error."""


@dataclass(frozen=True)
class Samples:
    """Labelled samples of C clients.

    Args:
        labels: int64, ``(n,)``.
        owner: client of each sample, int64, ``(n,)``.
        num_clients: C.
    """

    labels: Tensor
    owner: Tensor
    num_clients: int

    def means(self, values: Tensor) -> Tensor:
        """Return the mean over each client's samples of ``(K, n)``, float64, ``(K, C)``; NaN without samples."""
        return self.sums(values) / self.owner.bincount(minlength=self.num_clients)

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum over each client's samples of ``(K, n)``, float64, ``(K, C)``."""
        sums = torch.zeros(len(values), self.num_clients, dtype=torch.float64)
        return sums.scatter_add_(1, self.owner.expand(len(values), -1), values.double())


def negative_log_likelihood(logits: Tensor, samples: Samples) -> Tensor:
    """Return the mean cross-entropy of logits ``(K, n, num_classes)`` on each client's samples, in nats, ``(K, C)``."""
    labels = samples.labels.expand(len(logits), -1)
    losses = F.cross_entropy(logits.double().flatten(0, 1), labels.flatten(), reduction="none")
    return samples.means(losses.view(labels.shape))


def calibration_error(logits: Tensor, samples: Samples) -> Tensor:
    """Return the expected calibration error on each client's samples, percentage points, ``(K, C)``.

    Predictions are sorted into 15 bins of equal width by confidence, the largest probability. The error is the absolute
    difference of mean confidence and accuracy in a bin, averaged over the bins, weighted by their number of samples.

    Args:
        logits: ``(K, n, num_classes)``.
        samples: the samples.

    References:
        Guo et al., arXiv:1706.04599, equation 3.
    """
    confidence, predicted = logits.double().softmax(-1).max(-1)
    bins = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
    gaps = torch.zeros(len(logits), samples.num_clients * NUM_BINS, dtype=torch.float64)
    gaps.scatter_add_(1, samples.owner * NUM_BINS + bins, confidence - (predicted == samples.labels).double())
    num_samples = samples.owner.bincount(minlength=samples.num_clients)
    return 100 * gaps.unflatten(1, (samples.num_clients, NUM_BINS)).abs().sum(-1) / num_samples


def balanced_accuracy(logits: Tensor, samples: Samples) -> Tensor:
    """Return the mean recall of the classes among each client's samples, percent, ``(K, C)``.

    Args:
        logits: ``(K, n, num_classes)``.
        samples: the samples.
    """
    num_classes = logits.shape[-1]
    bins = samples.owner * num_classes + samples.labels  # one for every client and class
    num_samples = bins.bincount(minlength=samples.num_clients * num_classes)
    hits = torch.zeros(len(logits), len(num_samples), dtype=torch.float64)
    hits.scatter_add_(1, bins.expand(len(logits), -1), (logits.argmax(-1) == samples.labels).double())
    return 100 * (hits / num_samples).unflatten(1, (samples.num_clients, num_classes)).nanmean(-1)


def area_under_roc(logits: Tensor, samples: Samples) -> Tensor:
    """Return the area under the ROC curve on each client's samples, percent, ``(K, C)``.

    With two classes it is the area of the second class; with more, the mean of the one-vs-rest areas over all classes
    that some but not all of the client's samples belong to. NaN if there is no such class.

    Args:
        logits: ``(K, n, num_classes)``.
        samples: the samples.
    """
    probabilities = logits.double().softmax(-1)
    classes = [1] if logits.shape[-1] == 2 else range(logits.shape[-1])
    areas = [_area(probabilities[..., c], samples.labels == c, samples) for c in classes]
    return 100 * torch.stack(areas).nanmean(0)


def _area(scores: Tensor, positive: Tensor, samples: Samples) -> Tensor:
    """Return the areas ``(K, C)`` by the rank sum (Mann-Whitney); ties count half."""
    by_score = scores.argsort(dim=1, stable=True)
    order = by_score.gather(1, samples.owner[by_score].argsort(dim=1, stable=True))  # by client, then by score
    ordered, owners = scores.gather(1, order), samples.owner[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]) | (owners[:, 1:] != owners[:, :-1])
    ties = new.cumsum(1) - 1
    positions = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64).expand_as(ordered)
    sums, num_tied = (
        torch.zeros_like(positions).scatter_add_(1, ties, values) for values in (positions, torch.ones_like(positions))
    )
    ranks = torch.empty_like(positions).scatter_(1, order, (sums / num_tied).gather(1, ties))
    totals = samples.owner.bincount(minlength=samples.num_clients).double()
    ranks = ranks - (totals.cumsum(0) - totals)[samples.owner]  # within the client's samples
    positives = samples.sums(positive.double().unsqueeze(0))
    negatives = totals - positives
    rank_sums = samples.sums(ranks * positive)
    return (rank_sums - positives * (positives + 1) / 2) / (positives * negatives)


def temperatures(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Return the temperature of each of K models that minimizes its cross-entropy on validation data, ``(K,)``.

    The loss of ``logits / T`` is convex in ``1 / T``; the root of its derivative is found by bisection for T in
    [0.02, 50]. The temperature of a model without validation data is 1.

    Args:
        logits: ``(K, n, num_classes)``.
        labels: int64, ``(K, n)``.
        counted: which samples are real and not padding, bool, ``(K, n)``.

    References:
        Guo et al., arXiv:1706.04599, section 4.2.
    """
    logits = logits.double()
    low, high = (torch.full((len(logits),), end, dtype=torch.float64).log() for end in (0.02, 50.0))
    correct = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    for _ in range(40):
        middle = (low + high) / 2
        expected = ((logits * middle.exp().view(-1, 1, 1)).softmax(-1) * logits).sum(-1)
        rising = ((expected - correct) * counted).sum(1) > 0  # whether the loss rises with the inverse temperature
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return torch.where(counted.any(1), (-(low + high) / 2).exp(), 1.0)


SCORES = ("nll", "ece", "ece_scaled", "balanced_accuracy", "auroc")
"""Names of all scores; ``ece_scaled`` is the calibration error after temperature scaling."""


def score(name: str, logits: Tensor, samples: Samples, fitted: Tensor | None = None) -> Tensor:
    """Compute one of `SCORES` on each client's samples, ``(K, C)``; NaN without samples.

    Args:
        name: name of the score.
        logits: ``(K, n, num_classes)``.
        samples: the samples.
        fitted: `temperatures` of the models, ``(K,)``; required for ``ece_scaled``.
    """
    if not logits.shape[1]:
        return torch.full((len(logits), samples.num_clients), torch.nan, dtype=torch.float64)
    if name == "ece_scaled":
        assert fitted is not None
        return calibration_error(logits / fitted.view(-1, 1, 1), samples)
    compute = {
        "nll": negative_log_likelihood,
        "ece": calibration_error,
        "balanced_accuracy": balanced_accuracy,
        "auroc": area_under_roc,
    }[name]
    return compute(logits, samples)
