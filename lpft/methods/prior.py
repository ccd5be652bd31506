"""Correction for the class frequencies of the client, without training."""

from __future__ import annotations

import torch
from jsonargparse.typing import PositiveFloat
from torch import Generator, Tensor

from lpft.methods.base import HeadData, Method, Phase
from lpft.models.base import BodyHeadNet
from lpft.types import State


class PriorShift(Method):
    """The global model with ``log p_client(y) - log p_federation(y)`` added to the head's bias.

    A control: this part of a method's gain only needs the client's class frequencies. Nothing is trained. For a client
    with the federation's class proportions this is the global model, bit for bit.

    Args:
        pseudo_count: number s of pseudo-samples with the federation's proportions that are added to a client's n
            training samples: ``p_client(y) = (n_y + s * p_federation(y)) / (n + s)``. The shift of a class that the
            client lacks is then ``log(s / (n + s))`` instead of minus infinity.

    References:
        Saerens et al., Neural Computation 14(1), 2002, for the correction by priors. The smoothing is ours.
    """

    starts_head = True
    counts_only = True

    def __init__(self, pseudo_count: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.pseudo_count = pseudo_count

    def phases(self, budget: int) -> list[Phase]:
        """Return no phases."""
        return []

    def check(self, net: BodyHeadNet) -> None:
        """Raise ValueError if the head has no bias."""
        if net.head.bias is None:
            raise ValueError(
                f"the head of {type(net).__name__} has no bias, which this method changes."
                " HINT: leave the method out, or choose a network whose head has one."
            )

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        """Add the log ratio of class frequencies to the bias."""
        shift = log_prior_ratio(data.class_counts, data.federation_class_counts, self.pseudo_count)
        return {**head, "bias": head["bias"] + shift.to(head["bias"])}


def log_prior_ratio(client_counts: Tensor, federation_counts: Tensor, pseudo_count: float) -> Tensor:
    """Return ``log p_client(y) - log p_federation(y)``, float64, ``(num_classes,)``; 0 for classes that no client has.

    Args:
        client_counts: the client's samples of each class, int64, ``(num_classes,)``.
        federation_counts: samples of each class, summed over all clients.
        pseudo_count: see `PriorShift`.

    >>> log_prior_ratio(torch.tensor([2, 0, 0]), torch.tensor([3, 3, 0]), pseudo_count=2.0).exp()
    tensor([1.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    exists, total = federation_counts > 0, federation_counts.sum()
    counts = federation_counts.where(exists, 1)  # integers: the ratio of proportional counts is exactly 1
    smoothing = pseudo_count * counts.double()
    numerator = (client_counts * total).where(exists, client_counts.sum()) + smoothing
    return torch.log(numerator / (client_counts.sum() * counts + smoothing))
