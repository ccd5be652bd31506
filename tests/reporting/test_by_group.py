"""Accuracy by group in tables and page: by hand on two clients, and absent where the data have no groups."""

import csv
import math
from dataclasses import replace
from pathlib import Path

from fabricate import make_cell, make_run, two_groups

from lpft.evaluation.certainty import estimate
from lpft.evaluation.metrics import compute_metrics
from lpft.reporting.analysis import Analysis, sweep_frame
from lpft.reporting.formatting import estimate_text
from lpft.reporting.frames import Frames, evaluation_of
from lpft.reporting.report import write_report, write_tables
from lpft.reporting.results import MethodResult, experiment_of
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

CLIENTS = ("a", "b")
COLUMNS = [
    "worst_group_local", "worst_group_all",
    "group_local/men", "group_local/women, old", "group_all/men", "group_all/women, old",
]  # fmt: skip
LOCAL = {"a": (80.0, 60.0), "b": (50.0, None)}
ALL = {"a": (70.0, 90.0), "b": (40.0, 20.0)}


def grouped(cell: ClientResult) -> ClientResult:
    """Client b has no test samples of the second group."""
    return replace(cell, groups=two_groups(("men", "women, old"), LOCAL[cell.client], ALL[cell.client]))


def result() -> MethodResult:
    cells = [grouped(make_cell(0, "ft", name, CLIENTS)) for name in CLIENTS]
    return MethodResult(0, "ft", list(CLIENTS), cells, [], [])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_client_by_hand() -> None:
    frames = Frames([result()])
    assert frames.clients[["worst_group_local", "worst_group_all"]].to_numpy().tolist() == [[60.0, 70.0], [50.0, 20.0]]
    groups = frames.groups.set_index(["client", "test_set", "group"])["accuracy"]
    assert groups["a", "local", "women, old"] == 60.0
    assert math.isnan(groups["b", "local", "women, old"])
    assert groups["b", "all", "women, old"] == 20.0


def test_means_over_clients_by_hand() -> None:
    """Worst at home (60 + 50) / 2, everywhere (70 + 20) / 2."""
    metrics = compute_metrics(evaluation_of(result()))
    assert (metrics["worst_group_local"], metrics["worst_group_all"]) == (55.0, 45.0)


def test_tables_on_disk(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"), clients=CLIENTS, edit=grouped)
    write_tables(run)
    rows = read(run.method_file(1, "ft", "clients.csv"))
    assert list(rows[0])[-6:] == COLUMNS
    assert [row["group_local/women, old"] for row in rows] == ["60.0", ""]
    results = read(tmp_path / "results.csv")
    assert list(results[0])[-2:] == ["worst_group_local", "worst_group_all"]
    assert {row["worst_group_all"] for row in results} == {"45.0"}
    summary = {(row["method"], row["metric"]): row for row in read(tmp_path / "summary.csv")}
    assert (summary["ft", "worst_group_local"]["mean"], summary["ft", "worst_group_local"]["n"]) == ("55.0", "2")


def test_no_groups_no_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), methods=("ft",))
    report = write_report(run)
    for path in (
        tmp_path / "results.csv",
        tmp_path / "summary.csv",
        run.method_file(0, "ft", "clients.csv"),
        report.page,
    ):
        assert "group_" not in path.read_text(encoding="utf-8")
    assert "By group" not in report.page.read_text(encoding="utf-8") + (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )
    assert not [column for column in sweep_frame([report.analysis]) if "group" in column]


def test_a_sweep_has_them_too() -> None:
    (row,) = sweep_frame([Analysis(Run("nowhere"), experiment_of({}, [result()]), [result()], {})]).to_dict("records")
    assert (row["worst_group_local"], row["worst_group_all_std"]) == (55.0, 0.0)


def test_page_and_markdown(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        shift = 10 * cell.seed
        names = ("<b>men</b>", "women | old")
        local, everywhere = LOCAL[cell.client], ALL[cell.client]
        return replace(cell, groups=two_groups(names, local, (everywhere[0] + shift, everywhere[1] + shift)))

    run = make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"), clients=CLIENTS, edit=edit)
    report = write_report(run)
    page, text = report.page.read_text(encoding="utf-8"), (tmp_path / "report.md").read_text(encoding="utf-8")
    section = page[page.index('<section id="by-group">') :]
    section = section[: section.index("</section>")]
    assert section.count("<table>") == 2
    assert "&lt;b&gt;men&lt;/b&gt;" in section
    assert "<b>men" not in section
    of_women = estimate([[60.0], [60.0]])  # client b has none
    expected = [estimate([[60.0, 50.0]] * 2), estimate([[80.0, 50.0]] * 2), of_women]
    assert "".join(f"<td>{estimate_text(one)}</td>" for one in expected) in section
    expected = [estimate([[70.0, 20.0], [80.0, 30.0]]), estimate([[70.0, 40.0], [80.0, 50.0]])]
    expected = [expected[0], expected[1], estimate([[90.0, 20.0], [100.0, 30.0]])]
    assert "".join(f"<td>{estimate_text(one)}</td>" for one in expected) in section
    assert "women | old 10 (0 to 10 per client)." in section
    assert f"| ft | {' | '.join(estimate_text(one) for one in expected)} |" in text
    assert "## By group" in text
    assert "women \\| old" in text


def test_incomplete_methods_are_left_out(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, seeds=(0,), methods=("none", "ft"), clients=CLIENTS,
        edit=lambda cell: None if (cell.method, cell.client) == ("ft", "b") else grouped(cell),
    )  # fmt: skip
    results = write_tables(run).frames.results
    assert results.dropna(subset="worst_group_all")["method"].tolist() == ["none"]
    assert read(run.method_file(0, "ft", "clients.csv"))[1]["worst_group_local"] == ""


def test_cells_keep_groups_and_older_ones_have_none() -> None:
    cell = grouped(make_cell(0, "ft", "b", CLIENTS))
    assert ClientResult.from_json(cell.to_json()) == cell
    assert make_cell(0, "ft", "b", CLIENTS).groups is None
