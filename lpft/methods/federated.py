"""Methods that personalize during federated training, as a comparison with fine-tuning of a finished global model.

Each of them trains its own global model together with the personalized models. It has the settings of ``federation``
except the algorithm, and ignores those of ``personalization``. Tests use the same clients as for other methods.
"""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat, PositiveInt

from lpft.federated import algorithms
from lpft.federated.algorithms import Algorithm
from lpft.methods.base import Phase
from lpft.methods.references import Reference


class InProcess(Reference):
    """Base class of methods that personalize during federated training.

    Clients that take no part in federated training (`data.held_out`) get the global model.

    Args:
        algorithm: algorithm of federated training, which must personalize.
        epochs: rounds of federated training; null for the experiment's number.
    """

    start = "federated"

    def __init__(self, algorithm: Algorithm, epochs: PositiveInt | None = None) -> None:
        super().__init__(epochs)
        self.algorithm = algorithm

    def phases(self, budget: int) -> list[Phase]:
        """Return no phases: the models are already trained."""
        return []


class FedBN(InProcess):
    """The global model with each client's own BatchNorm layers; see `lpft.federated.algorithms.FedBN`.

    Args:
        epochs: see `InProcess`.
    """

    def __init__(self, epochs: PositiveInt | None = None) -> None:
        super().__init__(algorithms.FedBN(), epochs)


class FedRep(InProcess):
    """The global body with each client's own head; see `lpft.federated.algorithms.FedRep`.

    Args:
        head_epochs: epochs of the head per round.
        epochs: see `InProcess`.
    """

    def __init__(self, head_epochs: PositiveInt = 5, epochs: PositiveInt | None = None) -> None:
        super().__init__(algorithms.FedRep(head_epochs), epochs)


class Ditto(InProcess):
    """Each client's own model, kept close to the global model; see `lpft.federated.algorithms.Ditto`.

    Args:
        penalty: weight of the penalty, lambda.
        epochs: see `InProcess`.
    """

    def __init__(self, penalty: NonNegativeFloat = 0.1, epochs: PositiveInt | None = None) -> None:
        super().__init__(algorithms.Ditto(penalty), epochs)
