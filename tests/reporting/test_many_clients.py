"""Runs of more clients than can be drawn or counted one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from lpft.reporting import heatmap
from lpft.reporting.heatmap import bin_size, binned, color_scale, heatmap_png
from lpft.reporting.report import write_any_report
from lpft.reporting.results import read_results
from lpft.reporting.tables import accuracy_csv, matrix_csv
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run
from tests.reporting.fabricate import WEIRD, make_cell, make_run


def test_few_clients_are_drawn_one_by_one() -> None:
    matrix = np.random.default_rng(0).random((heatmap.MANY_CLIENTS, heatmap.MANY_CLIENTS))
    assert binned(matrix) is matrix


def test_fields_of_clients_without_gaps_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmap, "MANY_CLIENTS", 2)
    assert binned(np.arange(9.0).reshape(3, 3)).tolist() == [[2.0, 3.5], [6.5, 8.0]]


def test_fields_of_many_clients_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmap, "MANY_CLIENTS", 2)
    matrix = np.arange(25.0).reshape(5, 5)
    matrix[0, 0] = np.nan
    matrix[3:, 3:] = np.nan
    assert bin_size(5) == 3
    expected = [[np.nanmean(matrix[:3, :3]), matrix[:3, 3:].mean()], [matrix[3:, :3].mean(), np.nan]]
    np.testing.assert_allclose(binned(matrix), expected)


def test_a_picture_has_a_limited_size() -> None:
    matrix = binned(np.random.default_rng(0).random((1000, 1000)))
    _, width, height = heatmap_png(matrix, [f"c{i}" for i in range(1000)], color_scale([matrix]))
    assert max(width, height) <= 700


@pytest.mark.parametrize(("most", "omitted"), [(150, False), (4, True)])
def test_the_report_states_omitted_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, omitted: bool
) -> None:
    monkeypatch.setattr(heatmap, "MANY_CLIENTS", most)
    run = make_run(tmp_path, seeds=[0], methods=["none", "lpft"], rounds=2)
    write_any_report(run)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert text.count("of 10 in total") == (2 if omitted else 0)
        assert ("Framed: the client's own test set." in text.replace("&#39;", "'")) == (not omitted)


def test_a_matrix_is_written_as_pandas_writes_it() -> None:
    names = [*WEIRD, 'quote "', " space", "line\nbreak", "ü"]
    size = len(names)
    matrix = np.random.default_rng(0).choice([0.0, 100.0, 12.5, 1e-05, 1e17, 100 / 3, np.nan], (size, size))
    frame = DataFrame(matrix, names, names)
    frame.insert(0, "", names, allow_duplicates=True)
    assert matrix_csv(matrix, names).decode() == frame.to_csv(index=False, lineterminator="\n")


def without_test_samples(cell: ClientResult) -> ClientResult:
    return replace(cell, accuracy=[None, *cell.accuracy[1:]])


def in_another_order(cell: ClientResult) -> ClientResult:
    return replace(cell, clients=cell.clients[::-1], accuracy=cell.accuracy[::-1])


def left_out(_: ClientResult) -> None:
    return None


@pytest.mark.parametrize("edit", [without_test_samples, in_another_order, left_out])
def test_matrices_of_client_results_are_written_as_those_of_numbers(
    tmp_path: Path, edit: Callable[[ClientResult], ClientResult | None]
) -> None:
    """Also where the result of a client is unlike the others."""
    cells = {client: make_cell(0, "ft", client, WEIRD) for client in WEIRD}
    make_run(
        tmp_path, seeds=[0], methods=["ft"], clients=WEIRD, edit=lambda c: edit(c) if c.client == "Ward 3/B" else c
    )
    rows = [list(cell.accuracy) for cell in cells.values()]
    if edit is without_test_samples:
        rows[0][0] = None
    if edit is left_out:
        rows[0] = [None] * len(WEIRD)
    (result,) = read_results(Run(tmp_path))
    assert accuracy_csv(result) == matrix_csv(np.array(rows, dtype=float), WEIRD)
