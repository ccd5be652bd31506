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

    None of the defaults is the paper's, whose settings (its Table 4) were not available.

    Args:
        rounds: number of rounds.
        local_epochs: passes over a client's data in a round.
        participation: share of the clients in a round, in (0, 1]; at least one takes part.
        batch_size: samples in a client's batch.
        optimizer: the clients' optimizer, new in every round.
        weighting: weight of a client in the average: by its number of training `samples`, or `equal`.
        aggregator: class that averages client updates; it is given `weighting`.
        algorithm: what clients do beside plain local training (`FedProx`, `Scaffold`, `FedBN`, `FedRep`, `Ditto` of
            `lpft.federated.algorithms`, or a class of your own); null: nothing, which is FedAvg.
        server_optimizer: takes a step from the global model towards the clients' average, such as `torch.optim.Adam`;
            null: the average itself is the next global model, which is FedAvg.
        clients_per_stack: clients trained as one; `auto` follows from network, data and device type.
        init: a model file to start from instead of federated training: safetensors, a torch state dict or checkpoint,
            or `.npz` (with names, or Flower's arrays in the order of the state dict).
        init_entry: the entry of that file that holds the model, such as `server_model`, if it holds several; dots lead
            into nested entries.
        init_map: what names in that file begin with, and what they are to begin with in the network, such as
            `{"fc.": head., "": body.}` for torchvision's ResNets; of several that fit the longest counts. null leaves
            tensors out.
        init_head: whether to `keep` the file's head, or to start from a `new` one, as is needed for other classes.

    Raises:
        ValueError: if there is an entry, a map or a new head, but no file.
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
                "`federation.init_entry`, `federation.init_map` and `federation.init_head` are for a model from a file."
                " HINT: name it with `--federation.init FILE`, or remove them."
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
        """Return how many rounds in which all clients take part make as many passes over a client's data.

        Args:
            num_clients: number of clients that have training samples.
            rounds: of federated training, if there are not `rounds` of them.
        """
        return ceil((rounds or self.rounds) * cohort_size(num_clients, self.participation) / num_clients)

    def read_init(self, net: BodyHeadNet) -> State:
        """Return the state that `init` gives the network: all of it, but for a head that is to be new.

        Raises:
            FileNotFoundError, ValueError: if the file is not there, cannot be read or does not fit.
        """
        assert self.init is not None
        return read_weights(self.init, net.state_dict(), self.init_map, self.init_head == "new", self.init_entry)
