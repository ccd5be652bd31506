from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from fabricate import make_point

from lpft.reporting.analysis import Analysis
from lpft.reporting.tables import write_verdicts
from lpft.reporting.verdicts import NamedVerdict, Verdict, apply_verdicts, load_verdict, load_verdicts
from lpft.storage.run import Run


def of_lines(points: Sequence[Analysis]) -> list[str]:
    return ["first", f"{len(points)} points"]


def of_data(points: Sequence[Analysis]) -> Verdict:
    return Verdict("held", {"points": len(points)}, [{"n": 1}])


def broken(points: Sequence[Analysis]) -> Verdict:
    raise KeyError("x")


def test_verdicts_may_return_lines_or_data_and_one_that_fails_does_not_stop_the_others() -> None:
    point = make_point({"ft": [(50.0, 50.0)]})
    verdicts = apply_verdicts({f"m.{f.__name__}": f for f in (broken, of_lines, of_data)}, [point])
    assert [(verdict.name, verdict.outcome) for verdict in verdicts] == [
        ("broken", "failed"),
        ("of_lines", ""),
        ("of_data", "held"),
    ]
    assert "KeyError" in verdicts[0].lines[0]
    assert verdicts[1].lines == ["first", "1 points"]
    assert verdicts[2].lines == ["held.", "points 1", "n 1"]


def test_verdicts_are_written_and_removed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_verdicts(run, [NamedVerdict("a", "held", ["one, two", "three"])])
    with (tmp_path / "verdicts.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["verdict", "line"], ["a", "one, two"], ["a", "three"]]
    write_verdicts(run, [])
    assert not (tmp_path / "verdicts.csv").exists()


@pytest.mark.parametrize("path", ["lpft.paper.verdicts.nothing", "no.such.f", "plateau", "lpft.paper.verdicts.PLATEAU"])
def test_what_cannot_be_loaded_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=f"`{path}`.*HINT"):
        load_verdict(path)


def test_an_experiment_names_its_verdicts() -> None:
    assert list(load_verdicts({"verdicts": ["lpft.paper.verdicts.plateau"]})) == ["lpft.paper.verdicts.plateau"]
    assert load_verdicts({}) == {}
