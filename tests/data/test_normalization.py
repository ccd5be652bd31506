"""From stored inputs to what a network takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lpft.data.normalization import standardization

ROWS = torch.tensor([[1.0, math.nan], [3.0, 5.0], [5.0, 5.0], [100.0, 100.0]])
TRAIN = np.arange(3)


def test_standardizing_by_hand() -> None:
    """Mean 3 and deviation sqrt(8/3) of 1, 3, 5; the second feature is 5 where it is there, and so constant."""
    measured = standardization(ROWS, TRAIN, ["a", "b"], fills=True)
    assert measured.mean == (3, 5)
    assert measured.std == pytest.approx((math.sqrt(8 / 3), 1))
    normal = measured(ROWS.expand(2, 4, 2), torch.float64)
    assert normal.dtype == torch.float64
    assert normal[1, :2].tolist() == [pytest.approx([-2 / math.sqrt(8 / 3), 0]), [0, 0]]
    assert standardization(ROWS, TRAIN, ["a", "b"], fills=False)(ROWS)[0].isnan().tolist() == [False, True]


def test_what_is_given_is_a_setting_and_what_is_measured_is_not() -> None:
    """Last bits of what is measured depend on the machine, so that results must not belong to them."""
    half = standardization(ROWS, TRAIN, ["a", "b"], fills=True, mean=[1.0, 2.0])
    assert half.mean == (1, 2)
    assert half.settings() == {"mean": [1, 2], "std": "training data"}
    given = standardization(ROWS, TRAIN, ["a", "b"], fills=True, mean=[0.0], std=[2.0])
    assert given.settings() == {"mean": [0, 0], "std": [2, 2]}
    with pytest.raises(ValueError, match="not above 0"):
        standardization(ROWS, TRAIN, ["a", "b"], fills=True, std=[1.0, 0.0])


def test_a_large_offset_does_not_hide_the_deviation() -> None:
    rows = torch.tensor([[4096.0], [4097.0], [4098.0]])
    assert standardization(rows, TRAIN, ["a"], fills=False).std[0] == pytest.approx(math.sqrt(2 / 3))
    assert standardization(torch.full((3, 1), 0.1), TRAIN, ["a"], fills=False).std == (1,)
    assert standardization(rows, TRAIN[:0], ["a"], fills=False)(rows).isfinite().all()
