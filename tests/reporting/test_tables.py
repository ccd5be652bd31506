"""Tables: by hand on two clients, recomputed from accuracy.csv alone, and with every kind of hole."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricate import CLIENTS, METHODS, WEIRD, make_cell, make_config, make_run

from lpft.evaluation.metric import Evaluation
from lpft.evaluation.metrics import compute_metrics
from lpft.reporting.analysis import Analysis
from lpft.reporting.frames import Frames, evaluation_of
from lpft.reporting.page import clients_compared
from lpft.reporting.report import write_tables
from lpft.reporting.results import MethodResult, experiment_of, method_order, read_results
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_matrix(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == header[1:]
    return header[1:], np.array([[float(entry) if entry else math.nan for entry in row[1:]] for row in rows])


def two_clients(**changes: object) -> list[ClientResult]:
    cells = [make_cell(0, "ft", name, ("a", "b")) for name in ("a", "b")]
    rows = {"a": ([90.0, 50.0], 80.0), "b": ([70.0, 80.0], 85.0)}
    return [
        replace(cell, accuracy=rows[cell.client][0], local_before=rows[cell.client][1], **changes) for cell in cells
    ]


def result_of(cells: list[ClientResult], clients: tuple[str, ...] = ("a", "b")) -> MethodResult:
    return MethodResult(0, cells[0].method, list(clients), cells, [], [])


def figures(result: MethodResult) -> dict[str, float]:
    return compute_metrics(evaluation_of(result))


MATRIX_METRICS = (
    *("local", "global_all", "global_others", "cstd_row", "cstd_local"),
    *("worst_row", "worst_local", "worst_pair", "average3", "average2"),
)


def test_figures_by_hand() -> None:
    """Local 90 and 80 (from 80 and 85: one of two hurt), elsewhere 50 and 70; passes 100 + 50, seconds 1 + 2."""
    cells = two_clients(distortion_all=None)
    cells = [
        replace(cells[0], distortion_own=3.0, train_passes=100.0, seconds=1.0),
        replace(cells[1], distortion_own=None, train_passes=50.0, seconds=2.0),
    ]
    found = figures(result_of(cells))
    expected = {"local": 85, "global_all": 72.5, "global_others": 60, "worst_row": 60, "worst_pair": 50}
    expected |= {"average3": 72.5, "distortion_own": 3, "hurt_share": 0.5, "train_passes": 150, "seconds": 3}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["distortion_all"])


def test_results_can_be_recomputed_from_accuracy_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0, 3))
    write_tables(run)
    rows = read(tmp_path / "results.csv")
    assert [(row["seed"], row["method"]) for row in rows] == [(s, m) for s in ("0", "3") for m in METHODS]
    for row in rows:
        names, matrix = read_matrix(run.method_file(int(row["seed"]), row["method"], "accuracy.csv"))
        assert names == list(CLIENTS)
        expected = compute_metrics(Evaluation(matrix))
        assert {name: float(row[name]) for name in MATRIX_METRICS} == {name: expected[name] for name in MATRIX_METRICS}
        size = len(matrix)
        parts = float(row["local"]) + (size - 1) * float(row["global_others"])
        assert float(row["global_all"]) == pytest.approx(parts / size)


def test_summary_is_mean_and_population_std_of_results(tmp_path: Path) -> None:
    write_tables(make_run(tmp_path))
    results, summary = read(tmp_path / "results.csv"), read(tmp_path / "summary.csv")
    assert list(dict.fromkeys(row["method"] for row in summary)) == list(METHODS)
    for row in summary:
        values = [float(r[row["metric"]]) for r in results if r["method"] == row["method"]]
        assert int(row["n"]) == len(values) == 3
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["std"]) == pytest.approx(np.std(values), abs=1e-12)


def test_columns_are_those_that_were_promised(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("lpft",))
    write_tables(run)

    def header(path: Path) -> str:
        return path.read_text(encoding="utf-8").splitlines()[0]

    assert header(tmp_path / "results.csv") == (
        "seed,method,local,global_all,global_others,cstd_row,cstd_local,worst_row,worst_local,worst_pair,"
        "average3,average2,distortion_own,distortion_all,hurt_share,train_passes,seconds,"
        "local_decile,local_quartile,local_gini"
    )
    assert header(tmp_path / "summary.csv") == "method,metric,mean,std,n"
    assert header(run.method_file(0, "lpft", "clients.csv")) == (
        "client,status,num_train,num_val,num_test,local,global_all,global_others,worst,cstd,"
        "distortion_own,distortion_all,distortion_relative,val_before,val_after,seconds"
    )
    assert header(run.method_file(0, "lpft", "curves.csv")) == (
        "epoch,phase,lr_head,lr_body,train_loss,local,global_all,distortion,worst"
    )


def test_curves_end_where_the_matrix_is(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,))
    write_tables(run)
    for row in read(tmp_path / "results.csv"):
        curve = read(run.method_file(0, row["method"], "curves.csv"))
        assert float(curve[-1]["local"]) == pytest.approx(float(row["local"]))
        assert float(curve[-1]["global_all"]) == pytest.approx(float(row["global_all"]))
    assert [entry["epoch"] for entry in curve] == [str(epoch) for epoch in range(16)]
    assert [entry["epoch"] for entry in curve if entry["local"]] == ["0", "3", "6", "9", "12", "15"]
    assert [entry["phase"] for entry in curve[4:7]] == ["lp", "lp", "ft"]
    assert (curve[5]["lr_head"], curve[5]["lr_body"], curve[6]["lr_head"]) == ("0.01", "0.0", "0.001")


def test_diverged_client_stands_at_the_global_model_in_the_curve() -> None:
    """Client b diverged: its accuracy of epoch 0, 40, counts in epoch 2 as well: (60 + 40) / 2; the loss is a's."""
    start = {"epoch": 0, "phase": "", "global_all": 50.0}
    end = {"epoch": 2, "phase": "ft"}
    entries = {
        "a": [{**start, "local": 50.0}, {**end, "train_loss": 0.5, "local": 60.0, "global_all": 30.0}],
        "b": [{**start, "local": 40.0}, {**end, "train_loss": None, "local": None, "global_all": None}],
    }
    cells = [replace(cell, epochs=entries[cell.client]) for cell in two_clients()]
    cells[1].status = "diverged"
    rows = Frames([result_of(cells)]).mean_curves.to_dict("records")
    assert [row["local"] for row in rows] == [45.0, 50.0]
    assert [row["global_all"] for row in rows] == [50.0, 40.0]
    assert rows[1]["train_loss"] == 0.5


