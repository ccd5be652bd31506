"""The index of a method returns the same client results as its cells, and only for unchanged cells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpft.storage import result_index, result_parser
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.result_index import ResultIndex, read_client_results
from lpft.storage.run import Run
from tests.reporting.fabricate import WEIRD, make_run

OLD = 1_000_000_000


def varied(cell: ClientResult) -> ClientResult:
    """Fill all optional fields of a client result, with None for some undefined values."""
    own = WEIRD.index(cell.client)
    scores = {"nll": {"local": 0.5 + own, "global_all": None}}
    line = [{"a": a, "local": 50.0 + own, "global_all": None, "val": 10.0} for a in (0.25, 0.5)]
    accuracy = [None if place == own else value for place, value in enumerate(cell.accuracy)]
    groups = {"dark": {"local": None, "all": 1.0 * own, "num_local": 0, "num_all": 3}}
    return replace(cell, accuracy=accuracy, scores=scores, line=line, groups=groups, head_norms=[1.0, None])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run whose cells are old, so that reading them writes an index."""
    monkeypatch.setattr(result_index, "WORTHWHILE", 1)
    made = make_run(tmp_path / "run", seeds=[0], methods=["lpft"], clients=WEIRD, edit=varied)
    for path in made.method_file(0, "lpft", "cells").iterdir():
        os.utime(path, (OLD, OLD))
    return made


def as_read_one_by_one(run: Run) -> list[tuple[Path, ClientResult | str]]:
    return [
        (path, cell if isinstance(cell, ClientResult) else str(cell)) for path, cell in run.client_results(0, "lpft")
    ]


def as_read(run: Run, brief: bool = False) -> list[tuple[Path, ClientResult | str]]:
    folder, cells = run.method_file(0, "lpft", "cells"), read_client_results(run, 0, "lpft", brief)
    return [(folder / name, cell if isinstance(cell, ClientResult) else str(cell)) for name, cell in cells.items()]


def index_of(run: Run) -> Path:
    return ResultIndex(run, 0, "lpft").path


def indexed(run: Run) -> Run:
    read_client_results(run, 0, "lpft")
    assert index_of(run).is_file()
    return run


def a_cell(run: Run) -> Path:
    return run.cell(0, "lpft", WEIRD[1])


