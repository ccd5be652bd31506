"""The section `federation` of an experiment."""

from __future__ import annotations

from math import ceil
from typing import Literal

from jsonargparse.typing import PositiveInt, restricted_number_type
from torch.optim import SGD

from lpft.federated.aggregation import AggregatorFactory, WeightedMean
from lpft.federated.algorithms import Algorithm
from lpft.federated.cohort import cohort_size
from lpft.models.base import BodyHeadNet
from lpft.models.fit import read_weights
from lpft.types import OptimizerCallable, State

Participation = restricted_number_type(
    "Participation", float, [(">", 0), ("<=", 1)], docstring="share of the clients in a round, in (0, 1]"
)


class Federation:
    """Federated training of the global model.

    The defaults are not the paper's, whose settings (Table 4) were not available.

    Args:
        rounds: number of rounds.
        local_epochs: passes over a client's data in a round.
        participation: share of the clients in a round, in (0, 1]; at least one takes part.
        batch_size: samples in a client's batch.
        optimizer: the clients' optimizer, new in every round.
        weighting: weight of a client in the average: by its number of training `samples`, or `equal`.
        aggregator: class that averages client updates, called with `weighting`.
        algorithm: changes to local training (`FedProx`, `Scaffold`, `FedBN`, `FedRep`, `Ditto` of
            `lpft.federated.algorithms`, or your own class); null for FedAvg.
        server_optimizer: optimizer that moves the global model towards the clients' average, such as
            `torch.optim.Adam`; null for FedAvg, where the average is the next global model.
        clients_per_stack: clients trained as one; `auto` depends on network, data and device type.
        init: a model file to start from instead of federated training: safetensors, a torch state dict or checkpoint,
            or `.npz` (with names, or Flower's arrays in the order of the state dict).
        init_entry: entry of the file that contains the model, such as `server_model`, if it contains several; dots
            separate nested entries.
        init_map: prefixes of names in the file, with the prefixes that replace them in the network, such as
            `{"fc.": head., "": body.}` for torchvision's ResNets; the longest matching prefix applies. null leaves out
            tensors.
        init_head: whether to `keep` the file's head or to start from a `new` one, as needed for other classes.

    Raises:
        ValueError: if `init_entry`, `init_map` or `init_head` is set without `init`.
    """

    def __init__(
        self,
        rounds: PositiveInt = 60,
        local_epochs: PositiveInt = 1,
        participation: Participation = 1.0,  # type: ignore[valid-type]
        batch_size: PositiveInt = 32,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.05),
        weighting: Literal["samples", "equal"] = "samples",
        aggregator: AggregatorFactory = lambda weighting: WeightedMean(weighting),
        algorithm: Algorithm | None = None,
        server_optimizer: OptimizerCallable | None = None,
        clients_per_stack: PositiveInt | Literal["auto"] = "auto",
        init: str | None = None,
        init_entry: str | None = None,
        init_map: dict[str, str | None] | None = None,
        init_head: Literal["keep", "new"] = "keep",
    ) -> None:
        if init is None and (init_entry or init_map or init_head != "keep"):
            raise ValueError(
                "`federation.init_entry`, `federation.init_map` and `federation.init_head` need a model file."
                " HINT: set it with `--federation.init FILE`, or remove them."
            )
        self.rounds = rounds
        self.local_epochs = local_epochs
        self.participation: float = participation
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weighting = weighting
        self.aggregator = aggregator
        self.algorithm = algorithm
        self.server_optimizer = server_optimizer
        self.clients_per_stack = clients_per_stack
        self.init = init
        self.init_entry = init_entry
        self.init_map = init_map
        self.init_head = init_head

    def full_rounds(self, num_clients: int, rounds: int | None = None) -> int:
        """Return the number of rounds with all clients that makes as many passes over a client's data.

        Args:
            num_clients: number of clients that have training samples.
            rounds: number of rounds of federated training; by default, the setting `rounds`.
        """
        return ceil((rounds or self.rounds) * cohort_size(num_clients, self.participation) / num_clients)

    def read_init(self, net: BodyHeadNet) -> State:
        """Read the state in `init`; without the head if `init_head` is `new`.

        Raises:
            FileNotFoundError, ValueError: if the file does not exist, cannot be read or does not fit.
        """
        assert self.init is not None
        return read_weights(self.init, net.state_dict(), self.init_map, self.init_head == "new", self.init_entry)
