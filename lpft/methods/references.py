"""References: training without federated learning, on the client's data only or on the pooled data of all clients.

They are methods like any other, but their networks do not start from the global model. They make as many passes over
the data as federated training, with its optimizer and batch size, and ignore the settings of ``personalization``.
"""

from __future__ import annotations

from typing import Any

from jsonargparse.typing import PositiveInt

from lpft.methods.base import Method, Phase


class Reference(Method):
    """Base class of references.

    Args:
        epochs: passes over a client's data; null for those of federated training, ``rounds * local_epochs`` times the
            share of the clients in a round. Required if the global model is read from a file.
        common: settings of all methods: ``flood``.
    """

    def __init__(self, epochs: PositiveInt | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.epochs = epochs


class Local(Reference):
    """Local training from scratch, without federated learning.

    Each client starts from the initial network of federated training with the same seed, and trains all parameters on
    its own data. By default it keeps the epoch with the best validation accuracy, because local training overfits more
    than federated training. A single optimizer is used for all epochs; federated training has a new one per round.

    Args:
        epochs: see `Reference`.
        keep_best: keep the epoch with the best validation accuracy, the earliest among equals, instead of the last one.
        common: settings of all methods: ``flood``.
    """

    start = "initial"

    def __init__(self, epochs: PositiveInt | None = None, keep_best: bool = True, **common: Any) -> None:
        super().__init__(epochs, **common)
        self.keep_best = keep_best

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase of full training."""
        return [Phase(self.epochs or budget)]


class Pooled(Reference):
    """One model trained on the pooled data of all clients that take part in federated training.

    This is federated training of a single client with all data, with the same number of passes over the data. All
    clients use the same model.
    """

    start = "pooled"

    def __init__(self, epochs: PositiveInt | None = None) -> None:
        super().__init__(epochs)

    def phases(self, budget: int) -> list[Phase]:
        """Return no phases: the model is already trained."""
        return []
