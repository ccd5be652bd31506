"""What tuning did: its trials, what it chose, and what that gained."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lpft.reporting.console import mean_and_std
from lpft.reporting.sweeps import Point, label, tuned_of
from lpft.reporting.tables import difference_rows, summary_rows
from lpft.storage.run import Run

CRITERIA = {
    "local": "the accuracy of the clients' models on their own validation sets",
    "global": "the accuracy of the clients' models on the validation sets of all clients",
    "mean": "the mean of the accuracies on the clients' own validation sets and on those of all clients",
}
"""What the best trial of a method is best in."""
METRICS = ("local", "global_all", "average3")
COMPARED_COLUMNS = ("method", "chosen settings", "Local", "Global", "average3", "n")
TRIAL_COLUMNS = ("method", "trial", "settings", "val local", "val global", "score", "")

TableRow = tuple[str, list[str]]


@dataclass(frozen=True)
class Tuned:
    """What the report says about tuning.

    Args:
        rule: how the settings were chosen, in words.
        compared: three rows for every tuned method, untuned, tuned and their difference, in `COMPARED_COLUMNS`.
        trials: one row per trial, in `TRIAL_COLUMNS`; the chosen ones are marked in the last.
    """

    rule: str
    compared: list[TableRow]
    trials: list[TableRow]
    compared_header: tuple[str, ...] = COMPARED_COLUMNS
    trials_header: tuple[str, ...] = TRIAL_COLUMNS


def read_tuned(point: Point) -> Tuned | None:
    """Return what tuning did in a run; None if there was none."""
    trials = read_trials(point.run)
    chosen = tuned_of(point.config)
    if not trials:
        return None
    compared = [row for name, settings in chosen.items() for row in _compared(point, name, settings)]
    return Tuned(_rule(point.run, trials), compared, [_trial_row(trial) for trial in trials])


def read_trials(run: Run) -> list[dict[str, str]]:
    """Return the rows of tuning.csv; none if there was no tuning."""
    try:
        with (run.root / "tuning.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _rule(run: Run, trials: list[dict[str, str]]) -> str:
    by_method: dict[str, int] = {}
    for trial in trials:
        by_method[trial["method"]] = by_method.get(trial["method"], 0) + 1
    numbers = sorted(set(by_method.values()))
    counted = f"{numbers[0]} trials" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} trials"
    seeds = run.tuning.seeds()
    listed = f" with {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}" if seeds else ""
    criterion = CRITERIA.get(trials[0].get("criterion", ""), "validation accuracy")
    return (
        f"Every tuned method had {counted}{listed}, the untuned settings among them. The best by {criterion} was"
        " chosen; of equal ones the first. Test data chose nothing; the figures below are of test data, and their"
        " difference is taken seed by seed."
    )


def _compared(point: Point, name: str, settings: Mapping[str, Any]) -> list[TableRow]:
    base = name.removesuffix("_tuned")
    summary = {(row["method"], row["metric"]): row for row in summary_rows(point.rows)}
    rows: list[TableRow] = []
    for method, words in ((base, "untuned"), (name, label(settings) or "as untuned: nothing was better")):
        if (method, "local") in summary:
            own = [summary[method, metric] for metric in METRICS]
            rows.append((method, [words, *(mean_and_std(figure, "{:.1f}") for figure in own), str(own[0]["n"])]))
    gaps = {(row["method"], row["metric"]): row for row in difference_rows(point.rows, base)}
    if (name, "local") in gaps:
        own = [gaps[name, metric] for metric in METRICS]
        signed = [mean_and_std(figure, "{:+.1f}", "{:.1f}") for figure in own]
        rows.append(("", ["difference", *signed, str(own[0]["n"])]))
    return rows


def _trial_row(trial: Mapping[str, str]) -> TableRow:
    try:
        settings = label(json.loads(trial["settings"])) or "untuned"
    except (ValueError, AttributeError):
        settings = trial["settings"]
    figures = [_percent(trial[name]) for name in ("val_local", "val_global", "score")]
    diverged = trial.get("diverged") or "0"
    notes = [word for word, holds in (("chosen", trial["chosen"] == "1"), ("diverged", diverged != "0")) if holds]
    return trial["method"], [trial["trial"], settings, *figures, ", ".join(notes)]


def _percent(text: str) -> str:
    try:
        return f"{float(text):.2f}"
    except ValueError:
        return text
