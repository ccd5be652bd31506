"""The ladder: what gain and forgetting are made of, by methods that each do a part of what fine-tuning does.

Rungs are recognized by the method's class, so that rows may have any name. Every rung is compared with the global
model, client by client and seed by seed. See docs/methods.md for the question that each rung answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from lpft.evaluation.certainty import Estimate, estimate
from lpft.evaluation.metric import mean
from lpft.reporting.experiment import Experiment, class_name, section
from lpft.reporting.formatting import interval_end, number
from lpft.reporting.frames import Frames, complete_rows
from lpft.reporting.intervals import Certainty

FEWEST = 3
"""Minimum number of rungs of a ladder, without the global model."""

INTERVENTION = "rotated"
"""A rung that is not a step towards fine-tuning: it only moves features."""

COLUMNS = (
    *("rung", "method", "local_gain", "local_gain_low", "local_gain_high"),
    *("others_change", "others_change_low", "others_change_high", "distortion_own", "num_seeds", "num_clients"),
)
HEADER = ("method", "rung", "Local (95% interval)", "others (95% interval)", "distortion")


def _probes_only(settings: Mapping[str, Any], budget: int | None) -> bool:
    lp_epochs = settings.get("lp_epochs", 5)
    return lp_epochs is None or lp_epochs == (settings.get("epochs") or budget)


Rule = Callable[[Mapping[str, Any], int | None], bool]
"""A predicate of a method's settings and the budget of epochs: whether the method is a rung."""
ALWAYS: Rule = lambda settings, budget: True  # noqa: E731
RUNGS: Mapping[str, tuple[str, Rule]] = {
    "prior": ("PriorShift", ALWAYS),
    "adabn": ("AdaBN", ALWAYS),
    "stats_mix": ("StatsMix", ALWAYS),
    "lp": ("LPFT", _probes_only),
    "scaled_head": ("ScaledHeadFT", ALWAYS),
    "fast_head": ("FastHeadFT", ALWAYS),
    "ft": ("FT", lambda settings, budget: settings.get("epochs") in (None, budget)),
    "lpft": ("LPFT", lambda settings, budget: not _probes_only(settings, budget) and settings.get("lp_epochs", 5) > 0),
    "feature_anchor": ("FeatureAnchorFT", ALWAYS),
    INTERVENTION: ("Rotated", ALWAYS),
}
"""The rungs in order: their class, and a rule of its settings. The first method of a run that fits is the rung."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder, against the global model.

    Args:
        name: of the rung.
        method: name of the method.
        home: Local minus the global model's, percentage points.
        elsewhere: accuracy on the other clients' test sets minus the global model's, percentage points.
        distortion: mean l2 distance of the features from the global model's.
        num_seeds: number of seeds that both have.
        num_clients: number of clients.
    """

    name: str
    method: str
    home: Estimate
    elsewhere: Estimate
    distortion: float
    num_seeds: int
    num_clients: int

    @property
    def is_step(self) -> bool:
        """Whether it does a part of what fine-tuning does."""
        return self.name != INTERVENTION


def find_rungs(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the methods that are rungs, by the rung's name, in the order of the ladder.

    >>> methods = {"plain": {"class_path": "m.FT"}, "head": {"class_path": "m.LPFT", "init_args": {"lp_epochs": None}}}
    >>> find_rungs({"methods": methods})
    {'lp': 'head', 'ft': 'plain'}
    """
    budget = section(config, "personalization").get("epochs")
    methods = section(config, "methods")
    rungs: dict[str, str] = {}
    for rung, (rung_class, fits) in RUNGS.items():
        for method, settings in methods.items():
            if class_name(settings) == rung_class and fits(section(settings, "init_args"), budget):
                rungs.setdefault(rung, str(method))
    return rungs


def ladder(experiment: Experiment, frames: Frames, certainty: Certainty) -> list[Rung]:
    """Return the rungs of a run in order; none if the global model is not among the rows, or rungs are too few."""
    reference, complete = experiment.reference, experiment.complete_methods
    methods = {rung: method for rung, method in find_rungs(experiment.config).items() if method in complete}
    if reference not in complete or len(methods) < FEWEST:
        return []
    rungs = []
    for rung, method in methods.items():
        home, elsewhere = (certainty.gaps(method, str(reference), metric) for metric in ("local", "global_others"))
        distortion = mean(complete_rows(frames, frames.clients, method)["distortion_own"].dropna().tolist())
        rungs.append(Rung(rung, method, estimate(home), estimate(elsewhere), distortion, *home.shape))
    return rungs


def ladder_frame(rungs: Sequence[Rung]) -> DataFrame:
    """Return the columns of ladder.csv: one row per rung."""
    rows = []
    for rung in rungs:
        levels = [end for level in (rung.home, rung.elsewhere) for end in (level.mean, level.low, level.high)]
        rows.append((rung.name, rung.method, *levels, rung.distortion, rung.num_seeds, rung.num_clients))
    return DataFrame(rows, columns=list(COLUMNS))


def ladder_rows(rungs: Sequence[Rung]) -> list[tuple[str, list[str]]]:
    """Return method and the entries of `HEADER` for people, one row per rung."""

    def interval(level: Estimate) -> str:
        low, high = (interval_end(value, "+.1f") for value in (level.low, level.high))
        return f"{number(level.mean, '+.1f')} ({low} to {high})"

    return [(r.method, [r.name, interval(r.home), interval(r.elsewhere), f"{r.distortion:.2f}"]) for r in rungs]
