from __future__ import annotations

from math import nan

import pytest

from lpft.personalization.tuning import Trial, choose


def trial(number: int, local: float, everywhere: float) -> Trial:
    return Trial("ft", number, {"lr": number}, local, everywhere)


def test_the_choice_goes_by_the_stated_criterion() -> None:
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
