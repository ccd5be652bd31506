"""Methods that personalize in the process: their models are trained along with a global model of their own.

They are rows beside those that personalize a finished global model, tested on the same clients, but answer another
question: what if the federation had been trained with personalization in mind? Each trains a federation of its own,
with the settings of ``federation``, its algorithm apart, and has nothing to do with those of ``personalization``.
"""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat, PositiveInt

from lpft.federated import algorithms
from lpft.federated.algorithms import Algorithm
from lpft.methods.base import Phase
from lpft.methods.references import Reference


class InProcess(Reference):
    """Base of the methods that personalize in the process.

    A client that takes no part in federated training (`data.held_out`) gets the global model.

    Args:
        algorithm: how clients train; it has to personalize.
        epochs: rounds of federated training. null: those of the experiment.
    """

    start = "federated"

    def __init__(self, algorithm: Algorithm, epochs: PositiveInt | None = None) -> None:
        super().__init__(epochs)
        self.algorithm = algorithm

    def phases(self, budget: int) -> list[Phase]:
        """Return no phase: the models are trained before."""
        return []


class FedBN(InProcess):
    """Every client's own BatchNorm layers in a global model; see `lpft.federated.algorithms.FedBN`.

    Args:
        epochs: see `InProcess`.
    """

    def __init__(self, epochs: PositiveInt | None = None) -> None:
        super().__init__(algorithms.FedBN(), epochs)


class FedRep(InProcess):
    """Every client's own head on a global body; see `lpft.federated.algorithms.FedRep`.

    Args:
        head_epochs: epochs of the head in every round.
        epochs: see `InProcess`.
    """

    def __init__(self, head_epochs: PositiveInt = 5, epochs: PositiveInt | None = None) -> None:
        super().__init__(algorithms.FedRep(head_epochs), epochs)


class Ditto(InProcess):
    """Every client's own model, held close to a global one; see `lpft.federated.algorithms.Ditto`.

    Args:
        penalty: lambda, the weight of the distance.
        epochs: see `InProcess`.
    """

    def __init__(self, penalty: NonNegativeFloat = 0.1, epochs: PositiveInt | None = None) -> None:
        super().__init__(algorithms.Ditto(penalty), epochs)
