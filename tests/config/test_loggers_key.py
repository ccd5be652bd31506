"""The key `loggers`: what is refused before anything is trained, what names runs, what is told apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lpft.config.files import ConfigError
from lpft.config.loggers import ConfiguredLogger, logger_writers, read_loggers, split_loggers
from tests.commands import toy

RECORDER = "tests.recording.Recorder"


def configured(*words: str) -> ConfiguredLogger:
    ((config,)) = read_loggers(["runs/x", *words])[1]
    return ConfiguredLogger(config)


def recorder(tmp_path: Path, **settings: Any) -> ConfiguredLogger:
    words = [f"--loggers.{name}={value}" for name, value in {"folder": tmp_path, **settings}.items()]
    return configured("--loggers", RECORDER, *words)


def test_names_come_from_the_folders_unless_they_are_given(tmp_path: Path) -> None:
    logger = recorder(tmp_path).open("digits", "seed_0/lpft")
    assert (logger.name, logger.version) == ("digits", "digits/seed_0/lpft.jsonl")
    logger = recorder(tmp_path, name="mine", version="first").open("digits", "seed_0/lpft")
    assert (logger.name, logger.version) == ("mine", "mine/first/seed_0/lpft.jsonl")
    csv = configured("--loggers", "CSVLogger", "--loggers.save_dir", str(tmp_path)).open("digits", "seed_0/lpft")
    assert csv.log_dir == str(tmp_path / "digits" / "seed_0" / "lpft")


def test_it_is_another_logger_with_other_settings_but_not_with_another_secret(tmp_path: Path) -> None:
    key = recorder(tmp_path, api_key="one").key
    assert recorder(tmp_path, api_key="two").key == key
    assert recorder(tmp_path, name="other").key != key
    first = configured("--loggers=MLFlowLogger", "--loggers.tracking_uri=https://me:one@host/")
    other = configured("--loggers=MLFlowLogger", "--loggers.tracking_uri=https://me:two@host/")
    assert first.key == other.key != configured("--loggers=MLFlowLogger", "--loggers.tracking_uri=https://x/").key
    assert first.without_secrets("GET https://me:one@host/api") == "GET https://***@host/api"


def test_files_arguments_and_experiments_agree(tmp_path: Path) -> None:
    single = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    (tmp_path / "csv.yaml").write_text(yaml.safe_dump(single))
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"name": "x", "loggers": "csv.yaml"}))
    (tmp_path / "experiments.yaml").write_text(yaml.safe_dump({"name": "x", "loggers": ["csv.yaml", single]}))
    runs, expected = read_loggers(["a", "b", "--loggers", "CSVLogger", "--loggers.save_dir", "logs"])
    assert runs == ["a", "b"]
    assert read_loggers(["a", f"--loggers={tmp_path / 'csv.yaml'}"])[1] == expected
    assert read_loggers(["--loggers", str(tmp_path / "experiment.yaml"), "a"])[1] == expected
    assert read_loggers(["a", "--loggers", str(tmp_path / "experiments.yaml")])[1] == expected * 2
    assert split_loggers(str(tmp_path / "experiments.yaml")) == split_loggers([tmp_path / "csv.yaml", single])
    words = ["a", "--loggers+=CSVLogger", "--loggers.save_dir=logs", "--loggers+", str(tmp_path / "csv.yaml")]
    assert read_loggers(words)[1] == expected * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tests.recording.NeedsPackage", "--loggers.folder=x"], "pip install tracker"),
        (["tests.recording.Nowhere"], "tests.recording.Nowhere"),
        (["CSVLogger"], "save_dir"),
        (["CSVLogger", "--loggers.save_dir=x", "--loggers.folder=y"], "folder"),
        ([RECORDER, "--loggers.folder=x", "--loggers.id=1"], "remove `id`"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    words: list[str], message: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy("run", out, "--loggers", *words, code=2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (out / "seed_0").exists()


@pytest.mark.parametrize(
    "settings",
    [{"id": "1"}, {"nope": 1}, {"folder": ["abc123"]}, {"api_key": 123}],
    ids=lambda given: next(iter(given)),
)
def test_secrets_are_not_in_errors(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"class_path": RECORDER, "init_args": {"folder": str(tmp_path), "api_key": "abc123", **settings}}
    (tmp_path / "secret.yaml").write_text(yaml.safe_dump({"loggers": [config]}))
    toy("run", tmp_path / "run", "-c", tmp_path / "secret.yaml", code=2)
    said = capsys.readouterr().err
    assert "loggers" in said
    assert "abc123" not in said
    assert "123" not in said.partition("loggers")[2].replace(str(tmp_path), "")


@pytest.mark.parametrize(("name", "package"), [("MLFlowLogger", "mlflow"), ("WandbLogger", "wandb")])
def test_a_missing_package_is_named(name: str, package: str, tmp_path: Path) -> None:
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(ConfigError, match=f"pip install.*{package}"):
            logger_writers(read_loggers(["a", "--loggers", name])[1], folder=tmp_path / "run" / "seed_0" / "global")


def test_the_documented_logger_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "my_logger.py" in block)
    (tmp_path / "my_logger.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    words = ("--seeds", "[0]", "--only", "none", "--federation.rounds", 1)
    toy("run", tmp_path / "run", *words, "--loggers", "my_logger.JsonLines", "--loggers.folder", "lines")
    lines = [json.loads(line) for line in (tmp_path / "lines/run/seed_0/none.jsonl").read_text().splitlines()]
    assert lines[0]["settings"] == {"method": "none", "class": "NoFineTuning", "seed": 0}
    assert "final/local" in lines[1]
