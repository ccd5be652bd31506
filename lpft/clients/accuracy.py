"""Correct predictions, counted per model and per client."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class AccuracyMatrix(Metric):
    """Accuracy of K models on the samples of C clients.

    Args:
        num_models: K.
        num_clients: C.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, num_models: int, num_clients: int) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros(num_models, num_clients, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(num_clients, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, clients: Tensor) -> None:
        """Count a batch.

        Args:
            logits: ``(K, batch, num_classes)``.
            labels: int64, ``(batch,)``.
            clients: whose sample each one is, int64, ``(batch,)``.
        """
        hits = (logits.argmax(-1) == labels).to(torch.int64)
        self.correct.index_add_(1, clients, hits)
        self.total.index_add_(0, clients, torch.ones_like(clients))

    def compute(self) -> Tensor:
        """Return percent, float64, ``(K, C)``; NaN for clients without samples. A single entry becomes a scalar."""
        return percent(self.correct, self.total)


def percent(correct: Tensor, total: Tensor) -> Tensor:
    """Return the share of correct predictions in percent, float64; NaN where there is none at all.

    >>> percent(torch.tensor([3, 0]), torch.tensor([4, 0]))
    tensor([75., nan], dtype=torch.float64)
    """
    return 100 * correct.double() / total.double()
