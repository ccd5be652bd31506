"""Correlations against scipy's, and their intervals where clients and seeds agree or do not."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from pandas import DataFrame
from scipy import stats

from lpft.paper.evidence import correlations


def test_correlations_are_sure_of_as_much_as_clients_and_seeds_agree_on() -> None:
    """In each of six clients, the loss grows with distortion; or in only half of them, and falls in the others."""
    epochs = np.arange(1.0, 6.0)
    frames = {
        disagree: DataFrame(
            [
                (seed, client, x, -x if disagree and client % 2 else x + 0.1 * seed)
                for seed, client, x in product(range(3), range(6), epochs)
            ],
            columns=["seed", "client", "distortion", "loss"],
        )
        for disagree in (False, True)
    }
    (sure, _), (unsure, _) = correlations(frames[False]), correlations(frames[True])
    assert (sure.sign, unsure.sign) == (1, 0)
    assert 0.9 < sure.low <= sure.value <= sure.high <= 1
    assert unsure.low < -0.3 < 0.3 < unsure.high


def test_correlations_agree_with_scipy() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=40)
    columns = {
        "seed": np.arange(40) % 2,
        "client": np.arange(40) // 8,
        "distortion": x,
        "loss": x + generator.normal(size=40),
    }
    frame = DataFrame(columns)
    pearson, spearman = correlations(frame)
    assert pearson.value == pytest.approx(stats.pearsonr(x, frame["loss"]).statistic)
    assert spearman.value == pytest.approx(stats.spearmanr(x, frame["loss"]).statistic)