def analysis_of(results: list[MethodResult]) -> Analysis:
    return Analysis(Run("nowhere"), experiment_of({}, results), results, {})


def with_local(seed: int, method: str, a: float) -> MethodResult:
    """Client a has this accuracy on its own test set, b has 80."""
    cells = [replace(cell, seed=seed, method=method) for cell in two_clients()]
    cells[0].accuracy = [a, 50.0]
    return MethodResult(seed, method, ["a", "b"], cells, [], [])


def test_differences_by_hand() -> None:
    """Local of ft is (90 + 80) / 2 and (76 + 80) / 2; of none 80 with both seeds; lp has one of them."""
    results = [with_local(0, "none", 80.0), with_local(1, "none", 80.0), with_local(0, "ft", 90.0)]
    analysis = analysis_of([*results, with_local(1, "ft", 76.0), with_local(1, "lp", 70.0), with_local(2, "lp", 0.0)])
    assert analysis.differences("ft", "none", "local").to_dict() == {0: 5.0, 1: -2.0}
    assert analysis.differences("lp", "none", "local").to_dict() == {1: -5.0}
    assert analysis.differences("ft", "nobody", "local").empty


def test_clients_are_compared_over_the_seeds_that_both_have() -> None:
    """Client a gains 10 and loses 4, b stays; seed 2 has no baseline."""
    results = [with_local(0, "none", 80.0), with_local(1, "none", 80.0), with_local(0, "ft", 90.0)]
    analysis = analysis_of([*results, with_local(1, "ft", 76.0), with_local(2, "ft", 0.0)])
    assert clients_compared(analysis, "ft", "none") == (1, 1, 0)
    assert clients_compared(analysis, "lp", "none") == (0, 0, 0)


def test_matrix_of_a_method() -> None:
    analysis = analysis_of([with_local(0, "ft", 90.0)])
    assert analysis.matrix("ft", 0).loc["a", "b"] == 50.0
    with pytest.raises(KeyError, match="`ft` with seed 1"):
        analysis.matrix("ft", 1)


