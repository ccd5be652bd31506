"""Every diagnostic: cells that show it, and cells that are as close but do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lpft.evaluation.diagnostics import (
    BN_DRIFT,
    FOREIGN_STATISTICS,
    HETEROGENEITY,
    LITTLE_DATA,
    NOT_CONVERGED,
    SHORT_PROBING,
    Diagnostic,
    diagnose,
)
from lpft.reporting.analysis import analyze
from lpft.storage.client_result import ClientResult
from tests.reporting import fabricate
from tests.reporting.fabricate import make_cell, make_run

CLIENTS = ("a", "b", "c")
METHODS = ("none", "lp", "ft", "lpft")


def cells(methods: Sequence[str] = METHODS, seeds: Sequence[int] = (0, 1), **changes: Any) -> list[ClientResult]:
    return [replace(make_cell(s, m, c, CLIENTS), **changes) for s in seeds for m in methods for c in CLIENTS]


def names(found: Sequence[Diagnostic]) -> list[str]:
    return [diagnostic.name for diagnostic in found]


def test_a_healthy_run_shows_nothing() -> None:
    assert diagnose(cells(), {0: [80.0] * 20}) == []
    assert diagnose([]) == []


# The global model


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([50.0] * 9 + [60.0], {"change": 10.0, "rounds": 10}),
        ([80.0] * 5, {"change": None, "rounds": 5}),
        ([80.0] * 10, None),
        ([80.0] * 9 + [80.4], None),
    ],
)
def test_global_model_that_still_improves(history: list[float], expected: dict[str, Any] | None) -> None:
    found = diagnose(cells(), {1: history})
    assert names(found) == ([] if expected is None else [NOT_CONVERGED])
    if expected:
        assert (found[0].numbers, found[0].place) == (expected, "seed 1")


# Heterogeneity


def lonely(home: float = 99.0, away: float = 11.0, **better: float) -> list[ClientResult]:
    """Cells of a run whose models know `home` at home, and `away` elsewhere, unless a method does better."""
    found = []
    for cell in cells():
        elsewhere = away + better.get(cell.method, 0.0)
        row = [home if name == cell.client and cell.method != "none" else elsewhere for name in CLIENTS]
        found.append(replace(cell, accuracy=row, local_before=50.0))
    return found


def test_clients_with_nothing_in_common() -> None:
    """Ten classes: chance is 10%, near chance up to 19%; LP-FT and FT are equal."""
    (found,) = diagnose(lonely())
    assert (found.name, found.client, found.value) == (HETEROGENEITY, None, pytest.approx(11))
    assert {**found.numbers, "rise": None} == pytest.approx({"rise": None, "best": 11, "worst": 11, "chance": 10})


@pytest.mark.parametrize(("away", "expected"), [(54.0, [HETEROGENEITY]), (56.0, [])])
def test_guessing_achieves_half_of_the_area_under_the_roc_curve(away: float, expected: list[str]) -> None:
    """However many classes there are: near chance is up to 55%, by which no accuracy with ten classes is."""
    assert names(diagnose(lonely(away=away), metric="auroc")) == expected
    assert names(diagnose(lonely(away=away), metric="balanced_accuracy")) == []


@pytest.mark.parametrize(
    "run",
    [
        lonely(away=19.1),
        lonely(lp=10.0),  # one method remembers
        lonely(home=50.0),  # local accuracy does not rise
        lonely(lpft=2.0),  # LP-FT is better than FT with every seed
        [replace(cell, num_classes=None) for cell in lonely()],
        [replace(cell, num_classes=5) for cell in lonely(away=30.0)],
    ],
)
def test_clients_with_something_in_common(run: list[ClientResult]) -> None:
    assert HETEROGENEITY not in names(diagnose(run, pairs=[("lpft", "ft")]))


@pytest.mark.parametrize(
    ("before", "histories", "expected"),
    [
        (11.0, {0: [9.0, 11.0], 1: [8.0, 11.0]}, [NOT_CONVERGED, NOT_CONVERGED]),
        (50.0, {0: [9.0, 50.0], 1: [8.0, 50.0]}, [NOT_CONVERGED, NOT_CONVERGED, HETEROGENEITY]),
        (11.0, {0: [11.0] * 10, 1: [11.0] * 10}, [HETEROGENEITY]),
        (11.0, {0: [11.0] * 10, 1: [8.0, 11.0]}, [NOT_CONVERGED, HETEROGENEITY]),
        (11.0, {}, [HETEROGENEITY]),
    ],
)
def test_a_global_model_that_has_not_learned_yet_is_no_sign_of_heterogeneity(
    before: float, histories: dict[int, list[float]], expected: list[str]
) -> None:
    """Near chance itself and not converged: too few rounds explain it. Converged there, or come from elsewhere: not."""
    run = [replace(cell, local_before=before) for cell in lonely()]
    assert names(diagnose(run, histories)) == expected


def test_chance_depends_on_the_number_of_classes() -> None:
    (found,) = diagnose([replace(cell, num_classes=2) for cell in lonely(away=54.0)])
    assert found.numbers["chance"] == 50


def test_one_client_with_nothing_in_common() -> None:
    run = [cell for cell in cells() if cell.client != "b"] + [cell for cell in lonely() if cell.client == "b"]
    (found,) = diagnose(run)
    assert (found.name, found.client) == (HETEROGENEITY, "b")


def test_a_single_client_has_no_others() -> None:
    cell = replace(make_cell(0, "ft", "a", ("a",)), accuracy=[11.0], local_before=5.0)
    assert diagnose([cell]) == []


# Little data

OVERFIT: dict[str, Any] = {
    "num_train": 49,
    "num_train_classes": 5,
    "train_accuracy": 100.0,
    "val_before": 80.0,
    "val_after": 70.0,
}


def overfit(seeds: Sequence[int] = (0, 1), **changes: Any) -> list[ClientResult]:
    return [
        replace(cell, **OVERFIT, **changes)
        if (cell.client, cell.method) == ("a", "lp") and cell.seed in seeds
        else cell
        for cell in cells()
    ]


def test_few_memorized_samples() -> None:
    (found,) = diagnose(overfit())
    assert (found.name, found.place, found.value) == (LITTLE_DATA, "a, lp", pytest.approx(9.8))
    assert found.numbers == pytest.approx({"per_class": 9.8, "val_before": 80, "val_after": 70})


@pytest.mark.parametrize(
    "change",
    [
        {"num_train": 50},
        {"train_accuracy": 98.0},
        {"train_accuracy": None},
        {"val_after": 80.0},
        {"val_after": None},
        {"status": "diverged"},
        {"num_train_classes": None},
    ],
)
def test_enough_samples_or_no_harm(change: dict[str, Any]) -> None:
    run = [replace(cell, **change) if cell.train_accuracy == 100 else cell for cell in overfit()]
    assert diagnose(run) == []


def test_one_seed_of_two_is_not_most() -> None:
    assert diagnose(overfit(seeds=(1,))) == []


# Probing


def with_losses(cell: ClientResult, losses: Sequence[float | None], distortion: float = 0.0) -> ClientResult:
    """Give the last epochs of probing and the first of full training (here number 6) other losses."""
    changed = {7 - len(losses) + i: loss for i, loss in enumerate(losses)}
    epochs = [{**e, "train_loss": changed.get(e["epoch"], e["train_loss"])} for e in cell.epochs]
    epochs[6]["distortion"] = distortion
    return replace(cell, epochs=epochs)


def probed(
    losses: Sequence[float | None], clients: Sequence[str] = CLIENTS, distortion: float = 0.0
) -> list[ClientResult]:
    return [
        with_losses(cell, losses, distortion) if cell.method == "lpft" and cell.client in clients else cell
        for cell in cells()
    ]


def test_head_that_still_improves() -> None:
    (found,) = diagnose(probed((1.0, 0.94, 1.5), distortion=2.5))
    assert (found.name, found.method, found.client) == (SHORT_PROBING, "lpft", None)
    assert found.value == pytest.approx(0.06)
    expected = {"improvement": 0.06, "last_loss": 0.94, "first_loss": 1.5, "distortion": 2.5}
    assert found.numbers == pytest.approx(expected | {"num_short": 3, "num_clients": 3})


def test_head_that_still_improves_at_one_client() -> None:
    (found,) = diagnose(probed((0.3, 0.27, 0.2), clients=("b",)))
    assert (found.name, found.place) == (SHORT_PROBING, "b, lpft")
    assert found.numbers["first_loss"] < found.numbers["last_loss"]  # type: ignore[operator]


@pytest.mark.parametrize("losses", [(1.0, 0.96, 1.5), (1.0, 1.2, 0.1), (None, 0.94, 1.5), (1.0, None, 0.5)])
def test_head_that_is_done(losses: tuple[float | None, ...]) -> None:
    assert diagnose(probed(losses)) == []


def test_probing_of_a_discarded_head_is_never_too_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the head that `ScaledHeadFT` probes, fine-tuning gets the norm only."""
    assert diagnose(probed((1.0, 0.94, 1.5)), restarted=["lpft"]) == []
    monkeypatch.setitem(fabricate.METHODS, "scaled_head", {"class_path": "lpft.methods.scaled_head.ScaledHeadFT"})

    def edit(cell: ClientResult) -> ClientResult:
        probing = replace(make_cell(cell.seed, "lpft", cell.client, CLIENTS), method=cell.method)
        return with_losses(probing, (1.0, 0.94, 1.5))

    run = make_run(tmp_path, clients=CLIENTS, methods=("lpft", "scaled_head"), edit=edit)
    found = [diagnostic for diagnostic in analyze(run).diagnostics if diagnostic.name == SHORT_PROBING]
    assert [diagnostic.method for diagnostic in found] == ["lpft"]


