"""The section `evaluation` of an experiment."""

from __future__ import annotations

from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

MetricName = Literal["accuracy", "balanced_accuracy", "auroc"]


class EvaluationSettings:
    """How personalized models are tested and compared.

    Args:
        curve: number of models between the global and every personalized one that are tested, evenly spaced on the line
            between the two: 9 are a = 0.1, ..., 0.9. 0 tests none.
        metric: what the matrix and everything that is made of it show, percent. ``balanced_accuracy`` is the mean
            recall of the classes; ``auroc`` the area under the ROC curve, of one class against the rest where there are
            more than two. Choices by validation data go by accuracy.
        clients: test every model on its own client and on so many drawn ones, which are the same for all models of a
            seed; null tests on all.
        equivalence: differences of at most so many percentage points count as none in practice.
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
