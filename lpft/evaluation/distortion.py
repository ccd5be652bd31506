"""Federated feature distortion: how far fine-tuning has moved the features."""

from __future__ import annotations

import torch
from torch import Tensor


class ClientMeans:
    """Mean of a figure over each client's samples, for K models, fed in batches.

    Args:
        num_models: K.
        num_clients: C.
        device: where the figures come from.
    """

    def __init__(self, num_models: int, num_clients: int, device: torch.device) -> None:
        self.sums = torch.zeros(num_models, num_clients, dtype=torch.float64, device=device)
        self.counts = torch.zeros(num_clients, dtype=torch.float64, device=device)

    def update(self, values: Tensor, clients: Tensor) -> None:
        """Add a batch: figures ``(K, batch)`` of samples that belong to `clients`, int64 ``(batch,)``."""
        self.sums.index_add_(1, clients, values.double())
        self.counts.index_add_(0, clients, torch.ones_like(clients, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Return the means on the CPU, float64, ``(K, C)``; NaN for clients without samples."""
        return (self.sums / self.counts).cpu()


@torch.no_grad()
def summarize(distortion: Tensor, own: int, num_test: Tensor, norm_own: float) -> tuple[float, float, float]:
    """Sum up one client's distortion.

    Args:
        distortion: mean l2 distance between the personalized and the global model's features over each client's test
            samples, ``(C,)``; NaN for clients without.
        own: position of the client.
        num_test: number of every client's test samples, ``(C,)``.
        norm_own: mean l2 norm of the global model's features over the client's own test samples.

    Returns:
        ``distortion_own``, the mean over the client's own test samples; ``distortion_all``, over all clients' samples;
        and ``distortion_relative``, the first divided by the norm.

    References:
        Chen et al., arXiv:2511.12695: the formula is `distortion_own`, the words are `distortion_all`.

    >>> summarize(torch.tensor([1.0, 4.0]), own=0, num_test=torch.tensor([1, 2]), norm_own=2.0)
    (1.0, 3.0, 0.5)
    """
    known = num_test > 0
    weights = num_test[known].to(distortion.dtype)
    pooled = float((distortion[known] * weights).sum() / weights.sum())
    return float(distortion[own]), pooled, float(distortion[own]) / norm_own
