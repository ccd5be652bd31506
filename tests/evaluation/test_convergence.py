import pytest

from lpft.evaluation.convergence import judge_convergence


def test_change_is_over_the_last_tenth() -> None:
    """Thirty rounds: from round 27 to round 30, whatever was before."""
    verdict = judge_convergence([50.0] * 26 + [80.0, 80.2, 80.3, 80.4])
    assert verdict.converged
    assert verdict.change == pytest.approx(0.4)
    assert "last 3 of 30 rounds" in str(verdict)


def test_swinging_back_by_chance_is_no_convergence() -> None:
    assert not judge_convergence([50.0] * 12 + [38.1, 35.2, 38.0]).converged


@pytest.mark.parametrize(("last", "converged"), [(70.49, True), (70.5, False), (69.51, True), (69.5, False)])
def test_half_a_point_is_too_much_in_both_directions(last: float, converged: bool) -> None:
    verdict = judge_convergence([70.0] * 19 + [last])
    assert verdict.converged is converged
    assert str(verdict).startswith("converged" if converged else "not converged")


def test_a_part_of_a_tenth_counts_as_a_round() -> None:
    """Of eleven rounds the last tenth is 1.1: two rounds are looked at."""
    assert not judge_convergence([0.0] * 9 + [50.0, 50.0]).converged


@pytest.mark.parametrize("history", [[], [70.0], [70.0] * 9])
def test_short_history_cannot_be_judged(history: list[float | None]) -> None:
    verdict = judge_convergence(history)
    assert (verdict.converged, verdict.change, verdict.rounds) == (False, None, len(history))
    assert "fewer than 10" in str(verdict)


@pytest.mark.parametrize("history", [[None] * 20, [70.0] * 19 + [None], [70.0] * 18 + [None, 70.0]])
def test_unknown_accuracy_cannot_be_judged(history: list[float | None]) -> None:
    verdict = judge_convergence(history)
    assert not verdict.converged
    assert "no validation accuracy" in str(verdict)
