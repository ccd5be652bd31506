"""Certainty: by hand, by sums of squares computed in loops, against scipy, and by invariances."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lpft.evaluation.certainty import Estimate, complete_block, crossed, estimate, holm, mean_squares, verdict

ROOT = Path(__file__).parents[2]
BY_HAND = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 10.0]])
"""Means of seeds 3 and 5, of clients 2, 2 and 8, of all 4; residuals 0, 1, -1 and their negatives."""


def draw(num_seeds: int, num_clients: int, seed: int = 0, scales: tuple[float, float, float] = (2, 3, 1)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    of_seeds, of_clients, error = scales
    values = of_seeds * rng.normal(size=(num_seeds, 1)) + of_clients * rng.normal(size=(1, num_clients))
    return 5 + values + error * rng.normal(size=(num_seeds, num_clients))


def in_loops(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, variance of the mean and degrees of freedom by the sums of squares of an analysis of variance."""
    num_seeds, num_clients = values.shape
    number = num_seeds * num_clients
    correction = values.sum() ** 2 / number
    of_seeds = sum(row.sum() ** 2 for row in values) / num_clients - correction
    of_clients = sum(column.sum() ** 2 for column in values.T) / num_seeds - correction
    of_error = sum(value**2 for value in values.ravel()) - correction - of_seeds - of_clients
    df = (num_seeds - 1, num_clients - 1, (num_seeds - 1) * (num_clients - 1))
    seeds, clients, error = of_seeds / df[0], of_clients / df[1], of_error / df[2]
    if seeds <= error and clients <= error:
        return values.mean(), error / number, df[2]
    if seeds <= error:
        return values.mean(), clients / number, df[1]
    if clients <= error:
        return values.mean(), seeds / number, df[0]
    numerator = seeds + clients - error
    terms = zip((seeds, clients, error), df, strict=True)
    satterthwaite = numerator**2 / sum(square**2 / degrees for square, degrees in terms)
    return values.mean(), numerator / number, max(satterthwaite, min(df[:2]))


def test_by_hand() -> None:
    """MS_seed = 3 * 2 = 6, MS_client = 2 * 24 / 2 = 24, MS_error = 4 / 2 = 2; variance (6 + 24 - 2) / 6 = 14 / 3.

    Degrees of freedom: 28^2 / (6^2 / 1 + 24^2 / 2 + 2^2 / 2) = 784 / 326.
    """
    assert [float(square) for square in mean_squares(BY_HAND)] == [6.0, 24.0, 2.0]
    found = estimate(BY_HAND)
    assert found.mean == 4.0
    assert found.std_error**2 == pytest.approx(14 / 3)
    assert found.df == pytest.approx(784 / 326)
    margin = stats.t.ppf(0.975, 784 / 326) * math.sqrt(14 / 3)
    assert (found.low, found.high) == pytest.approx((4 - margin, 4 + margin))
    assert found.margin == pytest.approx(margin)
    assert found.p == pytest.approx(2 * stats.t.sf(4 / math.sqrt(14 / 3), 784 / 326))
    assert (found.num_seeds, found.num_clients, found.clients_only) == (2, 3, False)


@pytest.mark.parametrize(
    ("scales", "expected_df"),
    [((0, 3, 1), 5.0), ((3, 0, 1), 2.0), ((0, 0, 1), 10.0)],
    ids=["no seeds", "no clients", "neither"],
)
def test_a_component_that_would_be_negative_is_zero(scales: tuple[float, float, float], expected_df: float) -> None:
    studies = [draw(3, 6, seed, scales) for seed in range(60)]
    clipped = [study for study in studies if in_loops(study)[2] == expected_df]
    assert clipped
    for study in clipped:
        _, variance, _ = in_loops(study)
        found = estimate(study)
        assert found.df == expected_df
        assert found.std_error**2 == pytest.approx(variance)
        assert found.std_error**2 >= max(map(float, mean_squares(study))) / 18 * (1 - 1e-9)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (5, 50), (4, 3)])
@pytest.mark.parametrize("scales", [(2, 3, 1), (0, 1, 2), (1, 0, 3), (0, 0, 1)])
def test_equals_sums_of_squares(shape: tuple[int, int], scales: tuple[float, float, float]) -> None:
    for seed in range(10):
        values = draw(*shape, seed, scales)
        mean, variance, df = in_loops(values)
        found = estimate(values)
        assert (found.mean, found.std_error**2, found.df) == pytest.approx((mean, variance, df), rel=1e-6)


def test_many_studies_at_once_equal_single_ones() -> None:
    studies = np.stack([draw(3, 4, seed) for seed in range(6)]).reshape(2, 3, 3, 4)
    mean, std_error, df = crossed(studies)
    for place in np.ndindex(2, 3):
        alone = estimate(studies[place])
        assert (mean[place], std_error[place], df[place]) == pytest.approx((alone.mean, alone.std_error, alone.df))


def test_invariances() -> None:
    values = draw(4, 7)
    found = estimate(values)
    rng = np.random.default_rng(1)
    permuted = estimate(values[rng.permutation(4)][:, rng.permutation(7)])
    assert (permuted.mean, permuted.std_error, permuted.df) == pytest.approx((found.mean, found.std_error, found.df))
    shifted = estimate(values + 100)
    assert (shifted.mean, shifted.std_error, shifted.df) == pytest.approx((found.mean + 100, found.std_error, found.df))
    scaled = estimate(-3 * values)
    assert (scaled.mean, scaled.std_error, scaled.df) == pytest.approx((-3 * found.mean, 3 * found.std_error, found.df))
    assert (scaled.low, scaled.high, scaled.p) == pytest.approx((-3 * found.high, -3 * found.low, found.p))
    swapped = estimate(values.T)
    assert (swapped.std_error, swapped.df) == pytest.approx((found.std_error, found.df))


