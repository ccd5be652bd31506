from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.commands import lpft


def test_theory_prints_condition_and_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("theory", "--eta", "0.1", "0.5", "--samples", "20", "--out", tmp_path)
    told = " ".join(capsys.readouterr().out.split())
    assert "(E[x x^T] = I)" in told
    assert "if, and only if, eta > 1 / (2 (1 + s)) = 0.25" in told
    assert "LP 40 + FT 20" in told
    rows = list(csv.DictReader((tmp_path / "theory.csv").open()))
    assert [row["verdict"] for row in rows] == ["FT", "LP-FT"]
    assert float(rows[0]["global_ft"]) == pytest.approx(0.25)
    assert (tmp_path / "theory.svg").read_text().startswith("<?xml")


def test_theory_of_combined_shift(capsys: pytest.CaptureFixture[str]) -> None:
    lpft("theory", "--noise", "0.1", "--eta", "1")
    assert "from eta = 0.99812 on, at this lambda" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dim", "8"], "HINT: set the dimension to 9 or more"),
        (["--eta", "0"], "--eta 0 must be above 0"),
        (["--shift", "-1"], "--shift -1.0 must be above 0"),
        (["--samples", "5", "--noise", "0.1"], "HINT: remove --noise"),
    ],
)
def test_impossible_settings_are_reported(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("theory", *words, code=2)
    assert message in capsys.readouterr().err
