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
        converged: whether its accuracy stayed within `MAX_CHANGE` points over the last tenth of the rounds.
        change: the largest difference between any two rounds of that span, in points; None if the history does not
            tell. Its two ends alone would do for a curve that rises steadily, but one that swings may end by chance
            where it began.
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
        span = _tenth(self.rounds)
        last = f"the last {span} of {self.rounds} rounds" if span > 1 else f"the last of {self.rounds} rounds"
        verdict = "converged" if self.converged else "not converged"
        bound = f"less than {MAX_CHANGE}" if self.converged else f"{MAX_CHANGE} or more"
        return f"{verdict}: validation accuracy changed by {self.change:.2f} points over {last} ({bound})"


def judge_convergence(val_accuracy: Sequence[float | None]) -> Convergence:
    """Judge a global model by its validation accuracy: less than 0.5 points of change over the last 10% of rounds.

    Args:
        val_accuracy: percent after every round; None where it is not known.

    >>> judge_convergence([50.0, 60, 70, 75, 78, 80, 81, 82, 82.5, 82.6]).converged
    True
    >>> print(judge_convergence([50.0] * 9 + [60.0]))
    not converged: validation accuracy changed by 10.00 points over the last of 10 rounds (0.5 or more)
    """
    rounds = len(val_accuracy)
    if rounds < MIN_ROUNDS:
        return Convergence(converged=False, change=None, rounds=rounds)
    span = val_accuracy[-1 - _tenth(rounds) :]
    known = [accuracy for accuracy in span if accuracy is not None]
    if len(known) < len(span):
        return Convergence(converged=False, change=None, rounds=rounds)
    change = max(known) - min(known)
    return Convergence(converged=change < MAX_CHANGE, change=change, rounds=rounds)


def _tenth(rounds: int) -> int:
    """Return a tenth of the rounds, rounded up."""
    return -(-rounds // 10)