@pytest.mark.parametrize("one_seed", [True, False])
def test_one_seed_or_one_client_is_a_t_interval(one_seed: bool) -> None:
    values = draw(1, 9)
    found = estimate(values if one_seed else values.T)
    expected = stats.ttest_1samp(values[0], 0)
    assert (found.df, found.p) == pytest.approx((8, expected.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.clients_only is one_seed
    assert (found.num_seeds, found.num_clients) == ((1, 9) if one_seed else (9, 1))


def test_a_single_value_has_no_ends() -> None:
    found = estimate([[7.0]])
    assert found.mean == 7.0
    assert all(map(math.isnan, (found.low, found.high, found.std_error, found.df, found.p)))
    assert verdict(found, math.nan) == "undecided"


@pytest.mark.parametrize("values", [np.full((2, 3), np.nan), np.empty((0, 3)), np.empty((2, 0))])
def test_nothing_at_all(values: np.ndarray) -> None:
    found = estimate(values)
    assert all(map(math.isnan, (found.mean, found.low, found.high)))
    assert (found.num_seeds, found.num_clients) == (0, 0)


def test_refuses_one_dimension() -> None:
    with pytest.raises(ValueError, match="two dimensions, not 1"):
        estimate([1.0, 2.0])


def test_clients_without_test_samples_and_seeds_that_are_missing_are_dropped() -> None:
    values = draw(3, 6)
    holes = np.full((4, 8), np.nan)
    holes[np.ix_([0, 1, 3], [0, 1, 3, 4, 5, 7])] = values
    assert estimate(holes) == estimate(values)
    single = values.copy()
    single[1, 2] = np.nan
    assert estimate(single) == estimate(np.delete(values, 2, axis=1)), "one of three is a larger share than one of six"
    mostly = values.copy()
    mostly[1, 1:] = np.nan
    assert estimate(mostly) == estimate(np.delete(values, 1, axis=0))


def test_complete_block_copies() -> None:
    values = draw(2, 3)
    complete_block(values)[:] = 0
    assert values.all()


# Holm and verdicts


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, then 0.04, which may not be smaller."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested() -> None:
    adjusted = holm([math.nan, 0.02, 0.01])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.02])


def judged(mean: float, std_error: float, **options: object) -> str:
    difference = Estimate(mean, std_error, df=20.0, num_seeds=3, num_clients=11)
    return verdict(difference, holm([difference.p])[0], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mean", "std_error", "word"),
    [
        (3.0, 1.0, "better"),
        (-3.0, 1.0, "worse"),
        (0.0, 0.3, "equivalent"),
        (0.6, 0.2, "equivalent"),  # significant, and within the region
        (0.9, 0.2, "better"),  # significant, and not within it
        (0.0, 1.0, "undecided"),
        (1.5, 1.0, "undecided"),
        (0.0, 0.0, "equivalent"),
        (2.0, 0.0, "better"),
    ],
)
def test_words(mean: float, std_error: float, word: str) -> None:
    assert judged(mean, std_error) == word


def test_lower_may_be_better() -> None:
    assert judged(3.0, 1.0, better="lower") == "worse"
    assert judged(-3.0, 1.0, better="lower") == "better"


def test_the_region_is_a_setting() -> None:
    assert judged(0.0, 1.0, equivalence=3.0) == "equivalent"
    assert judged(0.6, 0.2, equivalence=0.0) == "better"
    assert judged(0.0, 0.0, equivalence=0.0) == "equivalent", "two methods that never differ"


def test_the_region_has_the_ends_of_two_one_sided_tests() -> None:
    """The upper end of the 90% interval is 1 where the one-sided p-value of a difference of 1 is 0.05."""
    std_error = 0.5 / stats.t.ppf(0.95, 20)
    assert judged(0.5, 0.999 * std_error) == "equivalent"
    assert judged(0.5, 1.001 * std_error) != "equivalent"


def test_many_methods_make_it_harder_to_be_better() -> None:
    difference = Estimate(2.0, 0.9, df=20.0, num_seeds=3, num_clients=11)
    assert difference.p < 0.05 < holm([difference.p] * 5)[0]
    assert verdict(difference, holm([difference.p] * 5)[0]) == "undecided"


def test_the_interval_covers_the_truth() -> None:
    """Four thousand studies: 95% +- 2, of which the standard error of the share is 0.35%."""
    rng = np.random.default_rng(3)
    shape = (4000, 5, 10)
    values = rng.normal(size=(4000, 5, 1)) + 2 * rng.normal(size=(4000, 1, 10)) + rng.normal(size=shape)
    mean, std_error, df = crossed(values)
    assert (abs(mean) <= std_error * stats.t.ppf(0.975, df)).mean() == pytest.approx(0.95, abs=0.02)


def test_the_coverage_table_is_made_from_these_functions() -> None:
    """Four hundred studies with another seed agree with the rows of docs/certainty.md within noise."""
    options = ("--studies", "400", "--seed", "1", "--seeds", "3", "--clients", "10")
    command = [sys.executable, ROOT / "benchmarks" / "coverage.py", *options]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown = (ROOT / "docs" / "certainty.md").read_text(encoding="utf-8")
    rows = {tuple(row.split("|")[1:4]): row for row in shown.splitlines() if row.startswith("|")}
    for row in table.splitlines()[2:]:
        found, expected = (
            [float(number) for number in line.split("|")[4:9]] for line in (row, rows[tuple(row.split("|")[1:4])])
        )
        assert found == pytest.approx(expected, abs=4)
