"""Loggers beside TensorBoard, from end to end: the same points, whoever writes them, once each, and no harm done."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

import lpft as api
from lpft.storage.run import Run
from tests.commands import TOY, lpft, outcome, toy
from tests.recording import Recorder, calls, points

pytestmark = pytest.mark.usefixtures("undrawn")

WORDS = ("--seeds", "[0]", "--only", "none,lpft", "--federation.rounds", 2)
PARTS = ("seed_0/global", "seed_0/none", "seed_0/lpft", "mean/none", "mean/lpft")
SECRET = "0123secret4567"


def write_loggers(folder: Path, *names: str, **more: Any) -> Path:
    """Write the file of an experiment with loggers: those of `tests.recording`, and CSVLogger."""
    loggers: list[Any] = [{"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "csv")}}]
    for name in names:
        settings = {"folder": str(folder / name.lower()), **more}
        loggers.append({"class_path": f"tests.recording.{name}", "init_args": settings})
    path = folder / "loggers.yaml"
    path.write_text(yaml.safe_dump({"loggers": loggers}))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without loggers."""
    return toy("run", tmp_path_factory.mktemp("plain") / "run", *WORDS)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run with loggers, which are beside its folder."""
    folder = tmp_path_factory.mktemp("logged")
    return toy("run", folder / "run", *WORDS, "-c", write_loggers(folder, "Recorder", api_key=SECRET))


def beside(run: Run, *parts: str) -> Path:
    return run.root.parent.joinpath(*parts)


def events(run: Run, part: str) -> EventAccumulator:
    return EventAccumulator(str(run.root / part)).Reload()


def scalars(run: Run, part: str) -> list[tuple[str, int, float]]:
    shown = events(run, part)
    return sorted((tag, e.step, e.value) for tag in shown.Tags()["scalars"] for e in shown.Scalars(tag))


def csv_points(path: Path) -> list[tuple[str, int, float]]:
    rows = list(csv.DictReader(path.open()))
    return sorted((tag, int(row["step"]), float(v)) for row in rows for tag, v in row.items() if v and tag != "step")


def assert_same(found: list[tuple[str, int, float]], expected: list[tuple[str, int, float]]) -> None:
    assert [point[:2] for point in found] == [point[:2] for point in expected]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in expected], rel=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_loggers_get_the_same_points_as_tensorboard(logged: Run, part: str) -> None:
    expected = scalars(logged, part)
    assert len(expected) > 5
    assert_same(points(beside(logged, "recorder", "run", f"{part}.jsonl")), expected)
    assert_same(csv_points(beside(logged, "csv", "run", part, "metrics.csv")), expected)


def test_hyperparameters_and_figures_are_tensorboards(logged: Run) -> None:
    path = beside(logged, "recorder", "run", "seed_0", "lpft.jsonl")
    shown = events(logged, "seed_0/lpft")
    content = shown.summary_metadata[hparams.SESSION_START_INFO_TAG].plugin_data.content
    start = hparams.parse_session_start_info_plugin_data(content).hparams
    ((_, settings),) = calls(path, "hyperparams")
    assert settings == {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    assert yaml.safe_load(beside(logged, "csv", "run", "seed_0", "lpft", "hparams.yaml").read_text()) == settings
    (image,) = shown.Images("accuracy matrix")
    assert calls(path, "image") == [(image.step, {"accuracy matrix": [[image.width, image.height]]})]


def test_loggers_are_no_part_of_results_or_settings_and_their_secrets_are_nowhere(logged: Run, plain: Run) -> None:
    assert outcome(logged) == outcome(plain)
    config, without = (yaml.safe_load(run.config.read_text()) for run in (logged, plain))
    assert {**config, "out": ""} == {**without, "out": ""}
    for path in logged.root.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def everything(run: Run) -> dict[str, bytes]:
    folders = (beside(run, "recorder"), beside(run, "csv"))
    return {str(path.relative_to(run.root.parent)): path.read_bytes() for f in folders for path in f.rglob("*.*")}


def test_run_and_report_log_nothing_twice(logged: Run) -> None:
    before = everything(logged)
    loggers = beside(logged, "loggers.yaml")
    toy("run", logged.root, *WORDS, "-c", loggers)
    lpft("report", logged.root, "--loggers", loggers)
    after = everything(logged)
    assert {path: after[path] for path in before if path.startswith("recorder")} == {
        path: content for path, content in before.items() if path.startswith("recorder")
    }
    assert after.keys() == before.keys()
    for part in PARTS:
        assert_same(csv_points(beside(logged, "csv", "run", part, "metrics.csv")), scalars(logged, part))


def test_stages_shards_and_processes_log_every_point_once(logged: Run, tmp_path: Path) -> None:
    loggers = write_loggers(tmp_path, "Recorder", "Nameless")
    run = toy("federate", tmp_path / "run", *WORDS, "-c", loggers, "--trainer.devices", 2)
    for shard in ("1/2", "0/2"):
        toy("personalize", run.root, *WORDS, "-c", loggers, "--shard", shard, "--trainer.devices", 2)
    live = {part for part in PARTS if (tmp_path / "recorder" / "run" / f"{part}.jsonl").exists()}
    assert live == {"seed_0/global", "seed_0/none", "seed_0/lpft"}, "the means come with the report"
    lpft("report", run.root, "--loggers", loggers)
    everywhere = []
    for part in PARTS:
        path = tmp_path / "recorder" / "run" / f"{part}.jsonl"
        found = [point for point in points(path) if point[0] != "final/seconds"]
        first = points(beside(logged, "recorder", "run", f"{part}.jsonl"))
        assert found == [point for point in first if point[0] != "final/seconds"]
        everywhere += [(f"{part}/{tag}", step) for tag, step, _ in points(path)]
    nameless = (tmp_path / "nameless" / "all").glob("parts*.jsonl")
    assert {(tag, step) for path in nameless for tag, step, _ in points(path)} == set(everywhere)
    pids = {json.loads(line)[3] for line in (tmp_path / "recorder/run/seed_0/global.jsonl").open()}
    assert os.getpid() not in pids
    assert len(pids) == 1, "the first rank writes, and it alone"


def test_points_of_a_sweep_are_named_as_their_folders(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"sweep": {"data.source.num_val": [6, 3]}}))
    loggers = write_loggers(tmp_path, "Recorder")
    words = ("--seeds", "[0]", "--only", "none", "--federation.rounds", 1, "-c", tmp_path / "sweep.yaml", "-c", loggers)
    run = toy("run", tmp_path / "run", *words)
    for part in (
        f"points/num_val={n}/{part}" for n in (6, 3) for part in ("seed_0/global", "seed_0/none", "mean/none")
    ):
        assert_same(points(tmp_path / "recorder" / "run" / f"{part}.jsonl"), scalars(run, part))


def test_a_failing_logger_is_left_out_with_one_warning(
    logged: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = write_loggers(tmp_path, "Broken", api_key=SECRET)
    with caplog.at_level(logging.WARNING, "lpft"):
        run = toy("run", tmp_path / "run", *WORDS, "-c", loggers)
    (warning,) = [record.getMessage() for record in caplog.records if "Broken" in record.getMessage()]
    assert "no answer to *** from https://***@server.org/" in warning
    assert outcome(run) == outcome(logged)
    assert len(calls(tmp_path / "broken" / "run" / "seed_0" / "global.jsonl")) == 1
    for part in PARTS:
        assert_same(csv_points(tmp_path / "csv" / "run" / part / "metrics.csv"), scalars(run, part))


def test_logger_objects_can_be_passed_from_python(logged: Run, tmp_path: Path) -> None:
    class InMemory(Recorder):
        def __init__(self) -> None:
            super().__init__("", "mine", "one")
            self.got: list[tuple[Any, ...]] = []

        def _append(self, kind: str, step: int | None, values: Any) -> None:
            self.got += [(tag, step) for tag in values] if kind == "metrics" else []

    mine, made = InMemory(), CSVLogger(str(tmp_path / "made"))
    settings = {"seeds": [0], "only": ["none", "lpft"], "federation": {"rounds": 2}, "out": str(tmp_path / "run")}
    file = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    results = api.run(TOY, **settings, loggers=[mine, made, file])
    expected = sorted((f"{part}/{tag}", step) for part in PARTS for tag, step, _ in scalars(results.run, part))
    assert sorted(mine.got) == expected
    assert sorted(point[:2] for point in csv_points(Path(made.log_dir) / "metrics.csv")) == expected
    assert_same(csv_points(tmp_path / "csv/run/seed_0/lpft/metrics.csv"), scalars(results.run, "seed_0/lpft"))
    api.run(TOY, **settings, loggers=mine)
    api.report(tmp_path / "run", loggers=[mine])
    assert sorted(mine.got) == expected
