"""Runs of more clients than can be drawn or counted one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from lpft.reporting import heatmap
from lpft.reporting.heatmap import bin_size, binned, color_scale, heatmap_png
from lpft.reporting.report import write_any_report
from lpft.reporting.tables import matrix_csv
from tests.reporting.fabricate import WEIRD, make_run

TOO_MANY = "There are too many clients to draw all"


def test_few_clients_are_drawn_one_by_one() -> None:
    matrix = np.random.default_rng(0).random((heatmap.MANY_CLIENTS, heatmap.MANY_CLIENTS))
    assert binned(matrix) is matrix


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


@pytest.mark.parametrize(("most", "said"), [(150, False), (4, True)])
def test_the_report_says_what_it_does_not_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, said: bool
) -> None:
    monkeypatch.setattr(heatmap, "MANY_CLIENTS", most)
    run = make_run(tmp_path, seeds=[0], methods=["none", "lpft"], rounds=2)
    write_any_report(run)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert text.count(f"{TOO_MANY} 10") == (2 if said else 0)
        assert ("Framed: the client's own test set." in text.replace("&#39;", "'")) == (not said)


def test_a_matrix_is_written_as_pandas_writes_it() -> None:
    names = [*WEIRD, 'quote "', " space", "line\nbreak", "ü"]
    size = len(names)
    matrix = np.random.default_rng(0).choice([0.0, 100.0, 12.5, 1e-05, 1e17, 100 / 3, np.nan], (size, size))
    frame = DataFrame(matrix, names, names)
    frame.insert(0, "", names, allow_duplicates=True)
    assert matrix_csv(matrix, names).decode() == frame.to_csv(index=False, lineterminator="\n")
