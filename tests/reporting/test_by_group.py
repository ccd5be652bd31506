"""Accuracy by group in tables and page: by hand on two clients, and absent where the data have no groups."""

import csv
from dataclasses import replace
from pathlib import Path

from fabricate import make_cell, make_run, two_groups

from lpft.reporting.report import write_report, write_tables
from lpft.reporting.results import MethodResult
from lpft.reporting.sweeps import Point, sweep_csv
from lpft.reporting.tables import client_rows, figures, group_columns, group_rows
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
    assert group_columns(result().cells) == COLUMNS
    a, b = client_rows(result())
    assert [a[column] for column in COLUMNS] == [60.0, 70.0, 80.0, 60.0, 70.0, 90.0]
    assert [b[column] for column in COLUMNS] == [50.0, 20.0, 50.0, None, 40.0, 20.0]


def test_means_over_clients_by_hand() -> None:
    """Worst at home (60 + 50) / 2, everywhere (70 + 20) / 2; the group that b lacks at home is a's alone."""
    found = figures(result())
    assert (found["worst_group_local"], found["worst_group_all"]) == (55.0, 45.0)
    (row,) = group_rows([result()])
    assert [row[column] for column in COLUMNS] == [55.0, 45.0, 65.0, 60.0, 55.0, 55.0]


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
    assert "group" not in sweep_csv([Point(run, {}, report.results)])


def test_a_sweep_has_them_too() -> None:
    header, row = sweep_csv([Point(Run("nowhere"), {}, [result()])]).splitlines()
    entry = dict(zip(header.split(","), row.split(","), strict=True))
    assert (entry["worst_group_local"], entry["worst_group_all_std"]) == ("55.0", "0.0")


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
    assert "<td>55.0 ± 0.0</td><td>65.0 ± 0.0</td><td>60.0 ± 0.0</td>" in section
    assert "<td>50.0 ± 5.0</td><td>60.0 ± 5.0</td><td>60.0 ± 5.0</td>" in section
    assert "women | old 10 (0 to 10 at a client)." in section
    assert "| ft | 50.0 ± 5.0 | 60.0 ± 5.0 | 60.0 ± 5.0 |" in text
    assert "## By group" in text
    assert "women \\| old" in text


def test_incomplete_methods_are_left_out(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, seeds=(0,), methods=("none", "ft"), clients=CLIENTS,
        edit=lambda cell: None if (cell.method, cell.client) == ("ft", "b") else grouped(cell),
    )  # fmt: skip
    results = write_tables(run)
    assert [row["method"] for row in group_rows(results)] == ["none"]
    assert read(run.method_file(0, "ft", "clients.csv"))[1]["worst_group_local"] == ""


def test_cells_keep_groups_and_older_ones_have_none() -> None:
    cell = grouped(make_cell(0, "ft", "b", CLIENTS))
    assert ClientResult.from_json(cell.to_json()) == cell
    assert make_cell(0, "ft", "b", CLIENTS).groups is None
