"""Convergence of the global model: fine-tuning a model that has not converged also continues its general training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHANGE = 0.5
MIN_ROUNDS = 10


@dataclass(frozen=True)
class Convergence:
    """Whether a global model has converged.

    Args:
        converged: whether its accuracy changed by less than `MAX_CHANGE` points over the last tenth of the rounds.
        change: mean accuracy of the last tenth of the rounds minus that of the tenth before, in percentage points; None
            if the history is too short. On small validation sets, single rounds vary by more even on a plateau.
        rounds: number of rounds in the history.
    """

    converged: bool
    change: float | None
    rounds: int


def judge_convergence(val_accuracy: Sequence[float | None]) -> Convergence:
    """Judge a global model by its validation accuracy: less than 0.5 points of change over the last 10% of rounds.

    Args:
        val_accuracy: accuracy after every round, in percent; None for rounds without evaluation.

    >>> judge_convergence([50.0, 60, 70, 75, 78, 80, 81, 82, 82.5, 82.6]).converged
    True
    >>> judge_convergence([50.0] * 9 + [60.0]).change
    10.0
    """
    rounds = len(val_accuracy)
    span = -(-rounds // 10)  # a tenth, rounded up
    measured = [accuracy for accuracy in val_accuracy[-2 * span :] if accuracy is not None]
    if rounds < MIN_ROUNDS or len(measured) < 2 * span:
        return Convergence(converged=False, change=None, rounds=rounds)
    change = (sum(measured[span:]) - sum(measured[:span])) / span
    return Convergence(converged=abs(change) < MAX_CHANGE, change=change, rounds=rounds)
