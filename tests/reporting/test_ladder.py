from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pandas import read_csv

from lpft.evaluation.certainty import estimate
from lpft.reporting.analysis import analyze
from lpft.reporting.figures import ladder
from lpft.reporting.ladder import find_rungs
from lpft.reporting.page import write_page
from lpft.reporting.tables import write_all_tables
from lpft.storage.run import Run
from tests.reporting.fabricate import make_run


def of(path: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": settings}


def test_rungs_are_found_by_class_whatever_their_names_and_order() -> None:
    methods = {
        "b": of("lpft.methods.lpft.LPFT", lp_epochs=5),
        "short": of("lpft.methods.ft.FT", epochs=10),
        "a": of("lpft.methods.ft.FT", epochs=None),
        "c": of("lpft.methods.lpft.LPFT", lp_epochs=None),
        "again": of("lpft.methods.ft.FT"),
        "d": of("lpft.methods.prior.PriorShift"),
        "far": of("lpft.methods.rotated.Rotated"),
        "none": of("lpft.methods.ft.NoFineTuning"),
        "other": of("lpft.methods.prox.ProximalFT"),
    }
    found = find_rungs({"methods": methods, "personalization": {"epochs": 15}})
    assert list(found.items()) == [("prior", "d"), ("lp", "c"), ("ft", "a"), ("lpft", "b"), ("rotated", "far")]


def test_probing_for_the_whole_budget_is_lp_and_for_none_of_it_no_rung() -> None:
    methods = {"all": of("LPFT", lp_epochs=15), "ft": of("LPFT", lp_epochs=0), "own": of("LPFT", lp_epochs=3, epochs=9)}
    methods = {name: {**m, "class_path": "lpft.methods.lpft.LPFT"} for name, m in methods.items()}
    assert find_rungs({"methods": methods, "personalization": {"epochs": 15}}) == {"lp": "all", "lpft": "own"}


def test_the_rungs_of_a_run(tmp_path: Path) -> None:
    """Differences are client by client and seed by seed; another row with the global model's class is the reference."""
    analysis = analyze(make_run(tmp_path))
    rungs = analysis.ladder
    assert [(rung.name, rung.num_seeds, rung.num_clients) for rung in rungs] == [
        (n, 3, 10) for n in ("lp", "ft", "lpft")
    ]
    gaps = analysis.certainty.gaps("ft", "none", "local").to_numpy()
    by_hand = analysis.matrix("ft", 1).iloc[4, 4] - analysis.matrix("none", 1).iloc[4, 4]
    assert gaps.shape == (3, 10)
    assert gaps[1, 4] == pytest.approx(by_hand)
    assert rungs[1].home == estimate(gaps)
    assert rungs[1].elsewhere.mean < -5


def test_figure_table_and_page(tmp_path: Path) -> None:
    analysis = analyze(make_run(tmp_path))
    write_all_tables(analysis)
    table = read_csv(tmp_path / "ladder.csv").set_index("rung")
    rungs = {rung.name: rung for rung in analysis.ladder}
    assert table.loc["lpft", "local_gain_low"] == rungs["lpft"].home.low
    figure = ladder(analysis)
    assert figure is not None
    bars = figure.axes[0].patches
    for bar, before, after in zip(
        bars, [0, rungs["lp"].home.mean], [rungs["lp"].home.mean, rungs["ft"].home.mean], strict=False
    ):
        assert sorted([bar.get_x(), bar.get_x() + bar.get_width()]) == pytest.approx(sorted([before, after]))
    write_page(analysis, ())
    assert 'id="ladder-table"' in (tmp_path / "report.html").read_text()
    assert "The ladder in numbers" in (tmp_path / "report.md").read_text()


def test_too_few_rungs_are_no_ladder(tmp_path: Path) -> None:
    for number, methods in enumerate([("none", "ft", "lpft"), ("ft", "lp", "lpft")]):
        analysis = analyze(make_run(tmp_path / str(number), methods=methods))
        (analysis.run.root / "ladder.csv").write_text("of an earlier report")
        write_all_tables(analysis)
        assert analysis.ladder == []
        assert ladder(analysis) is None
        assert not (analysis.run.root / "ladder.csv").exists()


def test_the_range_of_accuracies_is_that_of_methods_to_choose_from(tmp_path: Path) -> None:
    """Rotated models predict what the global model predicts."""
    run = make_run(tmp_path)
    assert "(lp)" in accuracies(run)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["methods"]["lp"] = of("lpft.methods.rotated.Rotated")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert "(lp)" not in accuracies(run)


def accuracies(run: Run) -> str:
    """Return what the page says of the range of accuracies."""
    write_page(analyze(run), ())
    lines = (run.root / "report.md").read_text().splitlines()
    return next(line for line in lines if line.startswith("On their own test sets"))
