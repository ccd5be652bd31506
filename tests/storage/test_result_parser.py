"""Reading many cells in little memory finds what reading one by one finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lpft.storage import result_parser
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.fingerprint import digest
from lpft.storage.result_parser import ResultParser
from tests.reporting.fabricate import WEIRD, make_cell

CELLS = [make_cell(0, method, client, WEIRD) for method in ("ft", "lpft") for client in WEIRD]
CELLS[1] = replace(CELLS[1], accuracy=[None, 100.0, 1e-05, 12.5, None], groups={"b": {"all": 1.0}, "a": {"all": 2.0}})


@pytest.fixture
def no_second_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> ClientResult:
        raise AssertionError("This cell was not read as it was written.")

    monkeypatch.setattr(ClientResult, "from_json", refuse)


@pytest.mark.usefixtures("no_second_way")
def test_written_results_are_read_by_the_fast_path() -> None:
    parse = ResultParser()
    read = [parse(cell.to_json()) for cell in CELLS]
    assert read == CELLS
    assert [cell.local for cell in read] == [cell.local for cell in CELLS]
    assert all(cell.clients is read[0].clients for cell in read)
    for cell, expected in zip(read, CELLS, strict=True):
        np.testing.assert_array_equal(np.array(cell.accuracy), np.array(expected.accuracy, dtype=float))
    assert [cell.to_json() for cell in read] == [cell.to_json() for cell in CELLS]


EPOCHS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "one": [{"epoch": 0}],
    "keys that begin alike": [{"local_x": 1.0, "local": 2.5, "epoch": 0}, {"local": None}],
    "texts like JSON": [{"phase": '"epochs": null, {[}],\n  },\n  {', "epoch": 1}, {"phase": "\u6771", "epoch": 2}],
}


@pytest.mark.usefixtures("no_second_way")
@pytest.mark.parametrize("epochs", EPOCHS.values(), ids=EPOCHS.keys())
def test_epochs_of_any_kind_are_read_by_the_fast_path(epochs: list[dict[str, Any]]) -> None:
    cell = replace(CELLS[0], epochs=epochs)
    assert ResultParser()(cell.to_json()) == cell


@pytest.mark.parametrize("entry", [{"nested": {"b": 1, "a": [1, 2]}}, {}], ids=["nested", "empty"])
def test_epochs_with_other_entries(entry: dict[str, Any]) -> None:
    cell = replace(CELLS[0], epochs=[{"epoch": 0}, entry, {"epoch": 2}])
    assert ResultParser()(cell.to_json()) == cell


@pytest.mark.usefixtures("no_second_way")
def test_more_different_accuracies_than_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_parser, "MOST_LEVELS", 7)
    parse = ResultParser()
    assert [parse(cell.to_json()) for cell in CELLS] == CELLS
    assert np.array(parse(CELLS[1].to_json()).accuracy)[3] == 12.5


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "cut off": lambda text: text[: len(text) // 2],
    "cut off in the matrix": lambda text: text[: text.index('"local_before"')],
    "an accuracy": lambda text: text.replace(str(CELLS[0].accuracy[2]), "99.0", 1),
    "an accuracy that is text": lambda text: text.replace(str(CELLS[0].accuracy[2]), '"99.0"', 1),
    "a name": lambda text: text.replace("Ward 3/B", "Ward 3/C"),
    "the client": lambda text: text.replace('"client": "Ward 3/B"', '"client": "Ward 3/C"'),
    "a figure": lambda text: text.replace('"num_val": 30', '"num_val": 31'),
    "an epoch": lambda text: text.replace('"epoch": 3', '"epoch": 4'),
    "the checksum": lambda text: text.replace('"checksum": "', '"checksum": "0'),
    "no checksum": lambda text: text.replace('"checksum"', '"sum"'),
    "no object": lambda _: "[1, 2]\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found(damage: Callable[[str], str]) -> None:
    text = damage(CELLS[0].to_json())
    assert text != CELLS[0].to_json()
    with pytest.raises(DamagedFileError) as expected:
        ClientResult.from_json(text)
    with pytest.raises(DamagedFileError, match=str(expected.value)):
        ResultParser()(text)


def test_unknown_and_missing_fields() -> None:
    content = json.loads(CELLS[0].to_json())
    del content["checksum"]
    for changed in ({**content, "later": 1}, {key: value for key, value in content.items() if key != "status"}):
        text = json.dumps({**changed, "checksum": digest(changed)}, indent=1)
        with pytest.raises(DamagedFileError, match="checksum"):
            ResultParser()(text)
    earlier = {key: value for key, value in content.items() if key != "depth"}
    text = json.dumps({**earlier, "checksum": digest(earlier)}, indent=1)
    assert ResultParser()(text) == replace(CELLS[0], depth=None)


def test_other_layouts_of_the_same_content() -> None:
    content = json.loads(CELLS[0].to_json())
    assert ResultParser()(json.dumps(content)) == CELLS[0]
    alone = make_cell(0, "ft", "a", ["a"])
    assert ResultParser()(alone.to_json()) == alone
