"""Federated feature distortion: the distance by which fine-tuning moved the features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def client_means(values: Tensor, clients: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean of values over each client's samples, float64, ``(K, C)``; NaN for clients without samples.

    Args:
        values: one value per model and sample, ``(K, n)``.
        clients: client of each sample, int64, ``(n,)``.
        sizes: number of samples of each of the C clients.

    >>> client_means(torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([0, 1, 1]), [1, 2])
    tensor([[1., 4.]], dtype=torch.float64)
    """
    sums = torch.zeros(len(values), len(sizes), dtype=torch.float64)
    sums.scatter_add_(1, clients.expand(len(values), -1), values.double())
    return sums / torch.tensor(sizes, dtype=torch.float64)


@torch.no_grad()
def summarize(distortion: Tensor, own: int, num_test: Tensor, norm_own: float) -> tuple[float, float, float]:
    """Summarize one client's distortion.

    Args:
        distortion: mean l2 distance between the personalized and the global model's features over each client's test
            samples, ``(C,)``; NaN for clients without test samples, and for those not tested on.
        own: position of the client.
        num_test: number of every client's test samples, ``(C,)``.
        norm_own: mean l2 norm of the global model's features over the client's own test samples.

    Returns:
        ``distortion_own``, the mean over the client's own test samples; ``distortion_all``, the mean over all clients'
        samples; and ``distortion_relative``, the first divided by the norm, NaN if the norm is 0 (dead ReLUs).

    References:
        Chen et al., arXiv:2511.12695: its formula is `distortion_own`, its text describes `distortion_all`.

    >>> summarize(torch.tensor([1.0, 4.0]), own=0, num_test=torch.tensor([1, 2]), norm_own=2.0)
    (1.0, 3.0, 0.5)
    """
    tested = (num_test > 0) & ~distortion.isnan()
    weights = num_test[tested].to(distortion.dtype)
    pooled = float((distortion[tested] * weights).sum() / weights.sum())
    return float(distortion[own]), pooled, float(distortion[own]) / norm_own if norm_own else math.nan
