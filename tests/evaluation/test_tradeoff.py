from __future__ import annotations

import numpy as np
import pytest

from lpft.evaluation.certainty import estimate
from lpft.evaluation.tradeoff import Curve, area, best_point, matched


def curve(
    points: list[tuple[float, float]], seeds: int = 1, clients: int = 1, noise: float = 0.0, seed: int = 0
) -> Curve:
    """Make a curve from its means (Local, Global), with noise of its own for every seed and client."""
    rng = np.random.default_rng(seed)
    local, others = (
        np.broadcast_to(np.array(values, dtype=float)[:, None, None], (len(points), seeds, clients)).copy()
        for values in zip(*points, strict=True)
    )
    local[1:] += noise * rng.normal(size=local[1:].shape)
    others[1:] += noise * rng.normal(size=others[1:].shape)
    return Curve(local, others)


def by_means(one: Curve, other: Curve) -> float:
    """Compute the matched difference from the mean curves alone, on a fine grid."""
    means = [(c.rising().local.mean((1, 2)), c.rising().others.mean((1, 2))) for c in (one, other)]
    grid = np.linspace(means[0][0][0], min(local[-1] for local, _ in means), 20_001)
    values = [np.interp(grid, local, kept) for local, kept in means]
    return float(np.trapezoid(values[0] - values[1], grid) / (grid[-1] - grid[0]))


def test_worked_by_hand() -> None:
    bent = curve([(80, 80), (85, 82), (90, 78)])  # heights 0, 2, -2: area 5 * 1 + 5 * 0
    straight = curve([(80, 80), (86, 77)])
    assert area(bent).item() == pytest.approx(5)
    assert area(straight).item() == pytest.approx(-9)
    found = matched(bent, straight)
    assert (found.low, found.high) == (80, 86)
    # up to 86 bent has 5 * 1 + 1 * (2 + 1.2) / 2 = 6.6, straight -9
    assert found.shares.item() == pytest.approx((6.6 + 9) / 6)


def test_a_method_equals_itself_and_differences_change_sign() -> None:
    one = curve([(80, 80), (85, 82), (90, 78)], 3, 7, noise=1, seed=1)
    other = curve([(80, 80), (84, 79), (88, 74)], 3, 7, noise=1, seed=2)
    assert not matched(one, one).shares.any()
    np.testing.assert_allclose(matched(one, other).shares, -matched(other, one).shares)


def test_the_mean_of_the_shares_is_the_difference_of_the_mean_curves() -> None:
    for seed in range(5):
        one = curve([(80, 80), (85, 82), (88, 81), (87, 70)], 3, 7, noise=2, seed=seed)
        other = curve([(80, 80), (84, 79), (90, 74)], 3, 7, noise=2, seed=seed + 50)
        assert matched(one, other).shares.mean() == pytest.approx(by_means(one, other), abs=1e-4)


def test_only_the_part_that_both_reach_counts() -> None:
    one, longer = curve([(80, 80), (84, 80)]), curve([(80, 80), (84, 80), (90, 20)])
    assert matched(one, longer).shares.item() == pytest.approx(0)
    falls = curve([(80, 80), (75, 60)])
    assert not matched(one, falls).overlaps
    assert np.isnan(matched(one, falls).shares).all()


def test_clients_without_values_are_left_out() -> None:
    one, other = (curve([(80, 80), (85, 82)], 2, 4, noise=1, seed=seed) for seed in (1, 2))
    one.local[:, :, 2] = np.nan
    keep = [0, 1, 3]
    fewer = [Curve(c.local[:, :, keep], c.others[:, :, keep]) for c in (one, other)]
    np.testing.assert_array_equal(matched(one, other).shares, matched(*fewer).shares)
    nothing = Curve(np.full((2, 1, 3), np.nan), np.full((2, 1, 3), np.nan))
    assert np.isnan(
        matched(one.of(np.array([True, False]), np.ones(4, bool)), Curve(*[np.full((2, 1, 4), np.nan)] * 2)).shares
    ).all()
    assert np.isnan(area(nothing)).all()


def test_intervals_cover_the_true_difference() -> None:
    """Clients of two methods with independent noise: 95% of the intervals over 40 clients must hold the truth."""
    points, others = [(80, 80), (84, 80.5), (88, 79), (90, 76)], [(80, 80), (85, 78), (89, 72)]
    truth = by_means(curve(points), curve(others))
    covered = 0
    for seed in range(400):
        found = matched(curve(points, 1, 40, 3, seed), curve(others, 1, 40, 3, seed + 10_000))
        result = estimate(found.shares)
        covered += result.low <= truth <= result.high
    assert 0.91 <= covered / 400 <= 0.985


def test_the_best_point_is_the_first_of_the_highest() -> None:
    val = np.array([[50.0, 60, np.nan], [70, 60, np.nan], [70, 50, np.nan]])
    assert best_point(val).tolist() == [1, 0, 2]
