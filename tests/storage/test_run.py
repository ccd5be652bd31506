from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.fingerprint import digest, fingerprint
from lpft.storage.run import Run, check_client_names, check_method_names, file_name, read_client_result

CELL = ClientResult(
    seed=0, method="ft", client="Klinik Süd/3", fingerprint="f", status="ok", clients=["Klinik Süd/3", "b"],
    accuracy=[90.0, None], local_before=80.0, val_before=None, val_after=70.0, distortion_own=1.0, distortion_all=2.0,
    distortion_relative=0.1, num_train=5, num_val=0, num_test=3, train_passes=75.0, seconds=0.1, clients_per_stack=2,
    device="cpu", epochs=[{"epoch": 0, "phase": "start"}],
)  # fmt: skip


def test_a_result_is_restored_from_disk(tmp_path: Path) -> None:
    path = Run(tmp_path).cell(0, "ft", CELL.client)
    write_atomically(path, CELL.to_json())
    assert read_client_result(path) == CELL
    assert [cell for _, cell in Run(tmp_path).client_results(0, "ft")] == [CELL]
    assert Run(tmp_path).methods(0) == ["ft"]


def test_the_error_for_a_missing_model_lists_existing_ones(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for path in (run.model(1, "ft", "Klinik Süd/3"), run.global_model(1)):
        write_atomically(path, "")
        assert run.saved_model(1, path.parents[int(path.parent.name == "models")].name, "Klinik Süd/3") == path
    write_atomically(run.cell(1, "lp", CELL.client), CELL.to_json())
    for missing, named in {
        (1, "ft", "b"): "the clients with models are Klinik Süd/3",
        (1, "lpft", "b"): "the methods with models are ft",
        (1, "lp", "b"): "`personalization.save_models`",
        (0, "ft", "b"): "other seeds, 1",
        (0, "global", ""): "other seeds, 1",
    }.items():
        with pytest.raises(FileNotFoundError, match=re.escape(named)):
            run.saved_model(*missing)
    write_atomically(run.point("a=1").config, "")
    with pytest.raises(FileNotFoundError, match=re.escape(str(run.point("a=1").root))):
        run.saved_model(0, "ft", "b")
    with pytest.raises(FileNotFoundError, match="`lpft run"):
        Run(tmp_path / "other").saved_model(0, "global", "")


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-20], lambda t: t.replace("90.0", "91.0"), lambda t: "", lambda t: "[]"]
)
def test_an_edited_or_truncated_result_is_detected(damage) -> None:
    with pytest.raises(DamagedFileError):
        ClientResult.from_json(damage(CELL.to_json()))


def test_a_result_without_new_fields_can_be_read() -> None:
    content = json.loads(CELL.to_json())
    del content["checksum"], content["train_accuracy"]
    assert ClientResult.from_json(json.dumps({**content, "checksum": digest(content)})) == CELL
    del content["seed"]
    with pytest.raises(DamagedFileError):
        ClientResult.from_json(json.dumps({**content, "checksum": digest(content)}))


def test_a_result_cannot_contain_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(CELL, val_after=float("nan")).to_json()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_file_names_are_safe_and_unique(a: str, b: str) -> None:
    name = file_name(a)
    assert name.isascii()
    assert not set(name) & set("/\\")
    assert not name.startswith(".")
    try:
        check_client_names([a, b])
    except ValueError:
        return
    assert file_name(a).lower() != file_name(b).lower()


def test_names_that_would_share_a_file_are_refused() -> None:
    with pytest.raises(ValueError, match="'Site' and 'site'"):
        check_client_names(["Site", "site"])
    with pytest.raises(ValueError, match="Two clients have the name 'site'"):
        check_client_names(["site", "site"])
    with pytest.raises(ValueError, match="empty"):
        check_client_names([""])
    with pytest.raises(ValueError, match=r"methods\.\.\./x"):
        check_method_names(["../x"])
    for name in ("global", "Global", "advised"):
        with pytest.raises(ValueError, match=name):
            check_method_names([name])
    with pytest.raises(ValueError, match="'ft' and 'FT'"):
        check_method_names(["ft", "FT"])


def test_damaged_settings_are_left_out(tmp_path: Path) -> None:
    run, old, new = Run(tmp_path), {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}
    run.write_settings(0, "ft", old)
    run.write_settings(1, "global", new)
    assert list(run.settings()) == [(0, "ft", old), (1, "global", new)]
    run.method_file(0, "ft", "settings.json").write_text("[]")
    run.method_file(1, "global", "settings.json").write_text("{")
    assert list(run.settings()) == []


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
