"""FedRep: a shared body, and one head per client."""

from __future__ import annotations

from jsonargparse.typing import PositiveInt

from lpft.federated.algorithms.base import KeepsEntries, Part
from lpft.models.base import BodyHeadNet
from lpft.types import State


class FedRep(KeepsEntries):
    """In each round, train the client's head with the body frozen, then the body with the head frozen.

    Bodies are averaged. The global model, which is tested on other clients, contains the mean of the heads. The method
    ``lpft.methods.federated.FedRep`` evaluates each client's own.

    Args:
        head_epochs: epochs of the head per round; the body is trained for ``federation.local_epochs``.

    References:
        Collins et al., arXiv:2102.07078, Algorithm 1.
    """

    def __init__(self, head_epochs: PositiveInt = 5) -> None:
        self.head_epochs = head_epochs

    def memory(self, net: BodyHeadNet) -> State:
        """Return the head."""
        return {f"head.{name}": t for name, t in net.head.named_parameters()}

    def epochs(self, local_epochs: int) -> list[Part]:
        """Return the epochs of the head, then those of the body."""
        head: list[Part] = ["head"] * self.head_epochs
        body: list[Part] = ["body"] * local_epochs
        return head + body