def test_recommendations_are_written_with_their_evidence(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        better = cell.client == CLIENTS[2] and cell.method == "ft"
        counts = {"val_before": 50.0, "val_after": 80.0 if better else 50.0, "val_gained": 9 * better, "val_lost": 0}
        return replace(cell, num_val=30, **counts)

    run = make_run(tmp_path, seeds=(0, 1), edit=edit)
    write_tables(run)
    rows = read(tmp_path / "recommendations.csv")
    assert ",".join(rows[0]) == (
        "client,num_val,val_before,best_method,val_after,gain,standard_error,recommendation,test_before,test_after"
    )
    assert [row["client"] for row in rows] == list(CLIENTS)
    assert {row["client"]: row["best_method"] for row in rows if row["recommendation"] == "personalize"} == {
        CLIENTS[2]: "ft"
    }
    assert {row["best_method"] for row in rows if row["recommendation"] == "keep"} == {"none"}
    assert rows[2]["gain"] == "30.0"
    assert read(tmp_path / "diagnostics.csv") == []


def test_depth_is_the_mean_over_clients_and_only_where_bodies_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=[0], methods=["lp", "ft"])
    stale = run.method_file(0, "lp", "depth.csv")
    stale.write_text("layer\n")
    results = write_tables(run).method_results
    rows = read(run.method_file(0, "ft", "depth.csv"))
    assert [(row["depth"], row["layer"]) for row in rows] == [("1", "conv"), ("2", "features")]
    cells = next(result.client_results for result in results if result.method == "ft")
    expected = sum(cell.distortion_relative or 0 for cell in cells) / len(cells)
    assert float(rows[1]["distortion_relative"]) == pytest.approx(expected)
    assert not stale.exists()


def test_depth_is_not_the_mean_of_some_clients(tmp_path: Path) -> None:
    """One cell is from before it was recorded; a client that has diverged is no such case."""
    old = make_run(tmp_path / "old", methods=["ft"], edit=lambda c: replace(c, depth=None) if "b" in c.client else c)
    assert write_tables(old).frames.depth.empty
    lost = replace(make_cell(0, "ft", CLIENTS[0], CLIENTS), status="diverged", depth=None)
    run = make_run(tmp_path / "new", seeds=[0], methods=["ft"], edit=lambda c: lost if c.client == CLIENTS[0] else c)
    assert write_tables(run).frames.depth["layer"].tolist() == ["conv", "features"]


def test_no_curves_without_evaluation_and_an_old_file_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), eval_every=0)
    stale = run.method_file(0, "ft", "curves.csv")
    stale.write_text("old")
    write_tables(run)
    assert not stale.exists()


def test_incomplete_method_has_no_row_but_its_own_tables(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        return None if (cell.method, cell.client, cell.seed) == ("ft", CLIENTS[1], 1) else cell

    run = make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"), edit=edit)
    (gone,) = [result for result in write_tables(run).method_results if not result.complete]
    assert (gone.seed, gone.method, gone.missing) == (1, "ft", [CLIENTS[1]])
    assert gone.problem == f"1 of 10 clients missing ({CLIENTS[1]})"
    rows = [(row["seed"], row["method"]) for row in read(tmp_path / "results.csv")]
    assert rows == [("0", "none"), ("0", "ft"), ("1", "none")]
    _, matrix = read_matrix(run.method_file(1, "ft", "accuracy.csv"))
    assert np.isnan(matrix[1]).all()
    assert np.isfinite(np.delete(matrix, 1, axis=0)).all()
    assert read(run.method_file(1, "ft", "clients.csv"))[1]["status"] == "missing"
    assert {row["metric"]: row["n"] for row in read(tmp_path / "summary.csv") if row["method"] == "ft"}["local"] == "1"


def test_method_that_never_ran_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), edit=lambda cell: cell if cell.method == "none" else None)
    problems = {result.method: len(result.missing) for result in read_results(run) if not result.complete}
    assert problems == {"ft": 10, "ft_short": 10, "lp": 10, "lpft": 10}


def test_damaged_results_are_reported_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("none", "ft", "lp"), clients=WEIRD)
    cut, edited = run.cell(0, "ft", WEIRD[2]), run.cell(0, "ft", WEIRD[0])
    cut.write_text(cut.read_text()[:-40])
    edited.write_text(edited.read_text().replace('"num_test": 36', '"num_test": 37'))
    moved = run.cell(0, "lp", WEIRD[1])
    moved.write_text(run.cell(0, "none", WEIRD[1]).read_text())
    results = {result.method: result for result in write_tables(run).method_results}
    assert {damage.client for damage in results["ft"].damaged} == {WEIRD[0], WEIRD[2]}
    assert results["ft"].missing == []
    assert "method none" in results["lp"].damaged[0].reason
    assert all(path.name in caplog.text for path in (cut, edited, moved))
    assert {row["status"] for row in read(run.method_file(0, "ft", "clients.csv"))} == {"ok", "damaged"}


