"""The section `evaluation` of an experiment."""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt


class EvaluationSettings:
    """How personalized models are tested and compared.

    Args:
        curve: number of models between the global and every personalized one that are tested, evenly spaced on the line
            between the two: 9 are a = 0.1, ..., 0.9. 0 tests none.
        equivalence: differences of at most so many percentage points count as none in practice.
    """

    def __init__(self, curve: NonNegativeInt = 9, equivalence: NonNegativeFloat = 1.0) -> None:
        self.curve = curve
        self.equivalence = equivalence
