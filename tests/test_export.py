"""Models taken out of a run: prediction needs nothing but the folder, and equals the run's own test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pandas import read_csv
from PIL import Image

import lpft as api
import lpft.export as lpft_export
from lpft.config.study import open_study
from lpft.prediction import ExportedModel, image_files
from lpft.storage.run import Run
from tests.commands import TOY, lpft, toy

pytestmark = pytest.mark.usefixtures("undrawn")

CLIENT = "c2"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; do not change it."""
    return toy("run", tmp_path_factory.mktemp("finished"), "--seeds", "[0]")


@pytest.fixture(scope="module")
def exported(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported LP-FT model of one client; do not change it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    lpft("export", finished.root, "--client", CLIENT, "--to", folder)
    return folder


@pytest.fixture(scope="module")
def images(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Path, int]]]:
    """The test images of every client as files, with their labels."""
    folder = tmp_path_factory.mktemp("images")
    (experiment,) = open_study("plan", ["-c", TOY, "--out", str(finished.root)]).experiments
    data, files = experiment.data, {}
    for client in data.clients:
        files[client.name] = []
        for position in client.test.tolist():
            path = folder / f"{client.name}_{position}.png"
            Image.fromarray(np.asarray(data.images[position, 0])).save(path)
            files[client.name].append((path, int(data.labels[position])))
    return files


def test_predictions_equal_the_matrix(finished: Run, exported: Path, images: dict[str, list[tuple[Path, int]]]) -> None:
    """On the test images of every client, exactly."""
    model, matrix = ExportedModel.load(exported), api.load(finished.root).matrix("lpft", 0)
    for client, files in images.items():
        rows = model.predict([path for path, _ in files], batch_size=5)
        hits = [int(found) == label for found, (_, label) in zip(rows["class"], files, strict=True)]
        assert 100 * np.mean(hits) == pytest.approx(matrix.loc[CLIENT, client], abs=1e-9)
        assert rows[["p_0", "p_1", "p_2"]].sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-6)
        assert (rows[["p_0", "p_1", "p_2"]].max(axis=1) == rows["probability"]).all()


def test_the_description_contains_its_origin(finished: Run, exported: Path) -> None:
    found = json.loads((exported / "model.json").read_text())
    assert (found["client"], found["method"], found["seed"], found["classes"]) == (CLIENT, "lpft", 0, ["0", "1", "2"])
    row = api.load(finished.root).matrix("lpft", 0).loc[CLIENT]
    assert found["figures"]["accuracy"] == pytest.approx(row.to_dict())
    assert found["figures"]["num_test"] == 12
    assert found["images"]["mean"] == [0.5]


def test_the_program_needs_no_lpft_and_takes_any_batch(
    exported: Path, images: dict[str, list[tuple[Path, int]]]
) -> None:
    program = torch.export.load(exported / "model.pt2").module()
    batch = torch.stack([torch.from_numpy(np.asarray(Image.open(path)).copy())[None] for path, _ in images[CLIENT]])
    logits = ExportedModel.load(exported).deployed(batch)
    for size in (1, 3, 12):
        assert torch.allclose(program(batch[:size]), logits[:size], atol=1e-5)