def test_cells_of_different_settings_are_not_averaged(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        return replace(cell, fingerprint="other") if cell.client == CLIENTS[0] and cell.method == "ft" else cell

    analysis = write_tables(make_run(tmp_path, seeds=(0,), edit=edit))
    results = {result.method: result for result in analysis.method_results}
    assert results["ft"].problem == "results of different settings"
    assert not results["ft"].complete
    assert results["lp"].complete


def test_cells_for_other_clients_are_not_mixed_in(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("ft",), clients=("a", "b"))
    write_atomically(run.cell(0, "ft", "b"), make_cell(0, "ft", "b", ("b", "c")).to_json())
    (result,) = read_results(run)
    assert result.damaged[0].reason == "it was computed for other clients"


def test_order_of_clients_may_differ_between_cells(tmp_path: Path) -> None:
    """A row is put in place by names, not by positions."""
    cells = [replace(c, clients=["b", "a"], accuracy=c.accuracy[::-1]) if c.client == "b" else c for c in two_clients()]
    found, expected = figures(result_of(cells)), figures(result_of(two_clients()))
    assert found == pytest.approx(expected, abs=0, nan_ok=True)


def test_client_without_test_samples(tmp_path: Path) -> None:
    gone = CLIENTS[3]

    def edit(cell: ClientResult) -> ClientResult:
        accuracy = [None if name == gone else value for name, value in zip(cell.clients, cell.accuracy, strict=True)]
        cell = replace(cell, accuracy=accuracy)
        return replace(cell, status="no_test", local_before=None, num_test=0) if cell.client == gone else cell

    run = make_run(tmp_path, seeds=(0,), methods=("ft",), edit=edit)
    (result,) = write_tables(run).method_results
    assert result.complete
    assert result.count("no_test") == 1
    _, matrix = read_matrix(run.method_file(0, "ft", "accuracy.csv"))
    assert np.isnan(matrix[:, 3]).all()
    assert np.isfinite(np.delete(matrix, 3, axis=1)).all()
    (row,) = read(tmp_path / "results.csv")
    assert float(row["local"]) == pytest.approx(np.nanmean(np.diagonal(matrix)))
    assert read(run.method_file(0, "ft", "clients.csv"))[3]["local"] == ""


def test_single_client_leaves_the_columns_of_others_blank(tmp_path: Path) -> None:
    write_tables(make_run(tmp_path, seeds=(0,), methods=("ft",), clients=("only",)))
    (row,) = read(tmp_path / "results.csv")
    assert [name for name, value in row.items() if not value] == ["global_others", "worst_row", "average3"]
    assert row["local"] == row["global_all"]


def test_names_survive_quoting(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("ft",), clients=WEIRD)
    write_tables(run)
    assert read_matrix(run.method_file(0, "ft", "accuracy.csv"))[0] == list(WEIRD)
    assert [row["client"] for row in read(run.method_file(0, "ft", "clients.csv"))] == list(WEIRD)


def test_without_config_the_cells_tell(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(1,), config=False)
    results = write_tables(run).method_results
    assert [result.method for result in results] == sorted(METHODS)
    assert all(result.complete and result.clients == list(CLIENTS) for result in results)


def test_unreadable_config_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path, seeds=(1,))
    run.config.write_text("a: [")
    assert len(write_tables(run).experiment.methods) == len(METHODS)
    assert len(caplog.records) == 1, "several parts read it"
    assert "config.yaml is not the configuration of a run" in caplog.text


def test_method_order_is_the_configured_one() -> None:
    config = make_config((0,), ("none", "lpft", "ft"), ("a",), 0, 1)
    assert method_order(config, {"ft", "lpft", "z", "b"}) == ["none", "lpft", "ft", "b", "z"]


def test_writing_twice_changes_no_byte(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("none", "lpft"))
    write_tables(run)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    write_tables(run)
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(("make", "hint"), [(False, "not the folder of a run"), (True, "contains no results")])
def test_refuses_what_is_no_run(tmp_path: Path, make: bool, hint: str) -> None:
    if make:
        make_run(tmp_path, seeds=(0,), edit=lambda cell: None)
    with pytest.raises(FileNotFoundError, match=f"(?s){hint}.*HINT"):
        write_tables(Run(tmp_path if make else tmp_path / "nowhere"))