@pytest.fixture
def no_cell_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reading a cell fail, once there is an index."""
    indexed(run)

    def refuse(path: Path, *_: object) -> ClientResult:
        raise AssertionError(f"{path} was read.")

    monkeypatch.setattr(result_index, "read_client_result", refuse)


@pytest.mark.usefixtures("no_cell_is_read")
def test_an_index_returns_the_same_results_as_the_cells(run: Run) -> None:
    assert as_read(run) == as_read_one_by_one(run)
    for (_, cell), (_, expected) in zip(as_read(run), as_read_one_by_one(run), strict=True):
        assert isinstance(cell, ClientResult)
        assert isinstance(expected, ClientResult)
        assert cell.local == expected.local
        np.testing.assert_array_equal(np.array(cell.accuracy), np.array(expected.accuracy, dtype=float))


@pytest.mark.usefixtures("no_cell_is_read")
def test_brief_results_lack_what_only_reports_show(run: Run) -> None:
    nothing = {"accuracy": [None] * len(WEIRD), "epochs": [], "line": []}
    nested = dict.fromkeys(("groups", "depth", "scores", "head_norms"))
    full = [(path, replace(cell, **nothing, **nested)) for path, cell in run.client_results(0, "lpft")]  # type: ignore[type-var]
    assert as_read(run, brief=True) == full


def test_the_first_brief_reading_makes_the_index(run: Run) -> None:
    first = as_read(run, brief=True)
    assert index_of(run).is_file()
    assert as_read(run, brief=True) == first
    assert as_read(run) == as_read_one_by_one(run)


def test_more_different_accuracies_than_have_numbers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_parser, "MOST_LEVELS", 3)
    indexed(run)
    assert as_read(run) == as_read_one_by_one(run)


def edit_same_size(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace('"num_val": 30', '"num_val": 31'))


def replace_by_another_result(path: Path) -> None:
    path.write_text(replace(ClientResult.from_json(path.read_text()), num_val=7).to_json())


CHANGES: dict[str, Callable[[Path], None]] = {
    "removed": lambda path: path.unlink(),
    "cut off": lambda path: path.write_text(path.read_text()[:200]),
    "empty": lambda path: path.write_text(""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "edited": edit_same_size,
    "of another client": lambda path: path.write_text(path.with_name("Ward%203%2FB.json").read_text()),
    "another result": replace_by_another_result,
    "more": lambda path: shutil.copy(path, path.with_name("more.json")) and None,
}


@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize("most", [1, 100], ids=["renewed", "kept"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_changes_later_is_noticed(
    run: Run, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], most: int, brief: bool
) -> None:
    before = as_read(indexed(run), brief)
    monkeypatch.setattr(result_index, "WORTHWHILE", most)
    change(a_cell(run))
    for _ in range(2):
        now = as_read(run, brief)
        assert now != before
        assert [path for path, _ in now] == [path for path, _ in as_read_one_by_one(run)]
        assert as_read(run) == as_read_one_by_one(run)


def test_a_recently_written_result_is_read_again(run: Run) -> None:
    """An edit in the same tick of the clock would leave size and time as they are."""
    a_cell(run).touch()
    indexed(run)
    stamp = a_cell(run).stat()
    edit_same_size(a_cell(run))
    os.utime(a_cell(run), ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert as_read(run) == as_read_one_by_one(run)
    assert any(isinstance(cell, str) for _, cell in as_read(run))


def overwrite_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "empty": lambda path: path.write_bytes(b""),
    "one byte": overwrite_middle,
    "no archive": lambda path: path.write_text("{}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_index_is_ignored(run: Run, damage: Callable[[Path], object]) -> None:
    damage(index_of(indexed(run)))
    assert as_read(run) == as_read_one_by_one(run)


def test_every_byte_of_an_index_is_checked(run: Run) -> None:
    content = index_of(indexed(run)).read_bytes()
    expected = as_read_one_by_one(run)
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1
        index_of(run).write_bytes(bytes(changed))
        assert as_read(run) == expected


def test_an_index_of_another_folder_is_ignored(run: Run) -> None:
    """A folder that was copied with its times holds cells in the wrong place."""
    indexed(run)
    shutil.copytree(run.root / "seed_0", run.root / "seed_1")
    assert all(isinstance(cell, DamagedFileError) for cell in read_client_results(run, 1, "lpft").values())


def test_an_index_of_another_version_is_ignored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_index, "VERSION", 0)
    indexed(run)
    monkeypatch.undo()
    assert ResultIndex(run, 0, "lpft").read(dict(result_index._stamps(run.method_file(0, "lpft", "cells")))) == {}


def test_few_results_have_no_index(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=[0], methods=["lpft"], clients=WEIRD)
    read_client_results(run, 0, "lpft")
    assert not index_of(run).exists()


def test_without_write_permission(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(result_index, "replacing", refuse)
    assert as_read(run) == as_read_one_by_one(run)
    assert not index_of(run).exists()


def test_two_processes_at_once(run: Run) -> None:
    """Each finds what is there, whoever removes and renews the index meanwhile."""
    expected = as_read_one_by_one(run)

    def read(number: int) -> bool:
        if number % 3 == 0:
            index_of(run).unlink(missing_ok=True)
        return as_read(run, brief=False) == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(60)))
    assert not list(run.root.rglob("*.tmp"))


def test_status_reads_an_index_without_numpy(run: Run) -> None:
    indexed(run)
    code = (
        "import sys; from lpft.storage.result_index import read_client_results; from lpft.storage.run import Run;"
        f"print(len(read_client_results(Run({str(run.root)!r}), 0, 'lpft', brief=True)), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(WEIRD)), "False"]
