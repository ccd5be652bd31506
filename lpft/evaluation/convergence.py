"""Is the global model ready to be personalized?

Fine-tuning a model that still improves repairs it as well as personalizing it; the two cannot be told apart afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHANGE = 0.5
MIN_ROUNDS = 10


@dataclass(frozen=True)
class Convergence:
    """Verdict on a global model.

    Args:
        converged: whether its accuracy changed by less than `MAX_CHANGE` points over the last tenth of the rounds.
        change: mean accuracy of the last tenth of the rounds minus that of the tenth before, in points; None if the
            history does not tell. Means, since from one round to the next the accuracy on a small validation set
            swings by more than that even on a plateau.
        rounds: number of rounds in the history.
    """

    converged: bool
    change: float | None
    rounds: int

    def __str__(self) -> str:
        """Say it in words, with the numbers behind it."""
        if self.change is None:
            reason = "no validation accuracy" if self.rounds >= MIN_ROUNDS else f"fewer than {MIN_ROUNDS}"
            return f"not converged: cannot be judged from {self.rounds} rounds ({reason})"
        verdict = "converged" if self.converged else "not converged"
        bound = f"less than {MAX_CHANGE}" if self.converged else f"{MAX_CHANGE} or more"
        span = f"the last tenth of {self.rounds} rounds"
        return f"{verdict}: mean validation accuracy changed by {self.change:+.2f} points in {span} ({bound})"


def judge_convergence(val_accuracy: Sequence[float | None]) -> Convergence:
    """Judge a global model by its validation accuracy: less than 0.5 points of change over the last 10% of rounds.

    Args:
        val_accuracy: percent after every round; None where it is not known.

    >>> judge_convergence([50.0, 60, 70, 75, 78, 80, 81, 82, 82.5, 82.6]).converged
    True
    >>> print(judge_convergence([50.0] * 9 + [60.0]))
    not converged: mean validation accuracy changed by +10.00 points in the last tenth of 10 rounds (0.5 or more)
    """
    rounds = len(val_accuracy)
    span = -(-rounds // 10)  # a tenth, rounded up
    known = [accuracy for accuracy in val_accuracy[-2 * span :] if accuracy is not None]
    if rounds < MIN_ROUNDS or len(known) < 2 * span:
        return Convergence(converged=False, change=None, rounds=rounds)
    change = (sum(known[span:]) - sum(known[:span])) / span
    return Convergence(converged=abs(change) < MAX_CHANGE, change=change, rounds=rounds)
