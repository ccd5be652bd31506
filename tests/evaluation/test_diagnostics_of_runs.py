"""Diagnostics of whole runs: data and settings that bring them about, and the same run without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpft.methods.lpft import LPFT
from lpft.types import State
from tests.commands import table, toy
from tests.toy import ToySource

pytestmark = pytest.mark.usefixtures("undrawn")

HERE = "tests.evaluation.test_diagnostics_of_runs"
LEARNT = ("--seeds", "[0]", "--federation.rounds", 20, "--personalization.epochs", 30)
"""Enough rounds to converge, and epochs to learn by heart."""
DONE = ("--methods.lpft.lp_epochs", 20, "--methods.lpft.lp_lr", 1e-4)
"""A head that hardly moves does not improve either."""


class Scrambled(ToySource):
    """Client c0 has nine training samples with wrong labels, three of each class; what it is tested on is right."""

    def __init__(self) -> None:
        super().__init__((9, 33, 40, 24, 17))

    def draw(self, rng: np.random.Generator, client: int, split: str, num: int) -> tuple[np.ndarray, ...]:
        images, labels = super().draw(rng, client, split, num)
        return images, (labels + 1) % 3 if (client, split) == (0, "train") else labels


class Disjoint(ToySource):
    """Three clients, each of which knows a class that no other has."""

    def __init__(self) -> None:
        super().__init__((30, 30, 30))

    def draw(self, rng: np.random.Generator, client: int, split: str, num: int) -> tuple[np.ndarray, ...]:
        images = rng.integers(0, 120, (num, 1, 8, 8))
        images[:, 0, 2 * client : 2 * client + 2, 2:6] += 60
        return images.astype(np.uint8), np.full(num, client)


class Drifting(LPFT):
    """Linear probing that does not leave the body alone."""

    def project(self, params: State, global_params: State, memory: State) -> State:
        return {name: 1.01 * p if name.startswith("body.") else p for name, p in params.items()}


def signs(out: Path, *words: Any) -> set[tuple[str, str, str]]:
    """Run and return name, client and method of what was found."""
    run = toy("run", out, *words)
    return {(row["diagnostic"], row["client"], row["method"]) for row in table(run.root / "diagnostics.csv")}


def test_a_run_without_any(out: Path) -> None:
    assert signs(out, *LEARNT, *DONE) == set()


def test_few_rounds_short_probing_and_a_drifting_body(out: Path) -> None:
    found = signs(out, "--seeds", "[0]", "--methods.drift", f"{HERE}.Drifting", "--methods.drift.lp_epochs", "null",
                  "--methods.lpft.lp_lr", 0.1)  # fmt: skip
    assert {("global model not converged", "", ""), ("linear probing too short", "", "lpft")} <= found
    assert ("normalization drift", "", "drift") in found
    assert not {method for name, _, method in found if name == "normalization drift"} - {"drift"}


@pytest.mark.parametrize("data", ["Scrambled", "Disjoint"])
def test_little_data_and_nothing_in_common(data: str, out: Path) -> None:
    heads = ("--methods.lpft.lp_epochs", 20, "--methods.lpft.lp_lr", 0.5)
    found = signs(out, *LEARNT, *heads, "--data.source", f"{HERE}.{data}")
    little = {client for name, client, _ in found if name == "too little local data"}
    assert little == ({"c0"} if data == "Scrambled" else set())
    assert (("extreme heterogeneity", "", "") in found) == (data == "Disjoint")
