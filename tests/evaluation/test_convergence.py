import pytest

from lpft.evaluation.convergence import judge_convergence


def test_change_is_between_the_means_of_the_last_two_tenths() -> None:
    """Thirty rounds: (80.4 + 80.2 + 80.6) / 3 - (80.1 + 79.9 + 80.0) / 3 = 0.4, whatever was before."""
    verdict = judge_convergence([50.0] * 24 + [80.1, 79.9, 80.0, 80.4, 80.2, 80.6])
    assert verdict.converged
    assert verdict.change == pytest.approx(0.4)


def test_swings_on_a_plateau_are_convergence_and_a_steady_rise_is_not() -> None:
    assert judge_convergence([80.0, 82.0] * 50).converged
    assert not judge_convergence([50 + 0.1 * i for i in range(100)]).converged


@pytest.mark.parametrize(("last", "converged"), [(70.99, True), (71.01, False), (69.01, True), (68.99, False)])
def test_half_a_point_is_too_much_in_both_directions(last: float, converged: bool) -> None:
    """Twenty rounds: the mean of the last two is halfway between 70 and the last."""
    verdict = judge_convergence([70.0] * 19 + [last])
    assert verdict.converged is converged


@pytest.mark.parametrize("history", [[], [70.0], [70.0] * 9])
def test_short_history_cannot_be_judged(history: list[float | None]) -> None:
    verdict = judge_convergence(history)
    assert (verdict.converged, verdict.change, verdict.rounds) == (False, None, len(history))


@pytest.mark.parametrize("history", [[None] * 20, [70.0] * 19 + [None], [70.0] * 18 + [None, 70.0]])
def test_unknown_accuracy_cannot_be_judged(history: list[float | None]) -> None:
    verdict = judge_convergence(history)
    assert not verdict.converged
