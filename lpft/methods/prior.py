"""Prior correction: the class frequencies of the client, without training."""

from __future__ import annotations

import torch
from jsonargparse.typing import PositiveFloat
from torch import Generator, Tensor

from lpft.methods.base import HeadData, Method, Phase
from lpft.models.base import BodyHeadNet
from lpft.types import State


class PriorShift(Method):
    """The global model with the head's bias moved by ``log p_client(y) - log p_federation(y)``.

    A control: whatever a trained method gains beyond this is more than knowing which classes a client has. Nothing is
    trained, and it costs nothing. Where a client has all classes in the federation's proportions it is the global
    model, bit for bit.

    Args:
        pseudo_count: size s of the imaginary sample with the federation's proportions that is added to a client's n
            training samples: ``p_client(y) = (n_y + s * p_federation(y)) / (n + s)``. A class that the client lacks
            moves by ``log(s / (n + s))`` instead of minus infinity.

    References:
        Saerens et al., Neural Computation 14(1), 2002, for the correction by priors. The smoothing is ours.
    """

    starts_head = True
    counts_only = True

    def __init__(self, pseudo_count: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.pseudo_count = pseudo_count

    def phases(self, budget: int) -> list[Phase]:
        """Return no phase at all."""
        return []

    def check(self, net: BodyHeadNet) -> None:
        """Raise ValueError if the head has no bias."""
        if net.head.bias is None:
            raise ValueError(
                f"the head of {type(net).__name__} has no bias, which is what moves."
                " HINT: leave this method out, or choose a network whose head has one."
            )

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        """Move the bias."""
        shift = log_prior_ratio(data.class_counts, data.federation_class_counts, self.pseudo_count)
        return {**head, "bias": head["bias"] + shift.to(head["bias"])}


def log_prior_ratio(of_client: Tensor, of_federation: Tensor, pseudo_count: float) -> Tensor:
    """Return ``log p_client(y) - log p_federation(y)``, float64, ``(num_classes,)``; 0 for classes that no client has.

    Args:
        of_client: samples of each class, int64, ``(num_classes,)``.
        of_federation: the same of all clients.
        pseudo_count: see `PriorShift`.

    >>> log_prior_ratio(torch.tensor([2, 0, 0]), torch.tensor([3, 3, 0]), pseudo_count=2.0).exp()
    tensor([1.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    known = of_federation > 0
    counts, total = (
        of_federation.where(known, 1),
        of_federation.sum(),
    )  # integers: proportional counts are exactly equal
    smoothing = pseudo_count * counts.double()
    above = (of_client * total).where(known, of_client.sum()) + smoothing
    return torch.log(above / (of_client.sum() * counts + smoothing))
