from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lpft.reporting.analysis import Analysis, analyze
from lpft.reporting.report import write_report, write_tables
from lpft.reporting.sentences import result_at_equal_local
from lpft.reporting.tradeoff import equal_local_rows
from lpft.storage.client_result import ClientResult
from tests.reporting.fabricate import global_accuracy, make_run

POINTS = (0.25, 0.5, 0.75)


def with_line(cell: ClientResult) -> ClientResult:
    """Add models whose accuracies lie on a parabola through both ends."""
    if cell.method == "none":
        return cell
    place = cell.clients.index(cell.client)
    before, after = global_accuracy(cell.seed, cell.clients), np.array(cell.accuracy, dtype=float)
    line = []
    for a in POINTS:
        row = before + (after - before) * a + 4 * a * (1 - a)
        entry = {"a": a, "local": row[place], "global_all": row.mean(), "global_others": np.delete(row, place).mean()}
        entry |= {"worst": np.delete(row, place).min(), "distortion": a, "val": 50 + 10 * a}
        line.append({name: float(value) for name, value in entry.items()})
    return replace(cell, line=line)


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    return analyze(make_run(tmp_path, seeds=(0, 1), clients=tuple("abcd"), edit=with_line))


def test_lines_begin_at_the_global_model_and_end_at_the_matrix(analysis: Analysis) -> None:
    lines = analysis.tradeoff.lines
    assert sorted(lines["a"].unique()) == [0, *POINTS, 1]
    results = analysis.frames.results.set_index(["seed", "method"])
    for (seed, method), rows in lines[lines["a"] == 1].groupby(["seed", "method"]):
        for column, metric in {"local": "local", "global_all": "global_all", "worst": "worst_row"}.items():
            assert rows[column].mean() == pytest.approx(results.loc[(seed, method), metric])
    for seed, rows in lines[lines["a"] == 0].groupby("seed"):
        assert rows["global_all"].tolist() == pytest.approx([global_accuracy(seed, "abcd").mean()] * len(rows))
    assert set(lines["method"]) == {"ft", "ft_short", "lp", "lpft"}


def test_files_are_what_the_frames_have(analysis: Analysis) -> None:
    write_tables(analysis.run)
    root = analysis.run.root
    pd.testing.assert_frame_equal(pd.read_csv(root / "matched.csv"), analysis.tradeoff.matched, check_dtype=False)
    lines = analysis.tradeoff.lines
    own = lines[(lines["seed"] == 1) & (lines["method"] == "lpft")].drop(columns=["seed", "method"])
    written = pd.read_csv(root / "seed_1/lpft/curve.csv")
    pd.testing.assert_frame_equal(written, own.reset_index(drop=True), check_dtype=False)
    assert not (root / "seed_0/none/curve.csv").exists()


def test_matched_differences_recomputed_from_curve_csv(analysis: Analysis) -> None:
    write_tables(analysis.run)
    curves = {}
    for method in ("ft", "lpft"):
        paths = [analysis.run.root / f"seed_{seed}/{method}/curve.csv" for seed in (0, 1)]
        means = pd.concat(map(pd.read_csv, paths)).groupby("a")[["local", "global_all"]].mean()
        curves[method] = means[means["local"] > means["local"].shift(fill_value=-1).cummax()]
    top = min(curve["local"].max() for curve in curves.values())
    grid = np.linspace(curves["ft"]["local"].iloc[0], top, 50_001)
    kept = {m: np.interp(grid, curve["local"], curve["global_all"]) for m, curve in curves.items()}
    row = analysis.tradeoff.matched.set_index(["method", "reference"]).loc[("lpft", "ft")]
    assert row["local_to"] == pytest.approx(top)
    assert row["mean"] == pytest.approx((kept["lpft"] - kept["ft"]).mean(), abs=1e-3)
    assert row["low"] < row["mean"] < row["high"]


def test_a_client_without_training_data_stays_at_the_global_model(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        if cell.client != "b":
            return with_line(cell)
        row = [float(value) for value in global_accuracy(cell.seed, cell.clients)]
        return replace(cell, status="no_train", accuracy=row, val_after=cell.val_before)

    lines = analyze(make_run(tmp_path, seeds=(0,), clients=tuple("abcd"), edit=edit)).tradeoff.lines
    own = lines[(lines["client"] == "b") & (lines["method"] == "ft")]
    assert len(own) == 5
    assert own[["local", "global_all", "worst", "val"]].nunique().tolist() == [1, 1, 1, 1]


def test_a_run_without_lines_has_no_curves(tmp_path: Path) -> None:
    analysis = write_tables(make_run(tmp_path, seeds=(0,)))
    assert analysis.tradeoff.matched.empty
    assert analysis.tradeoff.summary.empty
    assert not (tmp_path / "matched.csv").exists()


def test_page_compares_at_equal_local(analysis: Analysis) -> None:
    report = write_report(analysis.run)
    found = report.analysis.tradeoff.comparisons["lpft", "ft"]
    rows = dict(equal_local_rows(report.analysis.tradeoff))
    assert list(rows) == ["ft", "ft_short", "lp", "lpft"]
    assert rows["ft"][:3] == ["-", "-", "-"], "the reference has its best model only"
    assert rows["lpft"][:2] == ["ft", f"{found.matched.low:.1f} - {found.matched.high:.1f}"]
    assert rows["lpft"][2].startswith(f"{found.estimate.mean:+.1f} ±")
    assert rows["lpft"][2].endswith(found.verdict)
    sentence = result_at_equal_local(report.analysis.tradeoff)
    assert f"{abs(found.estimate.mean):.1f} points" in sentence
    assert sentence.endswith(f": {found.verdict}.")
    for path in (report.page, analysis.run.root / "report.md"):
        text = path.read_text(encoding="utf-8")
        assert "At equal Local" in text
        assert rows["lpft"][1] in text


def test_without_curves_equal_local_is_omitted(tmp_path: Path) -> None:
    analysis = analyze(make_run(tmp_path, seeds=(0,)))
    assert equal_local_rows(analysis.tradeoff) == []
    assert result_at_equal_local(analysis.tradeoff) == ""
