"""The section `federation` of an experiment."""

from __future__ import annotations

from typing import Literal

from jsonargparse.typing import PositiveInt, restricted_number_type
from torch.optim import SGD

from lpft.types import OptimizerCallable

Participation = restricted_number_type(
    "Participation", float, [(">", 0), ("<=", 1)], docstring="share of the clients in a round, in (0, 1]"
)


class Federation:
    """Federated training of the global model.

    None of the defaults is the paper's, whose settings (its Table 4) were not available.

    Args:
        rounds: number of rounds.
        local_epochs: passes over a client's data in a round.
        participation: share of the clients in a round, in (0, 1]; at least one takes part.
        batch_size: samples in a client's batch.
        optimizer: the clients' optimizer, new in every round.
        weighting: weight of a client in the average: by its number of training `samples`, or `equal`.
        clients_per_stack: clients trained as one; `auto` follows from network, data and device type.
        init: a model file (safetensors, or a torch state dict) to start from instead of federated training.
    """

    def __init__(
        self,
        rounds: PositiveInt = 60,
        local_epochs: PositiveInt = 1,
        participation: Participation = 1.0,  # type: ignore[valid-type]
        batch_size: PositiveInt = 32,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.05),
        weighting: Literal["samples", "equal"] = "samples",
        clients_per_stack: PositiveInt | Literal["auto"] = "auto",
        init: str | None = None,
    ) -> None:
        self.rounds = rounds
        self.local_epochs = local_epochs
        self.participation: float = participation
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weighting = weighting
        self.clients_per_stack = clients_per_stack
        self.init = init
