"""MLflow and Weights & Biases themselves, where they are installed: the same points, once, after runs and reports."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricate import make_run

from lpft.config.loggers import logger_writers, read_loggers
from lpft.reporting.live import LiveLogs
from lpft.reporting.logs import final_logs
from lpft.reporting.report import write_tables
from lpft.reporting.results import read_history
from lpft.storage.run import Run

Points = dict[str, Counter[tuple[str, int, float]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "digits", seeds=(0,), methods=("none", "lpft"), clients=("a", "b"), rounds=4)


def expected(run: Run) -> Points:
    found: Points = {}
    for log in final_logs(write_tables(run)):
        points = ((tag, step, value) for step, values in log.scalars for tag, value in values.items())
        found["/".join(log.folder.parts[-2:])] = Counter(points)
    return found


def write(run: Run, *words: str) -> None:
    """Write as two interrupted processes and two reports would."""
    configs = read_loggers(["run", *words])[1]
    history = read_history(run.global_file(0, "history.csv"))
    for upto in (2, 4):
        logs = LiveLogs(run, logger_writers(configs, folder=run.global_model(0).parent))
        logs.round(0, history[:upto])
        if upto == 4:
            logs.stack(0, "lpft")
        logs.close()
    for _ in range(2):
        writers = logger_writers(configs)
        for log in final_logs(write_tables(run)):
            for writer in writers:
                writer.write(log)
        for writer in writers:
            writer.close()
            assert not writer.failed


def test_mlflow(run: Run, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    write(
        run, "--loggers=MLFlowLogger", "--loggers.tracking_uri=sqlite:///mlflow.db", "--loggers.artifact_location=files"
    )
    client = tracking.MlflowClient("sqlite:///mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    found = {}
    for each in runs:
        of_run = [(key, client.get_metric_history(each.info.run_id, key)) for key in each.data.metrics]
        found[each.info.run_name] = Counter((key, m.step, m.value) for key, history in of_run for m in history)
    assert found == expected(run)
    (of_lpft,) = [each for each in runs if each.info.run_name == "seed_0/lpft"]
    assert of_lpft.data.params == {"method": "lpft", "class": "LPFT", "lp_epochs": "5", "lp_lr": "0.01", "seed": "0"}
    assert [file.path for file in client.list_artifacts(of_lpft.info.run_id)] == ["accuracy matrix.png"]


def test_weights_and_biases_offline(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(run, "--loggers=WandbLogger", "--loggers.offline=true")
    found: Points = {}
    pictures = []
    for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        name, rows = read_offline(file)
        for row in rows:
            step = row.pop("trainer/global_step")
            pictures += [name for tag in row if tag.startswith("accuracy matrix")]
            numbers = {tag: value for tag, value in row.items() if not tag.startswith(("_", "accuracy matrix"))}
            found.setdefault(name, Counter()).update((tag, step, value) for tag, value in numbers.items())
    assert found == expected(run)
    assert set(pictures) == {"seed_0/none", "seed_0/lpft"}


def read_offline(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of a run and its history from a file of records as LevelDB's logs have them."""
    from wandb.proto.wandb_internal_pb2 import Record

    name, rows = "", []
    for data in blocks(path.read_bytes()):
        record = Record.FromString(data)
        name = record.run.display_name or name
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return name, rows


def blocks(content: bytes, size: int = 32768) -> Iterator[bytes]:
    place, data = 7, b""
    while place + 7 <= len(content):
        if size - place % size < 7:
            place += size - place % size
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += 7 + length
        data = (data if kind in (3, 4) else b"") + content[place - length : place]
        if kind in (1, 4):
            yield data
