"""Errors in a command line or YAML: the value, what is wrong with it, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lpft.config.files import ConfigError, shortened
from lpft.config.parser import ExperimentCLI
from lpft.config.study import open_study
from tests.commands import TOY, lpft

UNKNOWN = {
    "abbreviated": ("--federation.round 3", ["--federation.round 3", "`federation.rounds`"]),
    "forgotten -c": ("configs/digits.yaml", ["configs/digits.yaml", "HINT", "-c FILE"]),
    "shard": ("--shard 0/2", ["--shard"]),
    "data": ("--data.source.coutns 3", ["data", "tests.toy.ToySource", "coutns"]),
    "network": ("--network.dropuot 1", ["network", "tests.toy.ToyNet", "dropuot"]),
    "method": ("--methods.lpft.lp_epoch 3", ["lpft.methods.lpft.LPFT", "lp_epoch"]),
    "common": ("--methods.lpft.floood 3", ["lpft.methods.lpft.LPFT", "floood"]),
    "optimizer": ("--federation.optimizer.momentun 1", ["federation.optimizer", "torch.optim.SGD", "momentun"]),
    "Trainer's": ("--trainer.max_epochs 3", ["trainer.max_epochs", "HINT", "personalization.epochs"]),
}
WRONG = {
    "type": ("--federation.rounds abc", ["federation.rounds", "PositiveInt", "'abc'"]),
    "type below a class": ("--network.norm abc", ["network", "norm", "bool", "abc"]),
    "alternatives": ("--trainer.devices -1", ["trainer.devices", "auto", "-1"]),
    "alternatives, indented": ("--trainer.devices 0", ["; or ", "Got value: 0\n"]),
    "or null, below a class": ("--data.clients lpft.data.partition.Iid --data.clients.num_clients 0", ["value: 0\n"]),
    "out of range": ("--methods.lpft.lp_epochs -1", ["lp_epochs", "v>=0", "-1"]),
    "element": ("--seeds [a]", ["seeds", "int", "a"]),
    "nothing selected": ("--only ,", ["--only", "names no method", "none, ft, lpft"]),
    "choice": ("--methods.lpft.head_init no", ["head_init", "'global', 'random', 'zero', 'lstsq'", "no"]),
    "no list": ("--seeds 0,1", ["seeds", "0,1", "list", "HINT", "'[0, 1]'"]),
    "a number, no list": ("--seeds 0", ["seeds", "Got value: 0", "HINT", "'[0, 1]'"]),
    "no module": ("--network a.b.C", ["network", "'a'"]),
    "no path": ("--methods.x FT2", ["methods", "FT2"]),
    "other class": ("--network torch.nn.Linear", ["network", "torch.nn.Linear"]),
    "no file": ("--network nofile.yaml", ["network", "nofile.yaml"]),
    "null": ("--methods.ft null", ["methods", "None"]),
    "null for a section": ("--personalization null", ["personalization", "null"]),
    "pair": ("--compare [[lpft]]", ["compare", "['lpft']", "HINT"]),
}


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    lpft(*words, code=2)
    first, _, error = capsys.readouterr().err.partition("\n")
    assert first.startswith("lpft run: reading ")
    assert "Traceback" not in error
    assert error.startswith("lpft run: ")
    assert error.endswith("For all settings: lpft run --help\n")
    return error


@pytest.mark.parametrize("case", [*UNKNOWN, *WRONG])
def test_wrong_settings(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = {**UNKNOWN, **WRONG}[case]
    error = error_of(["run", "-c", TOY, *words.split(" ")], capsys)
    for text in expected:
        assert text in error


def test_without_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert "HINT: an experiment has these keys; give its file as `-c FILE`" in error_of(["run"], capsys)


def test_a_name_that_cannot_be_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", "../x", ".."):
        error = error_of(["run", "-c", TOY, "--name", name], capsys)
        assert f"`name: {name}`" in error
        assert "--out" in error


def test_reasons_without_null_remain() -> None:
    text = "Does not validate against any of the Union subtypes\nSubtypes: [A, None]\nErrors:\n"
    text += "  - `a=5` is too many.\n  - Expected a <class 'NoneType'>\nGiven value type: <class 'int'>\nGiven value: 5"
    assert shortened(text) == "`a=5` is too many."
    assert shortened("Something else entirely") == "Something else entirely"


def union(errors: list[str], value: str, indent: int) -> str:
    """Return what jsonargparse says of a value that is none of several types, below another message."""
    lines = ["Does not validate against any of the Union subtypes", "Subtypes: [A, B]", "Errors:"]
    lines += [f"  - {error}" for error in errors] + ["Given value type: <class 'str'>", f"Given value: {value}"]
    return "\n".join(lines).replace("\n", "\n" + " " * indent)


def test_reasons_are_joined_below_another_message_and_within_alternatives() -> None:
    restricted = union(["Not of type A: does not conform to restriction v>0", "Expected a B"], "0", 2)
    joined = "Not of type A: does not conform to restriction v>0; or Expected a B. Got value: 0"
    assert shortened(f'Parser key "x":\n  {restricted}') == f'Parser key "x":\n  {joined}'
    inner = f'Problem with C:\n{" " * 8}Parser key "y":\n{" " * 10}' + restricted.replace("\n", "\n" + " " * 8)
    outer = union([inner, "Expected a <class 'NoneType'>"], "NestedArg(key='y', val='0')", 2)
    assert shortened(outer) == f'Problem with C:\n{" " * 10}Parser key "y":\n{" " * 12}{joined}'


def test_errors_are_exceptions_outside_of_the_commands() -> None:
    with pytest.raises(ConfigError, match="roundz"):
        ExperimentCLI("run", ["-c", TOY, "--federation.roundz", "3"])


FILES = {
    "empty": (b"", "is empty"),
    "only comments": (b"# name: x\n", "is empty"),
    "broken": (b"a: [1, 2\n", "line 2"),
    "binary": (b"\x89PNG\xff\x00", "is not UTF-8 text"),
    "Latin-1": ("name: café\n".encode("latin-1"), "is not UTF-8 text"),
    "list": (b"- a\n- b\n", "contains a list"),
    "twice": (b"name: x\nmethods:\n  ft: 1\n  ft: 2\n", "`ft` appears twice, in lines 3 and 4"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_not_an_experiment_is_named(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = FILES[case]
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    error = error_of(["run", "-c", str(path)], capsys)
    assert str(path) in error
    assert expected in error


@pytest.mark.parametrize("case", [*FILES, "missing"])
def test_the_file_of_a_section_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, part = tmp_path / "x.yaml", tmp_path / "parts" / "net.yaml"
    others = [line for line in Path(TOY).read_text().splitlines() if not line.startswith("network:")]
    config.write_text("\n".join([*others, "network: parts/net.yaml"]))
    if case != "missing":
        part.parent.mkdir()
        part.write_bytes(FILES[case][0])
    error = error_of(["run", "-c", str(config)], capsys)
    assert str(part) in error
    assert FILES[case][1] in error if case != "missing" else "`network` names a file that does not exist" in error


def test_a_misspelt_top_level_key_in_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("seeds:", "seed:"))
    assert "'seed'" in (error := error_of(["run", "-c", str(config)], capsys))
    assert "did you mean `seeds`?" in error


def test_settings_next_to_class_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("lpft.methods.ft.FT}", "lpft.methods.ft.FT, epochs: 3}"))
    assert "init_args: {" in error_of(["run", "-c", str(config)], capsys)


@pytest.mark.parametrize("section", ["data", "federation", "personalization", "methods", "trainer", "tune"])
def test_a_section_that_is_empty(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(Path(TOY).read_text()), section: None}))
    error = error_of(["run", "-c", str(config)], capsys)
    assert f"{config}: `{section}` is empty" in error
    assert "HINT: remove the line, or give it settings" in error


NO_SETTINGS = {
    "evaluation": ("evaluation: 3", "`evaluation` is 3"),
    "tune": ("tune: [1]", r"`tune` is \[1\]"),
    "provenance": ("provenance: null", "`provenance` is None"),
    "name": ("name: null", '"name"(.|\n)*null'),
    "list": ("compare: null", '"compare"(.|\n)*null'),
    "number": ("federation: {rounds: null}", '"federation.rounds"(.|\n)*null'),
    "class": ("federation: {optimizer: null}", '"federation.optimizer"(.|\n)*null'),
    "below a class": (
        "methods: {ft: {class_path: lpft.methods.prox.ProximalFT, init_args: {mu: null}}}",
        'ProximalFT(.|\n)*"mu"(.|\n)*null',
    ),
    "swept": ("sweep: {federation.rounds: [1, null]}", '"federation.rounds"(.|\n)*null'),
}


@pytest.mark.parametrize("case", NO_SETTINGS)
def test_null_and_values_that_are_no_settings(case: str, tmp_path: Path) -> None:
    text, message = NO_SETTINGS[case]
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_study("plan", ["-c", str(TOY), "-c", str(tmp_path / "wrong.yaml")])


@pytest.mark.parametrize("option", ["--personalization.clip_norm abc", "--evaluation.clients x", "--augment 3"])
def test_the_hint_on_null_is_only_for_null(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("plan", "-c", TOY, *option.split(), code=2)
    assert "null" not in capsys.readouterr().err
    lpft("plan", "-c", TOY, "--federation.rounds", "null", code=2)
    assert "HINT: null" in capsys.readouterr().err


def test_null_where_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("augment: null\nfederation: {algorithm: null}\nout: null\nsweep: null")
    open_study("plan", ["-c", str(TOY), "-c", str(tmp_path / "more.yaml"), "--methods.lpft.lp_epochs", "null"])


@pytest.mark.parametrize("name", ["1", "no"])
def test_a_name_that_is_not_text(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("  ft: {", f"  {name}: {{"))
    error = error_of(["run", "-c", str(config)], capsys)
    assert f"{config}: the key `{name}` in line" in error
    assert "HINT: put it in quotes" in error


def test_nested_options_change_one_value_of_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "tuned.yaml").write_text(
        "tune: {grids: {ft: {lr: [0.1], epochs: [1]}}}\nsweep: {federation.rounds: [1]}"
    )
    words = [
        "-c",
        TOY,
        "-c",
        str(tmp_path / "tuned.yaml"),
        "--tune.grids.ft.lr",
        "[1e-4, null]",
        "--tune.grids.lpft.a.b",
    ]
    words += ["[2]", "--tune.grids.lpft.lp_epochs=[3]", "--sweep.federation.local_epochs", "[2, 3]"]
    settings = ExperimentCLI("run", [*words, "--sweep.network=[x.Y]"]).resolved()
    assert settings["tune"]["grids"] == {
        "ft": {"lr": [1e-4, None], "epochs": [1]},
        "lpft": {"a.b": [2], "lp_epochs": [3]},
    }
    assert settings["sweep"] == {"federation.rounds": [1], "federation.local_epochs": [2, 3], "network": ["x.Y"]}
    replaced = ExperimentCLI("run", [*words, "--sweep", "{methods.ft.lr: [1]}", "--tune.grids", "{}"]).resolved()
    assert replaced["sweep"] == {"methods.ft.lr": [1]}
    assert replaced["tune"]["grids"] == {}
