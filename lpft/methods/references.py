"""References: what a client could do without a federation, and what one could do if all data were in one place.

They are rows like any other, but not personalizations: their networks do not start from the global model. Both make as
many passes over the data as federated training, with its optimizer and batch size, and have nothing to do with the
settings of ``personalization``.
"""

from __future__ import annotations

from typing import Any

from jsonargparse.typing import PositiveInt

from lpft.methods.base import Method, Phase


class Reference(Method):
    """Base of the references.

    Args:
        epochs: passes over a client's data. null: those of federated training, ``rounds * local_epochs`` times the
            share of the clients in a round. It has to be set where the global model comes from a file.
        common: what every method takes: ``flood``.
    """

    def __init__(self, epochs: PositiveInt | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.epochs = epochs


class Local(Reference):
    """Training at home from scratch: what a client gets that takes no part in the federation.

    Every client starts from the initial network of federated training with the same seed, and trains all of it on its
    own data. By default it keeps the epoch that is best on its own validation data, as anyone would do at home; without
    that it would overfit where federated training does not. One optimizer lasts for all epochs, while federated
    training has a new one in every round.

    Args:
        epochs: see `Reference`.
        keep_best: keep the epoch with the best validation accuracy, of equal ones the earliest; otherwise the last one.
        common: what every method takes: ``flood``.
    """

    start = "initial"

    def __init__(self, epochs: PositiveInt | None = None, keep_best: bool = True, **common: Any) -> None:
        super().__init__(epochs, **common)
        self.keep_best = keep_best

    def phases(self, budget: int) -> list[Phase]:
        """Return one phase in which everything is trained."""
        return [Phase(self.epochs or budget)]


class Pooled(Reference):
    """One model, trained on the data of all clients that take part in federated training, as if in one place.

    It is federated training of a single client that has everything, with the same number of passes over the data, and
    every client uses the result as it is.
    """

    start = "pooled"

    def __init__(self, epochs: PositiveInt | None = None) -> None:
        super().__init__(epochs)

    def phases(self, budget: int) -> list[Phase]:
        """Return no phase: the model is trained before."""
        return []