def test_one_epoch_of_probing_cannot_be_compared() -> None:
    run = [
        replace(cell, epochs=[cell.epochs[0], *({**e, "epoch": e["epoch"] - 4} for e in cell.epochs[5:])])
        for cell in probed((1.0, 0.5, 2.0))
        if cell.method == "lpft"
    ]
    assert diagnose(run) == []


# Normalization


def test_features_that_move_while_the_head_is_trained() -> None:
    run = [
        replace(cell, distortion_own=0.5, distortion_relative=0.1)
        if cell.method == "lp" and cell.client == "c"
        else cell
        for cell in cells()
    ]
    (found,) = diagnose(run)
    assert (found.name, found.method, found.value) == (BN_DRIFT, "lp", 0.5)
    assert found.numbers == {"distortion": 0.5, "largest": "c", "num_clients": 1}


def test_features_that_move_before_the_switch() -> None:
    def moved(cell: ClientResult) -> ClientResult:
        return replace(cell, epochs=[{**e, "distortion": 0.4} if e["epoch"] == 3 else e for e in cell.epochs])

    found = diagnose([moved(cell) if cell.method == "lpft" else cell for cell in cells()])
    assert [(s.name, s.method) for s in found] == [(BN_DRIFT, "lpft")]


def test_rounding_is_no_drift() -> None:
    run = [replace(c, distortion_own=1e-5, distortion_relative=1e-6) if c.method == "lp" else c for c in cells()]
    assert diagnose(run) == []


def adapted(**gains: float) -> list[ClientResult]:
    """Cells of a method that changes statistics alone, by the client's gain at home."""
    found = []
    for cell in cells(methods=("adabn",)):
        row = [50.0 + gains[name] if name == cell.client else 40.0 for name in CLIENTS]
        found.append(replace(cell, accuracy=row, local_before=50.0))
    return found


def test_statistics_that_are_far_from_every_client() -> None:
    (found,) = diagnose(adapted(a=6.0, b=9.0, c=15.0), adapted="adabn")
    assert (found.name, found.value, found.client) == (FOREIGN_STATISTICS, 10.0, None)
    assert found.numbers == {"gain": 10.0, "least": 6.0, "smallest": "a"}


@pytest.mark.parametrize(("method", "least"), [("adabn", 4.9), ("other", 6.0), (None, 6.0)])
def test_statistics_that_fit_a_client_or_are_missing(method: str | None, least: float) -> None:
    assert diagnose(adapted(a=least, b=9.0, c=15.0), adapted=method) == []
