import io
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import CLIENTS, make_run
from rich.console import Console

from lpft.reporting.console import print_comparison
from lpft.reporting.report import write_tables
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run


def printed(run: Run, **options: object) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_comparison(write_tables(run), console=console, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_has_one_row_per_method_and_fits(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = printed(run, page=tmp_path / "report.html")
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert max(len(line) for line in text.splitlines() if "report.html" not in line) <= 118
    analysis = write_tables(run)
    summary = analysis.frames.summary.set_index(["metric", "method"]).loc["local"]
    for method in ("none", "ft", "ft_short", "lp", "lpft"):
        margin = analysis.certainty.estimates[method, "local"].margin
        assert f"{summary['mean'][method]:.1f} ± {margin:.1f}" in rows[method]
        found = analysis.certainty.comparisons.get((method, "ft", "local"))
        assert (found.verdict if found else "-") in rows[method].split()
    assert f"Report: {tmp_path / 'report.html'}" in text
    assert "!" not in text
    assert "*" not in text


def test_one_seed_has_intervals_over_clients(tmp_path: Path) -> None:
    text = printed(make_run(tmp_path, seeds=(3,)))
    assert "±" in text
    assert "over clients only" in text


def test_one_client_and_seed_has_no_interval(tmp_path: Path) -> None:
    text = printed(make_run(tmp_path, seeds=(3,), clients=("only",)))
    assert all("±" not in line for line in text.splitlines() if line.split()[:1] in (["none"], ["lpft"]))


def test_matters_are_named_once(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        if cell.method == "ft" and cell.client == CLIENTS[0]:
            return None
        return replace(cell, status="no_train") if cell.client == CLIENTS[9] else cell

    text = printed(make_run(tmp_path, seeds=(0, 1), edit=edit, rounds=5))
    assert text.count("left out") == 1
    assert f"left out: ft, seeds 0, 1: 1 of 10 clients missing ({CLIENTS[0]})" in text
    assert "global model not converged: seed 1: 5 rounds are too few" in text
    assert f"no_train: {CLIENTS[9]}" in text


def test_clients_that_lack_classes_are_named_once(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        known = 0 if cell.client == CLIENTS[0] else 3 if cell.client in CLIENTS[1:3] else 10
        return replace(cell, num_classes=10, num_train_classes=known, num_train=40 * known)

    text = printed(make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"), edit=edit))
    assert text.count("few classes") == 1
    assert f"few classes: {CLIENTS[1]}, {CLIENTS[2]} (2 of 10 clients do not train on all 10 classes)" in text


def test_clients_without_the_metric_are_named_once(tmp_path: Path) -> None:
    """AUROC is undefined for test samples of a single class."""

    def edit(cell: ClientResult) -> ClientResult:
        accuracy = [
            None if name == CLIENTS[3] else value for name, value in zip(cell.clients, cell.accuracy, strict=True)
        ]
        return replace(cell, accuracy=accuracy)

    text = printed(make_run(tmp_path, seeds=(0, 1), methods=("none", "ft"), edit=edit))
    assert text.count("undefined: ") == 1
    assert f"accuracy is undefined: {CLIENTS[3]} (1 of 10 clients" in text


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult:
        return replace(cell, status="diverged")

    text = printed(make_run(tmp_path, seeds=(0,), methods=("[red]x",), clients=("[bold]a", "b"), edit=edit))
    assert "[red]x" in text
    assert "diverged: [bold]a, b" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_narrow_terminal_shows_fewer_columns_but_whole_numbers(tmp_path: Path, width: int) -> None:
    run = make_run(tmp_path)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_comparison(write_tables(run), console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("others" in text.splitlines()[1]) == (width == 140)
    assert "Local" in text.splitlines()[1]
