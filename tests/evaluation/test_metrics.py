"""Figures of the accuracy matrix, by hand, against scikit-learn and against published rows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score

from lpft.evaluation.metric import Evaluation
from lpft.evaluation.metrics import compute_client_metrics, compute_metrics, hurt_share

MATRIX = np.array([[90.0, 60.0, 30.0], [50.0, 80.0, 20.0], [40.0, 70.0, 100.0]])


def matrix_metrics(matrix: np.ndarray, ddof: int = 0) -> dict[str, float]:
    return compute_metrics(Evaluation(matrix, ddof=ddof))


def client_metrics(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return compute_client_metrics(Evaluation(matrix))


def test_matrix_metrics_by_hand() -> None:
    """Row means 60, 50, 70; others' means 45, 35, 55; minima elsewhere 30, 20, 40; squares 1800 a row."""
    metrics = matrix_metrics(MATRIX)
    expected = {
        "local": 90.0,
        "global_all": 60.0,
        "global_others": 45.0,
        "cstd_row": (math.sqrt(600) + math.sqrt(600) + math.sqrt(600)) / 3,
        "cstd_local": math.sqrt(200 / 3),
        "worst_row": 30.0,
        "worst_local": 80.0,
        "worst_pair": 20.0,
        "average3": 60.0,
        "average2": 75.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_ddof_one_divides_by_one_less() -> None:
    assert matrix_metrics(MATRIX, ddof=1)["cstd_local"] == pytest.approx(10.0)
    assert matrix_metrics(MATRIX, ddof=1)["cstd_row"] == pytest.approx(30.0)


def test_client_metrics_by_hand() -> None:
    metrics = client_metrics(MATRIX)
    assert metrics["local"].tolist() == [90, 80, 100]
    assert metrics["global_all"].tolist() == [60, 50, 70]
    assert metrics["global_others"].tolist() == [45, 35, 55]
    assert metrics["worst"].tolist() == [30, 20, 40]


@given(st.integers(2, 7).flatmap(lambda size: arrays(np.float64, (size, size), elements=st.floats(0, 100, width=32))))
def test_global_all_is_local_and_others_in_proportion(matrix: np.ndarray) -> None:
    metrics, size = matrix_metrics(matrix), len(matrix)
    assert metrics["global_all"] == pytest.approx((metrics["local"] + (size - 1) * metrics["global_others"]) / size)


def test_client_without_test_samples_is_left_out() -> None:
    matrix = MATRIX.copy()
    matrix[:, 2] = np.nan
    metrics = matrix_metrics(matrix)
    assert metrics["local"] == pytest.approx(85.0)
    assert metrics["global_others"] == pytest.approx((60 + 50 + 55) / 3)
    assert metrics["worst_pair"] == 40.0


@pytest.mark.filterwarnings("error")
def test_single_client_has_no_others() -> None:
    metrics = matrix_metrics(np.array([[87.5]]))
    assert (metrics["local"], metrics["global_all"], metrics["average2"]) == (87.5, 87.5, 87.5)
    assert all(math.isnan(metrics[name]) for name in ("global_others", "worst_row", "average3"))


@pytest.mark.filterwarnings("error")
def test_missing_values_are_nan_without_warnings() -> None:
    metrics = matrix_metrics(np.full((2, 2), np.nan))
    assert all(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("shape", [(2, 3), (4,), (0, 0)])
def test_other_shapes_than_square_matrices_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one row and one column per client"):
        matrix_metrics(np.zeros(shape))


def test_against_scikit_learn() -> None:
    """Equal test sets: the mean over a row is the accuracy on all of them pooled."""
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 3, (4, 50)), rng.integers(0, 3, (4, 4, 50))
    matrix = np.array([[100 * accuracy_score(truth[j], guess[i, j]) for j in range(4)] for i in range(4)])
    pooled = [100 * accuracy_score(truth.ravel(), guess[i].ravel()) for i in range(4)]
    assert client_metrics(matrix)["global_all"] == pytest.approx(pooled)
    assert matrix_metrics(matrix)["global_all"] == pytest.approx(np.mean(pooled))


@pytest.mark.parametrize(
    ("local", "global_all", "cstd", "worst", "average"),
    [(76.18, 76.25, 0.35, 76.31, 76.25), (76.44, 76.63, 0.71, 76.81, 76.63), (77.51, 77.49, 0.48, 77.46, 77.49)],
)
def test_published_rows_of_two_clients(
    local: float, global_all: float, cstd: float, worst: float, average: float
) -> None:
    """CheXpert in Table 2 (arXiv:2511.12695): two clients, so a matrix with these figures can be written down.

    Its rows are (local, worst) and (worst, local): Global is then their mean, and Average the mean of the three. The
    published std is a mean of seeds' absolute differences, hence at least half the mean difference.
    """
    metrics = matrix_metrics(np.array([[local, worst], [worst, local]]))
    assert metrics["global_all"] == pytest.approx(global_all, abs=0.011)
    assert metrics["average3"] == pytest.approx(average, abs=0.011)
    assert metrics["cstd_row"] <= cstd + 0.01


@pytest.mark.parametrize(
    ("local", "global_all", "worst", "average"),
    [
        (54.50, 44.16, 19.83, 39.50),
        (61.76, 53.58, 25.82, 47.05),
        (63.55, 55.35, 26.33, 48.41),
        (91.17, 67.87, 42.03, 67.02),
        (92.09, 81.40, 61.71, 78.40),
        (91.20, 82.78, 65.80, 79.92),
        (93.24, 83.32, 71.89, 82.82),
    ],
)
def test_published_average_is_the_mean_of_three(local: float, global_all: float, worst: float, average: float) -> None:
    """Rows of Table 2 for CIFAR10-C, Digit5 and CelebA, as five clients' matrices with exactly these figures.

    Own accuracy `local`, one other client at `worst`, the remaining three sharing what is left of the row's mean.
    """
    rest = (5 * global_all - local - worst) / 3
    row = np.array([local, worst, rest, rest, rest])
    metrics = matrix_metrics(np.array([np.roll(row, shift) for shift in range(5)]))
    assert (metrics["local"], metrics["global_all"]) == pytest.approx((local, global_all))
    assert metrics["worst_row"] == pytest.approx(min(worst, rest))
    assert (metrics["local"] + metrics["global_all"] + worst) / 3 == pytest.approx(average, abs=0.011)
    assert abs(metrics["average2"] - average) > 3


def test_hurt_share_counts_only_a_fall() -> None:
    after, before = np.array([90.0, 80.0, 70.0, np.nan, 50.0]), np.array([90.0, 85.0, 60.0, 10.0, np.nan])
    assert hurt_share(after, before) == pytest.approx(1 / 3)
    assert math.isnan(hurt_share(np.array([np.nan]), np.array([1.0])))
