"""The section `evaluation` of an experiment."""

from __future__ import annotations

from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

MetricName = Literal["accuracy", "balanced_accuracy", "auroc"]


class EvaluationSettings:
    """How personalized models are tested and compared.

    Args:
        curve: number of evenly spaced models to test on the line between the global and every personalized model: 9
            are a = 0.1, ..., 0.9. 0 tests none.
        metric: metric of the matrix and of everything computed from it, percent. ``balanced_accuracy`` is the mean
            recall of the classes; ``auroc`` the area under the ROC curve, one-vs-rest for more than two classes.
            Choices by validation data always use accuracy.
        clients: number of randomly drawn clients, the same for all models of a seed, to test every model on in addition
            to its own client; null tests on all clients.
        equivalence: half width of the region of practical equivalence, in percentage points.
    """

    def __init__(
        self,
        curve: NonNegativeInt = 9,
        metric: MetricName = "accuracy",
        clients: PositiveInt | None = None,
        equivalence: NonNegativeFloat = 1.0,
    ) -> None:
        self.curve = curve
        self.metric = metric
        self.clients = clients
        self.equivalence = equivalence
