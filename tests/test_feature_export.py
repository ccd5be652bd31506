"""Experiments on feature arrays, and their models taken out of a run: predictions equal the run's own test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lpft as api
from lpft.config.study import open_study
from lpft.prediction import ExportedModel
from lpft.storage.run import Run
from tests.commands import lpft, table

pytestmark = pytest.mark.usefixtures("undrawn")

CONFIG = Path(__file__).parent / "conf" / "features.yaml"
SITES, NAMES, CLASSES = ("north", "south", "west"), ["a", "b", "c", "d"], ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of each site, some values of which are missing, and a run on them; do not change it."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "sites").mkdir()
    for seed, site in enumerate(SITES):
        rng = np.random.default_rng(seed)
        labels = rng.integers(3, size=60)
        rows = 100 * (rng.normal(size=(60, 4)) + 0.7 * labels[:, None] + seed)
        rows[rng.random((60, 4)) < 0.05] = np.nan
        frame = pd.DataFrame(rows, columns=NAMES).assign(label=np.array(CLASSES)[labels])
        frame.to_csv(folder / "sites" / f"{site}.csv", index=False)
    lpft("run", "-c", CONFIG, "--data.source.root", folder, "--out", folder / "run")
    return folder


@pytest.fixture(scope="module")
def exported(root: Path) -> Path:
    """The exported LP-FT model of one client; do not change it."""
    lpft("export", root / "run", "--client", "south", "--to", root / "model")
    return root / "model"


@pytest.fixture(scope="module")
def tests_of(root: Path) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """The test rows of every client, and their classes."""
    words = ["-c", str(CONFIG), "--data.source.root", str(root), "--out", str(root / "run")]
    (experiment,) = open_study("plan", words).experiments
    data, found = experiment.data, {}
    for client in data.clients:
        rows = pd.DataFrame(data.images[client.test].numpy(), columns=NAMES)
        found[client.name] = rows, [CLASSES[label] for label in data.labels[client.test].tolist()]
    return found


def test_every_method_runs_stacked(root: Path) -> None:
    rows = table(root / "run" / "results.csv")
    assert [row["method"] for row in rows] == ["none", "ft", "adabn", "lora", "sparse", "lpft"]
    assert all(float(row["local"]) > 40 for row in rows)  # a third is chance
    assert not Run(root / "run").data_file("contact_sheet.png").exists()


@pytest.mark.parametrize("ending", [".csv", ".npz", ".npy"])
def test_predictions_equal_the_matrix(
    ending: str, root: Path, exported: Path, tests_of: dict[str, tuple[pd.DataFrame, list[str]]], tmp_path: Path
) -> None:
    """On the test rows of every client, exactly, from any kind of file."""
    matrix = api.load(root / "run").matrix("lpft", 0)
    for client, (rows, classes) in tests_of.items():
        path = tmp_path / f"{client}{ending}"
        if ending == ".csv":
            rows[NAMES[::-1]].assign(other="text").to_csv(path, index=False)
        elif ending == ".npz":
            np.savez(path, x=rows[NAMES[::-1]], feature_names=NAMES[::-1])
        else:
            np.save(path, rows.to_numpy())
        lpft("predict", exported, path, "--to", tmp_path / "p.csv", "--batch-size", 7)
        found = pd.read_csv(tmp_path / "p.csv")
        assert 100 * np.mean(found["class"] == classes) == pytest.approx(matrix.loc["south", client], abs=1e-9)
        assert found["row"].tolist() == list(range(len(rows)))
        assert (found[[f"p_{name}" for name in CLASSES]].max(axis=1) == found["probability"]).all()


def test_the_description_carries_the_standardization(exported: Path) -> None:
    found = json.loads((exported / "model.json").read_text())
    features = found["features"]
    assert (features["names"], features["fills"], found["classes"]) == (NAMES, True, CLASSES)
    assert found["spec"]["num_features"] == 4
    assert "images" not in found


def test_the_programs_take_rows(exported: Path, tests_of: dict[str, tuple[pd.DataFrame, list[str]]]) -> None:
    rows = tests_of["south"][0].to_numpy(np.float32)
    with torch.inference_mode():
        expected = ExportedModel.load(exported).deployed(torch.from_numpy(rows)).numpy()
    program = torch.export.load(exported / "model.pt2").module()
    assert program(torch.from_numpy(rows[:3])).detach().numpy() == pytest.approx(expected[:3], abs=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    (logits,) = onnxruntime.InferenceSession(exported / "model.onnx").run(None, {"features": rows})
    assert logits == pytest.approx(expected, abs=1e-4)


def test_rows_that_cannot_be_used_are_named(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame([[1.0, 2, 3, 4], [np.inf, 2, 3, 4], [np.nan, 2, 3, 4]], columns=NAMES)
    frame.to_csv(tmp_path / "x.csv", index=False)
    lpft("predict", exported, tmp_path, "--to", tmp_path / "p.out", code=1)
    assert "row 1: no finite number for a" in capsys.readouterr().err
    found = pd.read_csv(tmp_path / "p.out")
    assert found["class"].isna().tolist() == [False, True, False]
    lpft("predict", exported, tmp_path / "x.csv", code=1)
    assert "probability" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "lacks 2 of the 4 features, c, d"),
        (pd.DataFrame({name: ["x"] for name in NAMES}), "column 'a' contains 'x'"),
    ],
)
def test_other_tables_are_refused(
    frame: pd.DataFrame, named: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.to_csv(tmp_path / "x.csv", index=False)
    lpft("predict", exported, tmp_path / "x.csv", code=2)
    assert named in capsys.readouterr().err


def test_arrays_with_other_columns_are_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for values in (np.ones((3, 5)), np.full((3, 4), "x")):
        np.save(tmp_path / "x.npy", values)
        lpft("predict", exported, tmp_path / "x.npy", code=2)
        error = capsys.readouterr().err
        assert "one column of numbers for each of the 4 features, in this order: a, b, c, d" in error


def test_other_networks_and_augmentation_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "-c", CONFIG, "--data.source.root", root, "--out", root / "other")
    lpft(*words, "--network", "lpft.models.cnn.SmallCNN", code=2)
    assert "SmallCNN is a network for images, but the data are rows of 4 features" in capsys.readouterr().err
    lpft(*words, "--augment", "lpft.data.transforms.FlipCrop", code=2)
    assert "`augment=FlipCrop` is for images" in capsys.readouterr().err
    lpft("prepare", *words[1:], "--augment", "lpft.data.transforms.FlipCrop", code=2)
    assert "`augment=FlipCrop` is for images" in capsys.readouterr().err
    lpft(*words, "--network", "tests.toy.ToyNet", code=2)
    assert "ToyNet cannot run on rows of 4 features" in capsys.readouterr().err


def test_prepare_prints_the_dataset(
    root: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lpft("prepare", "-c", CONFIG, "--data.source.root", root, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "3 clients, 3 classes, rows of 4 features: 123 train, 12 val, 45 test" in said
    assert "no contact sheet" in said
    found = pd.read_csv(tmp_path / "data" / "features.csv")
    assert found["feature"].tolist() == NAMES
    assert (found["min"] < found["mean"]).all()
    features = json.loads((exported / "model.json").read_text())["features"]
    assert (features["mean"], features["std"]) == (found["mean"].tolist(), found["std"].tolist())
    assert found["missing"].sum() > 0
    assert not (tmp_path / "data" / "contact_sheet.png").exists()
