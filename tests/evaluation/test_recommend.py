"""Keep or personalize: by hand, on validation data only, ties to the simpler method."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.evaluation.recommend import choose, recommend, standard_error
from lpft.storage.client_result import ClientResult
from tests.reporting.fabricate import make_cell

CLIENTS = ("a", "b")


def cell(method: str, gained: int, lost: int = 0, client: str = "a", seed: int = 0, **changes: Any) -> ClientResult:
    """Return a cell of a client with 20 validation samples, of which the global model gets 10 right."""
    right: dict[str, Any] = {"num_val": 20, "val_before": 50.0, "val_after": 50.0 + 5 * (gained - lost)}
    counts = {"val_gained": gained, "val_lost": lost}
    return replace(make_cell(seed, method, client, CLIENTS), **{**right, **counts, **changes})


def beats_global_model(result: ClientResult) -> bool:
    return recommend([result])[0].method is not None


def test_by_hand() -> None:
    """4 gained, 1 lost of 20: gain 15 points; error sqrt(4 + 1 + 1 - 9 / 22) / 20 = 0.1182."""
    (recommended,) = recommend([cell("none", 0), cell("ft", 4, 1, accuracy=[90.0, 10.0], local_before=80.0)])
    assert (recommended.client, recommended.num_val) == ("a", 20)
    assert recommended.best_method == recommended.method == "ft"
    assert (recommended.val_before, recommended.val_after, recommended.gain) == (50.0, 65.0, 15.0)
    assert recommended.standard_error == pytest.approx(100 * math.sqrt(6 - 9 / 22) / 20)
    assert recommended.recommendation == "personalize"
    assert (recommended.test_before, recommended.test_after, recommended.test_recommended) == (80.0, 90.0, 90.0)


def test_global_model_where_no_method_is_clearly_better() -> None:
    (recommended,) = recommend([cell("ft", 3, 2), cell("lpft", 1), cell("lp", 0, 4)])
    assert (recommended.recommendation, recommended.method, recommended.gain) == ("keep", None, 5.0)
    assert recommended.test_recommended == recommended.test_before


@given(st.integers(2, 10_000))
def test_two_samples_more_convince_and_one_does_not(size: int) -> None:
    assert 2 / size > standard_error(2, 0, size)
    assert 1 / size < standard_error(1, 0, size)
    assert 1 / size < standard_error(1, 0, 1)


def test_error_is_the_one_of_agresti_and_min() -> None:
    """Their interval has the centre (b - c) / (n + 2); whether it holds zero does not depend on the scale."""
    b, c, n = 40, 20, 160
    shrunken = math.sqrt((b + 0.5) + (c + 0.5) - (b - c) ** 2 / (n + 2)) / (n + 2)
    assert standard_error(b, c, n) == pytest.approx(shrunken * (n + 2) / n)


def test_test_data_are_never_used_to_choose() -> None:
    """LP-FT is far better on the test set, FT on the validation set."""
    (recommended,) = recommend([cell("ft", 5, accuracy=[0.0, 0.0]), cell("lpft", 4, accuracy=[100.0, 100.0])])
    assert recommended.method == "ft"


def test_a_convincing_method_precedes_a_larger_unconvincing_gain() -> None:
    """6 - 3 of 20 is 15 points with an error of 15.4; 2 - 0 is 10 with 8.4."""
    (recommended,) = recommend([cell("ft", 6, 3), cell("lp", 2)])
    assert recommended.method == "lp"


@pytest.mark.parametrize("order", [("none", "lp", "ft"), ("none", "ft", "lp")])
def test_among_equals_the_first_of_the_experiment(order: tuple[str, ...]) -> None:
    found = [cell("ft", 6, 1), cell("none", 0), cell("lp", 5)]
    assert recommend(found, order)[0].method == order[1]
    assert recommend([cell("ft", 0), cell("none", 0)], order)[0].best_method == "none"


def test_seeds_average_but_add_no_samples() -> None:
    """Gains 3 and 1, the mean is 2 of 20; the error is that of 2 gained of 20, not of 4 of 40."""
    (recommended,) = recommend([cell("ft", 3, seed=0), cell("ft", 1, seed=1)])
    assert recommended.gain == pytest.approx(10)
    assert recommended.standard_error == pytest.approx(100 * standard_error(2, 0, 20))


def test_a_seed_that_is_missing_does_not_shift_the_comparison() -> None:
    """Only `ft` has seed 1, where both models are far better."""
    easy = cell("ft", 0, seed=1, val_before=90.0, val_after=90.0)
    (recommended,) = recommend([cell("ft", 4), easy, cell("lp", 3)])
    assert recommended.best_method == "lp"


@pytest.mark.parametrize("gone", [{"num_val": 0}, {"val_before": None}, {"val_after": None}])
def test_without_validation_data_the_global_model_stays(gone: dict[str, Any]) -> None:
    (recommended,) = recommend([cell("ft", 9, **gone)])
    assert (recommended.recommendation, recommended.gain, recommended.standard_error) == ("keep", None, None)
    assert not beats_global_model(cell("ft", 9, **gone))


def test_counts_that_were_not_recorded_are_those_of_independent_errors() -> None:
    """50% before and 75% after: of 20 samples 7.5 gained and 2.5 lost."""
    (recommended,) = recommend([cell("ft", 5, val_gained=None, val_lost=None)])
    assert recommended.gain == pytest.approx(25)
    assert recommended.standard_error == pytest.approx(100 * standard_error(7.5, 2.5, 20))


def test_choice_of_each_seed_is_its_own() -> None:
    found = [cell("ft", 5, seed=0), cell("ft", 1, seed=1), cell("lp", 0, 2, client="b", seed=1)]
    assert choose(found) == {(0, "a"): "ft", (1, "a"): None, (1, "b"): None}


def test_one_method_against_the_global_model() -> None:
    assert beats_global_model(cell("ft", 2))
    assert not beats_global_model(cell("ft", 1))
    assert not beats_global_model(cell("none", 0))
