"""Reports of what varies: variants of a method, points of a sweep, tuned methods, and the verdicts in all of them."""

from __future__ import annotations

import csv
import io
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import yaml
from fabricate import make_point, make_run
from rich.console import Console
from test_report import read

from lpft.cli import main
from lpft.evaluation.certainty import estimate
from lpft.reporting.console import print_sweep
from lpft.reporting.formatting import estimate_text
from lpft.reporting.report import write_report, write_sweep_report
from lpft.reporting.results import experiment_of
from lpft.reporting.status import print_status, read_status
from lpft.reporting.status_table import render_status, render_sweep
from lpft.reporting.sweep_figures import point_drawings, variant_drawings
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run

CLIENTS = ("a", "b", "c")
PLATEAU, EXTREMES, BEST = (f"lpft.paper.verdicts.{name}" for name in ("plateau", "extremes", "best"))


def change_config(run: Run, notes: dict[str, Any] | None = None, **sections: Any) -> None:
    config = yaml.safe_load(run.config.read_text()) | sections
    config["provenance"] |= notes or {}
    write_atomically(run.config, yaml.safe_dump(config, sort_keys=False))


def make_variants(root: Path, key: str, values: dict[str, list[Any]], verdicts: list[str], eval_every: int = 5) -> Run:
    """Write a run in which methods were swept over one key."""
    names = {f"{m}+{key}={v}": (m, v) for m, own in values.items() for v in own}
    run = make_run(root, seeds=(0, 1), methods=("none", "lp", *names), clients=CLIENTS, eval_every=eval_every)
    variants = {name: {"method": m, "values": {f"methods.{m}.{key}": v}} for name, (m, v) in names.items()}
    change_config(run, {"variants": variants}, verdicts=verdicts)
    return run


def make_sweep(root: Path, sweep: dict[str, list[Any]], verdicts: list[str], skip: int | None = None) -> Run:
    """Write a sweep whose points all have the same made-up results; one may have none."""
    notes = {"version": "0.1.0"}
    text = yaml.safe_dump(
        {"name": "a sweep", "sweep": sweep, "verdicts": verdicts, "provenance": notes}, sort_keys=False
    )
    write_atomically(root / "config.yaml", text)
    for number, values in enumerate(itertools.product(*sweep.values())):
        folder = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in zip(sweep, values, strict=True))
        methods = ("none", "ft", "lpft")
        options: dict[str, Any] = {"eval_every": 0} | ({"edit": lambda cell: None} if number == skip else {})
        point = make_run(Run(root).point(folder).root, seeds=(0, 1), methods=methods, clients=CLIENTS[:2], **options)
        change_config(point, {"point": dict(zip(sweep, values, strict=True))}, verdicts=verdicts)
    return Run(root)


