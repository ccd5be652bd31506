"""What a logger gets of made-up runs: points once, over processes, and anew where results were replaced."""

from __future__ import annotations

import logging
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricate import make_run
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lpft.config.loggers import ConfiguredLogger
from lpft.reporting.live import LiveLogs
from lpft.reporting.loggers import LoggerWriter, log_picture
from lpft.reporting.logs import Log, Picture
from lpft.reporting.results import read_history
from lpft.runtime.launcher import TORCHRUN
from lpft.storage.run import Run
from tests.recording import calls, points


def writer(folder: Path) -> LoggerWriter:
    return LoggerWriter(
        ConfiguredLogger({"class_path": "tests.recording.Recorder", "init_args": {"folder": str(folder)}})
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", seeds=(0,), methods=("ft", "lpft"), clients=("a", "b"), rounds=6)


def rounds_logged(path: Path) -> list[int]:
    return [step for step, _ in calls(path) if step is not None]


def test_rounds_come_once_and_a_later_process_goes_on_in_the_same_run(run: Run, tmp_path: Path) -> None:
    history = read_history(run.global_file(0, "history.csv"))
    path = tmp_path / "run" / "seed_0" / "global.jsonl"
    for upto in (2, 4, 4, 6):
        logs = pickle.loads(pickle.dumps(LiveLogs(run, [writer(tmp_path)])))
        logs.round(0, history[: upto - 1])
        logs.round(0, history[:upto])
        logs.close()
    assert rounds_logged(path) == [1, 2, 3, 4, 5, 6]
    assert points(path)
    assert [path.name for path in path.parent.glob("*.jsonl")] == ["global.jsonl"]


def test_the_first_rank_writes_and_it_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are those that torchrun has made; what Lightning once read from the environment does not count."""
    csv = ConfiguredLogger(
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    )
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    for rank in ("1", "0"):
        for name in TORCHRUN:
            monkeypatch.setenv(name, rank)
        logs = LiveLogs(run, [writer(tmp_path), LoggerWriter(csv)])
        logs.round(0, read_history(run.global_file(0, "history.csv")))
        logs.close()
        assert (tmp_path / "run" / "seed_0" / "global.jsonl").exists() == (rank == "0")
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1
    assert rank_zero_only.rank == 3


def test_a_method_is_logged_when_its_last_client_is_done(run: Run, tmp_path: Path) -> None:
    (cell,) = run.method_file(0, "ft", "cells").glob("b.json")
    content = cell.read_bytes()
    cell.unlink()
    logs = LiveLogs(run, [writer(tmp_path)])
    logs.stack(0, "ft")
    logs.close()
    assert not list(tmp_path.glob("run/seed_0/*.jsonl"))
    cell.write_bytes(content)
    logs.stack(0, "ft")
    logs.close()
    tags = {tag for tag, *_ in points(tmp_path / "run" / "seed_0" / "ft.jsonl")}
    assert {"local/accuracy", "final/local"} <= tags


def log_of(folder: Path, *values: float, settings: dict[str, Any] | None = None) -> Log:
    return Log(folder, [(step, {"a": value}) for step, value in enumerate(values)], True, settings or {})


def write(folder: Path, *logs: Log) -> None:
    one = writer(folder)
    for log in logs:
        one.write(log)
    one.close()


def test_replaced_results_and_deleted_runs_begin_a_new_run(tmp_path: Path) -> None:
    part = tmp_path / "x" / "seed_0" / "ft"
    write(tmp_path, log_of(part, 1.0, 2.0))
    write(tmp_path, log_of(part, 1.0, 2.5))
    write(tmp_path, log_of(part, 1.0, 2.5, 3.0))
    write(tmp_path, replace(log_of(part, 1.0, 2.5), growing=True), log_of(part, 1.0, 2.5, 3.0))
    write(tmp_path, log_of(part, 1.0, 2.5, 3.0, settings={"lr": 1}))
    of_part = tmp_path / "x" / "seed_0"
    assert points(of_part / "ft.jsonl") == [("a", 0, 1.0), ("a", 1, 2.0)]
    assert points(of_part / "ft-1.jsonl") == [("a", 0, 1.0), ("a", 1, 2.5), ("a", 2, 3.0)]
    assert points(of_part / "ft-2.jsonl") == [("a", 0, 1.0), ("a", 1, 2.5), ("a", 2, 3.0)]
    write(tmp_path, log_of(part, 1.0))
    assert points(of_part / "ft-3.jsonl") == [("a", 0, 1.0)], "fewer than before, and no more to come"
    write(tmp_path, log_of(part, 1.0, 2.5, 3.0, settings={"lr": 1}))
    for path in of_part.glob("*.jsonl"):
        path.unlink()
    write(tmp_path, log_of(part, 1.0, 2.5, 3.0, settings={"lr": 1}))
    assert not list(of_part.glob("*.jsonl")), "everything is written, as far as is known here"
    write(tmp_path, log_of(part, 1.0, 2.5, 3.0, 4.0, settings={"lr": 1}))
    assert len(points(of_part / "ft.jsonl")) == 4


def test_values_that_are_no_numbers_are_left_out_and_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    part = tmp_path / "x" / "seed_0" / "ft"
    write(tmp_path, log_of(part, 1.0, float("inf"), 3.0))
    assert points(tmp_path / "x" / "seed_0" / "ft.jsonl") == [("a", 0, 1.0), ("a", 2, 3.0)]
    (part / "loggers.json").write_text('{"Rec')
    write(tmp_path, log_of(part, 1.0))
    assert points(tmp_path / "x" / "seed_0" / "ft-1.jsonl") == [("a", 0, 1.0)]


def test_a_full_disk_is_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = tmp_path / "x" / "seed_0" / "ft"
    part.parent.mkdir(parents=True)
    part.write_text("no folder")
    with caplog.at_level(logging.WARNING, "lpft"):
        write(tmp_path, log_of(part, 1.0), log_of(part, 1.0, 2.0))
    assert len(caplog.records) == 1
    shutil.rmtree(part.parent)


def test_images_go_to_clients_that_want_to_know_the_run() -> None:
    class Client:
        def log_image(self, run_id: str, image: Any, artifact_file: str | None = None, step: int | None = None) -> None:
            self.got = (run_id, image.size, artifact_file, step)

    class OfClient:
        experiment = Client()

    picture = Picture(pixel(), 1, 1)
    log_picture(OfClient(), "accuracy matrix", picture, step=3, run_id="7")
    assert OfClient.experiment.got == ("7", (1, 1), "accuracy matrix.png", None)
    log_picture(object(), "accuracy matrix", picture, step=3, run_id=None)


def pixel() -> bytes:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (1, 1)).save(data, format="png")
    return data.getvalue()