def test_onnx_predicts_the_same(exported: Path, images: dict[str, list[tuple[Path, int]]]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    batch = np.stack([np.asarray(Image.open(path))[None] for path, _ in images[CLIENT]])
    expected = ExportedModel.load(exported).deployed(torch.from_numpy(batch)).detach().numpy()
    for size in (1, 3, 12):
        (logits,) = session.run(None, {"images": batch[:size]})
        assert logits == pytest.approx(expected[:size], abs=1e-4)


def test_the_command_predicts_files_and_folders(
    exported: Path, images: dict[str, list[tuple[Path, int]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    first, second, third = (path for path, _ in images[CLIENT][:3])
    shutil.copy(first, tmp_path / "folder" / "deeper" / "b.PNG")
    shutil.copy(second, tmp_path / "folder" / "a.png")
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    table = tmp_path / "predictions.csv"
    lpft("predict", exported, tmp_path / "folder", third, "--to", table)
    rows = read_csv(table)
    assert list(rows["file"]) == [str(tmp_path / "folder" / "a.png"), str(tmp_path / "folder/deeper/b.PNG"), str(third)]
    expected = ExportedModel.load(exported).predict([second, first, third])
    assert rows["probability"].to_numpy() == pytest.approx(expected["probability"].to_numpy())
    capsys.readouterr()
    lpft("predict", exported, third)
    assert third.name[:6] in capsys.readouterr().out


def test_unreadable_files_are_named_and_the_others_predicted(
    exported: Path, images: dict[str, list[tuple[Path, int]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    lpft("predict", exported, bad, images[CLIENT][0][0], "--to", tmp_path / "p.csv", code=1)
    assert "bad.png" in capsys.readouterr().err
    rows = read_csv(tmp_path / "p.csv")
    assert rows["class"].isna().tolist() == [True, False]
    assert rows["problem"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("predict", "nowhere", "x.png"), "x.png"),
        (("predict", "{images}", "{images}"), "lpft export"),
        (("predict", "{model}", "{empty}"), "contains no images"),
        (("export", "{run}", "--client", "nobody", "--to", "{empty}"), "nobody"),
        (("export", "{run}", "--client", CLIENT, "--method", "none2", "--to", "{empty}"), "none2"),
        (("export", "{run}", "--client", CLIENT, "--to", "{image}"), "names a folder"),
        (("predict", "{model}", "{image}", "--to", "{empty}"), "names a CSV file"),
        (("predict", "{model}", "{image}", "--batch-size", "0"), "0 is not a positive integer"),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...],
    named: str,
    finished: Run,
    exported: Path,
    images: dict[str, list[tuple[Path, int]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = images[CLIENT][0][0]
    places = {"run": finished.root, "model": exported, "images": image.parent, "image": image, "empty": tmp_path}
    lpft(*(word.format(**places) for word in words), code=2)
    assert named in capsys.readouterr().err.replace("\n", "")
    assert not list(tmp_path.iterdir())


def test_a_damaged_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    for name, content in (("model.json", b'{"classes": []}'), ("model.json", b"{"), ("model.safetensors", b"cut")):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            ExportedModel.load(folder)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_a_missing_device_is_refused(exported: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
        ExportedModel.load(exported, device)


def test_a_program_that_cannot_be_written_is_no_unsupported_network(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = lpft_export.write_atomically

    def full(path: Path, content: str | bytes) -> None:
        if path.name == "model.pt2":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(lpft_export, "write_atomically", full)
    lpft("export", finished.root, "--client", CLIENT, "--to", tmp_path / "model", code=1)
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.json").exists(), "its presence means done"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a: 1"])
@pytest.mark.parametrize("name", ["seed_0/lpft/models/c2.safetensors", "seed_0/lpft/cells/c2.json", "config.yaml"])
def test_damaged_files_are_named(
    finished: Run, tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(shutil.copytree(finished.root, tmp_path / "run"))
    (run.root / name).write_bytes(content)
    lpft("export", run.root, "--client", CLIENT, "--to", tmp_path / "model", code=2)
    error = capsys.readouterr().err
    assert str(run.root / name) in error
    assert "HINT" in error
    assert not (tmp_path / "model").exists()
    if "cells" not in name:
        with pytest.raises(ValueError, match=name):
            api.load(run.root).model("lpft", CLIENT)


def test_a_damaged_description_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    for content in (b"", b"\xff\xfe\x00", b"[]"):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged.*HINT"):
            ExportedModel.load(folder)


def test_the_global_model_is_exported_for_an_existing_client(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no client `nobody`.*c0, c1"):
        api.load(finished.root).export("global", "nobody", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_global_model_and_every_method_can_be_exported(finished: Run, tmp_path: Path) -> None:
    for method in ("global", "ft", "none"):
        files = api.load(finished.root).export(method, CLIENT, tmp_path / method)
        assert all(path.exists() for path in files)
        assert ExportedModel.load(tmp_path / method).classes == ["0", "1", "2"]


def test_files_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(b"")
    assert image_files([tmp_path / "x.dat"]) == [tmp_path / "x.dat"]
    with pytest.raises(FileNotFoundError, match=r"missing\.png does not exist"):
        image_files([tmp_path / "missing.png"])
