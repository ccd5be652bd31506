"""FedRep: a shared body, and a head of every client's own."""

from __future__ import annotations

from jsonargparse.typing import PositiveInt

from lpft.federated.algorithms.base import KeepsEntries, Part
from lpft.models.base import BodyHeadNet
from lpft.types import State


class FedRep(KeepsEntries):
    """In every round, train the client's own head on the frozen body, then the body below the frozen head.

    Bodies are averaged. The global model, which other clients are tested with, has the mean of the heads; the row
    ``lpft.methods.federated.FedRep`` has every client's own.

    Args:
        head_epochs: epochs in which the head is trained; ``federation.local_epochs`` are those of the body.

    References:
        Collins et al., arXiv:2102.07078, Algorithm 1.
    """

    def __init__(self, head_epochs: PositiveInt = 5) -> None:
        self.head_epochs = head_epochs

    def memory(self, net: BodyHeadNet) -> State:
        """Return the head."""
        return {f"head.{name}": t for name, t in net.head.named_parameters()}

    def epochs(self, local_epochs: int) -> list[Part]:
        """Return epochs of the head, then of the body."""
        head: list[Part] = ["head"] * self.head_epochs
        body: list[Part] = ["body"] * local_epochs
        return head + body