def contents(run: Run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures that every run has, which take a second."""
    monkeypatch.setattr("lpft.reporting.figures.FIGURES", {})


def both_pages(run: Run) -> list[str]:
    markdown = (run.root / "report.md").read_text(encoding="utf-8").replace("\\", "")
    return [" ".join(text.split()) for text in (read(run.root / "report.html").text, markdown)]


@pytest.mark.filterwarnings("error")
def test_variants_have_figures_a_group_in_the_table_and_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_variants(tmp_path, "lp_epochs", {"lpft": [0, 5, 15]}, [PLATEAU])
    report = write_report(run, show=True)
    names = {path.stem for path in report.figures}
    assert names == {"sweep-lp_epochs", "tradeoff", "curves", "clients", "distortion", "depth", "matrices"}
    for text in both_pages(run):
        assert "Swept: lp_epochs = 0, 5, 15." in text
        assert "lpft by lp_epochs" in text
        assert "A line joins the settings of a sweep" in text
    figure = (run.root / "figures" / "sweep-lp_epochs.svg").read_text(encoding="utf-8")
    assert all(f">{word}<" in figure for word in ("Local (%)", "distortion", "lpft", "lp", "none"))
    rows = rows_of(run.root / "verdicts.csv")
    assert {row["verdict"] for row in rows} == {"plateau"}
    printed = capsys.readouterr().out
    assert f"Verdict plateau: {rows[0]['line']}" in printed
    assert re.search(r"\n lpft +\n +lp_epochs=0 ", printed)
    assert "methods.lpft.lp_epochs,method,n,local" in (run.root / "sweep.csv").read_text()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("key", "values", "names"),
    [
        ("lr", {"ft": [0.0001, 0.001, 0.01], "lpft": [0.001]}, {"sweep-lr"}),
        ("mu", {"prox": [0.0, 0.001, 1.0]}, {"sweep-mu"}),
        ("head_init", {"lpft": ["global", "zero", None, True]}, {"sweep-head_init"}),
        ("solver", {"lpft": [{"class_path": "my.Solver"}, {"class_path": "my.Other"}]}, {"sweep-solver"}),
        ("lr", {"ft": [0.1]}, set()),
    ],
    ids=["decades", "zero", "words", "classes", "one value"],
)
def test_any_value_can_be_swept(key: str, values: dict[str, list[Any]], names: set[str]) -> None:
    rows = {f"{m}+{key}={v}": (m, {f"methods.{m}.{key}": v}) for m, own in values.items() for v in own}
    variants = {name: {"method": method, "values": own} for name, (method, own) in rows.items()}
    results = {"lp": [(60.0, 50.0)]} | {name: [(80.0, 40.0)] for name in rows}
    drawn = variant_drawings(make_point(results, variants=variants))
    assert drawn.keys() == names
    for drawing in drawn.values():
        ElementTree.fromstring(str(drawing.svg))


@pytest.mark.filterwarnings("error")
def test_two_keys_of_a_method_make_heat_maps() -> None:
    values = list(itertools.product([0.01, 0.1], [0.001, 0.01, 0.1]))
    names = {f"lpft+lp_lr={a}+lr={b}": {"methods.lpft.lp_lr": a, "methods.lpft.lr": b} for a, b in values}
    rows = {name: [(60.0 + number, 40.0)] for number, name in enumerate(names)}
    point = make_point(rows, variants={n: {"method": "lpft", "values": v} for n, v in names.items()})
    drawn = variant_drawings(point)
    assert drawn.keys() == {"heat-lpft"}
    figure = ElementTree.fromstring(str(drawn["heat-lpft"].svg))
    texts = {element.text for element in figure.iter() if element.tag.endswith("text")}
    assert {"distortion", "lp_lr", "lr", "0.001", "0.01", "0.1", "65.0", "52.5"} <= texts


def test_figures_and_tables_go_with_the_sweep(tmp_path: Path, bare: None) -> None:
    run = make_variants(tmp_path, "lp_epochs", {"lpft": [0, 5]}, [BEST])
    write_report(run)
    assert (tmp_path / "figures" / "sweep-lp_epochs.svg").exists()
    change_config(run, {"variants": {}}, verdicts=[])
    write_report(run)
    assert not list((tmp_path / "figures").iterdir())
    assert not (tmp_path / "sweep.csv").exists()
    assert not (tmp_path / "verdicts.csv").exists()


@pytest.mark.filterwarnings("error")
def test_points_are_compared_on_one_page_that_leads_to_theirs(
    tmp_path: Path, bare: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_sweep(tmp_path, {"data.shift": [0.5, 4.0], "data.noise": [1, 10]}, [EXTREMES], skip=2)
    assert len(write_sweep_report(run, show=True).points) == 3
    page = read(run.root / "report.html")
    links = [unquote(link) for link in page.links if not link.startswith(("#", "data:"))]
    assert len(set(links)) == 3
    assert all((run.root / link).is_file() for link in links)
    markdown = (run.root / "report.md").read_text(encoding="utf-8")
    targets = [unquote(link) for link in re.findall(r"\]\(([^)]*)\)", markdown)]
    assert len(targets) == 5
    assert all((run.root / target).is_file() for target in targets)
    assert {path.name for path in (run.root / "figures").iterdir()} == {"sweep.svg", "difference.svg"}
    for text in both_pages(run):
        assert "A sweep over shift (0.5, 4) and noise (1, 10). 3 of 4 points have results" in text
        assert "without results: shift=4.0,noise=1" in text
        assert "lpft minus ft" in text
        assert "Accuracy in percent." in text
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert [line[:2] for line in lines if line[1:2] in (["1"], ["10"])] == [["0.5", "1"], ["0.5", "10"], ["4", "10"]]
    assert printed.count("Report: ") == 1
    assert "without results: shift=4.0,noise=1" in printed
    assert len((run.root / "sweep.csv").read_text().splitlines()) == 1 + 3 * 3
    assert len((run.root / "verdicts.csv").read_text().splitlines()) == 1 + 1 + 3
    before = contents(run)
    write_sweep_report(run)
    assert contents(run) == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("sweep", "figures"),
    [
        ({"federation.rounds": [60]}, set()),
        ({"data.kind": ["x", {"class_path": "my.Kind"}]}, {"sweep"}),
        ({"a.b": [1, 2], "c.b": [0.1, 10.0]}, {"sweep", "difference"}),
        ({"a.b": [1, 2, 3], "c.d": ["x", None], "e.f": [True, False]}, {"sweep"}),
    ],
    ids=["one point", "words", "two keys", "three keys"],
)
def test_any_sweep_over_points_is_drawn(sweep: dict[str, list[Any]], figures: set[str]) -> None:
    rows = {"none": [(50.0, 50.0)], "ft": [(80.0, 40.0)], "lpft": [(80.0, 45.0)]}
    combinations = itertools.product(*sweep.values())
    points = [make_point(rows, values=dict(zip(sweep, values, strict=True))) for values in combinations]
    drawn = point_drawings(points)
    assert drawn.keys() == figures
    for drawing in drawn.values():
        ElementTree.fromstring(str(drawing.svg))


def test_a_narrow_terminal_shows_ft_and_lpft_of_a_sweep() -> None:
    rows = {name: [(80.0, 40.0)] for name in ("none", "lp", "ft", "lpft")}
    points = [make_point(rows, values={"data.shift": shift}) for shift in (0.5, 4.0)]
    console = Console(file=io.StringIO(), width=44, force_terminal=True, color_system=None)
    print_sweep(points, [], [], console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.splitlines()[1].split() == ["shift", "ft", "lpft", "n"]
    assert "2 more methods are in the report" in " ".join(text.split())


def test_incomplete_methods_of_a_sweep_are_listed() -> None:
    points = []
    for shift in range(20):
        point = make_point({"none": [(80.0, 40.0)], "ft": [(80.0, 40.0)]}, values={"data.shift": shift})
        results = [replace(r, missing=["a"] if r.method == "ft" else []) for r in point.method_results]
        points.append(
            replace(point, method_results=results, experiment=experiment_of(point.experiment.config, results))
        )
    console = Console(file=io.StringIO(), width=80)
    print_sweep(points, [], [], console=console)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("!")]  # type: ignore[attr-defined]
    assert len(lines) == 17
    assert lines[0].startswith("! shift=0: left out: ft, seed 0")


def test_printed_means_of_a_sweep_have_intervals() -> None:
    """Of Local, 80, 82 and 84 with three seeds: 82 and, with two degrees of freedom, 4.303 * 2 / sqrt(3) around it."""
    points = [make_point({"none": [(80.0, 40.0), (82.0, 40.0), (84.0, 40.0)]}, values={"data.shift": 0.5})]
    console = Console(file=io.StringIO(), width=80)
    print_sweep(points, [], [], console=console)
    assert "82.0 ± 5.0" in console.file.getvalue()  # type: ignore[attr-defined]


def test_report_command_writes_the_sweep_and_refuses_a_wrong_verdict(
    tmp_path: Path, bare: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_sweep(tmp_path, {"data.shift": [0.5, 4.0]}, [EXTREMES])
    with pytest.raises(SystemExit) as stop:
        main(["report", str(run.root)])
    assert stop.value.code == 0
    assert (run.root / "sweep.csv").exists()
    config = yaml.safe_load(run.config.read_text()) | {"verdicts": ["lpft.paper.verdicts.extreme"]}
    run.config.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stop:
        main(["report", str(run.root)])
    assert stop.value.code == 2
    assert "`lpft.paper.verdicts.extreme`, which cannot be imported" in capsys.readouterr().err


def test_a_sweep_without_results_is_refused(tmp_path: Path) -> None:
    run = make_sweep(tmp_path, {"data.shift": [0.5]}, [], skip=0)
    with pytest.raises(FileNotFoundError, match="without any results"):
        write_sweep_report(run)


def make_tuned(root: Path) -> Run:
    run = make_run(root, seeds=(0, 1), methods=("none", "ft", "ft_tuned"), clients=CLIENTS, eval_every=0)
    change_config(run, {"tuned": {"ft_tuned": {"lr": 0.01}}})
    run.root.joinpath("tuning.csv").write_text(
        "method,trial,settings,val_local,val_global,criterion,score,chosen\n"
        "ft,0,{},80.0,70.0,mean,75.0,0\n"
        'ft,1,"{""lr"": 0.01}",84.0,71.0,mean,77.5,1\n'
    )
    make_run(run.tuning.root, seeds=(0,), methods=("ft+trial0", "ft+trial1"), clients=CLIENTS, config=False)
    return run


def test_tuned_and_untuned_stand_side_by_side(tmp_path: Path, bare: None) -> None:
    run = make_tuned(tmp_path)
    analysis = write_report(run).analysis
    rows = {(r["seed"], r["method"]): r for r in rows_of(run.root / "results.csv")}
    gaps = [float(rows[s, "ft_tuned"]["local"]) - float(rows[s, "ft"]["local"]) for s in ("0", "1")]
    expected = analysis.certainty.gaps("ft_tuned", "ft", "local")
    assert expected.mean(axis=1).tolist() == pytest.approx(gaps)
    for text in both_pages(run):
        assert "Each tuned method had 2 trials with seed 0, including the untuned settings." in text
        assert "mean of the accuracies on the clients' own validation sets and on those of all clients" in text
        assert estimate_text(estimate(expected), "+.1f") in text
        assert re.search(r"lr=0.01[ |]*84.00[ |]*71.00[ |]*77.50[ |]*chosen", text)
    assert "Tuned and untuned" not in read(write_report(make_run(tmp_path / "x", seeds=(0,))).page).text


def test_status_of_tuning(tmp_path: Path) -> None:
    run = make_tuned(tmp_path)
    assert read_status(run).complete
    assert "tuning, 2 trials" in rendered(render_status(read_status(run)))
    (run.root / "tuning.csv").unlink()
    change_config(run, tune={"grids": {"ft": {"lr": [0.1]}}})
    assert not read_status(run).complete
    assert "nothing chosen yet" in rendered(render_status(read_status(run)))


def test_status_of_a_sweep_sums_up_its_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_sweep(tmp_path, {"data.shift": [0.5, 4.0]}, [], skip=1)
    found = read_status(run)
    assert (found.complete, found.planned, [point.complete for point in found.points]) == (False, 2, [True, False])
    assert found.to_json()["points"][1]["methods"][0]["expected"] == 2
    text = rendered(render_sweep(found))
    assert re.search(r"shift=0.5 +2/2 +12/12", text)
    assert re.search(r"shift=4.0 +2/2 +0/12", text)
    assert "1 of 2 complete" in text
    with pytest.raises(SystemExit):
        main(["status", str(run.root)])
    assert "1 of 2 complete" in capsys.readouterr().out


def test_long_names_of_points_are_in_one_line_where_no_terminal_limits_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = make_sweep(tmp_path, {f"a_setting_with_a_long_name_{i}": [0.25] for i in range(4)}, [])
    print_status(read_status(run))
    (folder,) = (run.root / "points").iterdir()
    assert len(folder.name) > 80
    assert any(folder.name in line for line in capsys.readouterr().out.splitlines())


def rendered(group: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(group, crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_sweep_report_imports_no_lightning(tmp_path: Path) -> None:
    run = make_sweep(tmp_path, {"data.shift": [0.5]}, [EXTREMES])
    code = (
        "import sys; from lpft.reporting.report import write_sweep_report; from lpft.storage.run import Run;"
        f"write_sweep_report(Run({str(run.root)!r}));"
        "print([name for name in ('lightning', 'pytorch_lightning', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
