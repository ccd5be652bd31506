from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from lpft.evaluation.metric import Evaluation
from lpft.evaluation.metrics import compute_client_metrics
from lpft.evaluation.sampling import mean_of_all, standard_error
from tests.reporting.fabricate import make_cell

ROW = [90.0, 40.0, 55.0, 70.0, 85.0, 62.0]


def all_samples(number: int) -> list[list[float | None]]:
    """Return the row as every sample of clients leaves it, the own client being the first."""
    drawn = combinations(range(1, 6), number)
    return [[value if place in (0, *some) else None for place, value in enumerate(ROW)] for some in drawn]


@pytest.mark.parametrize("number", [2, 3, 5])
def test_estimates_have_no_bias(number: int) -> None:
    estimates = [mean_of_all(row, 0, 6) for row in all_samples(number)]
    errors = [standard_error(row, 0, 6) for row in all_samples(number)]
    assert np.mean(estimates) == pytest.approx(np.mean(ROW))
    assert np.mean(np.square(errors)) == pytest.approx(np.var(estimates), abs=1e-12)


def test_a_whole_row_is_its_mean() -> None:
    assert mean_of_all([*ROW, None], 0, None) == pytest.approx(np.mean(ROW))
    assert standard_error(ROW, 0, None) == 0
    assert standard_error(ROW, 0, 6) == 0
    assert np.isnan(mean_of_all([None], 0, None))


def test_the_registry_estimates_global_from_a_sample() -> None:
    clients = tuple("abcdef")
    cells = [make_cell(0, "ft", client, clients) for client in clients]
    accuracy = np.array([cell.accuracy for cell in cells])
    keep = np.eye(6, dtype=bool)
    keep[:, [1, 4, 5]] = True
    for cell, row in zip(cells, np.where(keep, accuracy, np.nan), strict=True):
        cell.accuracy = [None if np.isnan(value) else float(value) for value in row]
        cell.num_testable = 6
    metrics = compute_client_metrics(Evaluation(np.where(keep, accuracy, np.nan), cells))
    expected = (accuracy[0, 0] + 5 * accuracy[0, [1, 4, 5]].mean()) / 6
    assert metrics["global_all"][0] == pytest.approx(expected)
    assert metrics["global_all_error"][0] == pytest.approx(standard_error(cells[0].accuracy, 0, 6))
    assert metrics["global_others"][0] == pytest.approx(accuracy[0, [1, 4, 5]].mean())
