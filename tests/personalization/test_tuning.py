from __future__ import annotations

from math import inf, nan
from types import SimpleNamespace

import pytest

from lpft.personalization.tuning import Trial, choose, evaluate


def trial(number: int, local: float, everywhere: float, diverged: int = 0) -> Trial:
    return Trial("ft", number, {"lr": number}, local, everywhere, diverged)


def test_the_choice_follows_the_stated_criterion() -> None:
    """Means: (80 + 60) / 2 = 70, (90 + 40) / 2 = 65, (60 + 81) / 2 = 70.5."""
    trials = [trial(0, 80, 60), trial(1, 90, 40), trial(2, 60, 81)]
    assert choose(trials, "local").number == 1
    assert choose(trials, "global").number == 2
    assert choose(trials, "mean").number == 2


def test_the_untuned_settings_win_a_tie() -> None:
    assert choose([trial(0, 80, 60), trial(1, 80, 60)], "mean").number == 0


def test_without_validation_data_nothing_is_chosen() -> None:
    with pytest.raises(ValueError, match="validation data"):
        choose([trial(0, nan, nan)], "mean")


def test_diverged_trials_are_chosen_only_if_all_diverge() -> None:
    assert choose([trial(0, 50, 50), trial(1, 90, 90, diverged=1)], "mean").number == 0
    assert choose([trial(0, 90, 90, diverged=1), trial(1, 50, 50)], "mean").number == 1
    assert choose([trial(0, 50, 50, diverged=1), trial(1, 90, 90, diverged=1)], "mean").number == 0
    assert trial(0, 50, 50, diverged=2).score("local") == -inf


def test_diverged_results_are_counted() -> None:
    cell = SimpleNamespace(status="ok", val_after=80.0, val_global=60.0)
    bad = SimpleNamespace(status="diverged", val_after=70.0, val_global=50.0)
    summed = evaluate("ft", 1, {}, [cell, bad, bad])  # type: ignore[list-item]
    assert summed.diverged == 2
