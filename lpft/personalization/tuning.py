"""Fair tuning: the same number of trials for every method, chosen by validation data."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

Criterion = Literal["mean", "local", "global"]


@dataclass
class Tuning:
    """The section `tune`: search the grid of each method, and run the best settings in addition to the untuned method.

    Args:
        grids: for each method, the values to try for its settings, such as ``{ft: {lr: [0.01, 0.001]}}``.
        trials: number of trials of each method, including the untuned settings; larger grids are sampled at random.
        criterion: accuracy on validation data to maximize: at home (`local`), on all clients (`global`), or their mean.
        seeds: seeds of the trials, independent of the seeds of the experiment. Their global models are trained with
            those of the experiment.
    """

    grids: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    trials: PositiveInt = 6
    criterion: Criterion = "mean"
    seeds: list[int] = field(default_factory=lambda: [0])


@dataclass(frozen=True)
class Trial:
    """One trial of one method, with its scores.

    Args:
        method: the method's name.
        number: number of the trial; 0 is the untuned method.
        settings: the changed settings.
        val_local: mean over clients and seeds of the accuracy on the client's own validation set, percent.
        val_global: mean over clients and seeds of the accuracy on the validation sets of all clients, percent.
        diverged: number of clients and seeds whose training has diverged.
    """

    method: str
    number: int
    settings: dict[str, Any]
    val_local: float
    val_global: float
    diverged: int = 0

    @property
    def name(self) -> str:
        """Name of the trial as a method."""
        return trial_name(self.method, self.number)

    def score(self, criterion: Criterion) -> float:
        """Return the score to maximize; minus infinity if any client has diverged."""
        if self.diverged:
            return -math.inf
        both = {"local": self.val_local, "global": self.val_global, "mean": (self.val_local + self.val_global) / 2}
        return both[criterion]


def trial_name(method: str, number: int) -> str:
    """Return the name of a trial as a method."""
    return f"{method}+trial{number}"


def tuned_name(method: str) -> str:
    """Return the name of a tuned method."""
    return f"{method}_tuned"


def evaluate(method: str, number: int, settings: dict[str, Any], cells: Iterable[ClientResult]) -> Trial:
    """Sum up a trial from its cells; clients without validation samples are left out."""
    cells = list(cells)
    return Trial(
        method,
        number,
        settings,
        _mean(cell.val_after for cell in cells),
        _mean(cell.val_global for cell in cells),
        sum(cell.status == "diverged" for cell in cells),
    )


def choose(trials: Iterable[Trial], criterion: Criterion) -> Trial:
    """Return the best trial of a method; on a tie the first, so that the untuned settings win.

    A trial in which a client has diverged is never chosen unless clients diverged in all trials.

    Raises:
        ValueError: if there are no validation data.
    """
    trials = list(trials)
    if any(math.isnan(trial.score(criterion)) for trial in trials):
        raise ValueError(
            "`tune` chooses by validation data, but the clients have none."
            " HINT: give them validation samples, or remove `tune`."
        )
    return max(trials, key=lambda trial: (trial.score(criterion), -trial.number))


def write_trials(run: Run, trials: Iterable[Trial], chosen: Iterable[Trial], criterion: Criterion) -> None:
    """Write tuning.csv: every trial, its scores on validation data, and which one was chosen."""
    winners = {trial.name for trial in chosen}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "trial", "settings", "val_local", "val_global", "criterion", "score", "chosen", "diverged"]
    )
    for trial in trials:
        settings = json.dumps(trial.settings)
        figures = [trial.val_local, trial.val_global, criterion, trial.score(criterion)]
        writer.writerow([trial.method, trial.number, settings, *figures, int(trial.name in winners), trial.diverged])
    write_atomically(run.root / "tuning.csv", text.getvalue())


def _mean(values: Iterable[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else math.nan
