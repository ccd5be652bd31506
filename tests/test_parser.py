"""What is said of a wrong command line or YAML: the value, what is wrong with it, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lpft.parser import explain
from tests.commands import TOY, lpft

UNKNOWN = {
    "abbreviated": ("--federation.round 3", ["--federation.round 3", "perhaps `federation.rounds`"]),
    "no section": ("--foo 1", ["--foo 1", "HINT: there are data, trainer, name", "personalization"]),
    "forgotten -c": ("configs/digits.yaml", ["configs/digits.yaml", "HINT: give a file as `-c FILE`"]),
    "shard": ("--shard 0/2", ["--shard 0/2", "HINT: `--shard` belongs to `lpft tune` and `lpft personalize`"]),
    "data": (
        "--data.source.coutns 3",
        ["`data.source`", "tests.toy.ToySource has no setting `coutns`", "perhaps `counts`"],
    ),
    "network": ("--network.dropuot 1", ["`network`", "tests.toy.ToyNet has no setting `dropuot`", "perhaps `dropout`"]),
    "method": ("--methods.lpft.lp_epoch 3", ["lpft.methods.lpft.LPFT has no setting `lp_epoch`", "`lp_epochs`"]),
    "common": ("--methods.lpft.floood 3", ["lpft.methods.lpft.LPFT has no setting `floood`", "perhaps `flood`"]),
    "nothing alike": ("--methods.ft.xyz 3", ["lpft.methods.ft.FT has no setting `xyz`", "HINT: it has epochs, lr, bn"]),
    "optimizer": (
        "--federation.optimizer.momentun 1",
        ["`federation.optimizer`", "torch.optim.SGD has no setting `momentun`", "perhaps `momentum`"],
    ),
    "nested": (
        "--data.clients lpft.data.partition.Dirichlet --data.clients.alhpa 3",
        ["`data.clients`", "lpft.data.partition.Dirichlet has no setting `alhpa`", "perhaps `alpha`"],
    ),
}
WRONG = {
    "type": ("--federation.rounds abc", ["`federation.rounds`", "PositiveInt", "'abc'"]),
    "type below a class": ("--network.norm abc", ["`network`", "`norm`", "bool", "abc"]),
    "alternatives": ("--trainer.devices -1", ["`trainer.devices`", "PositiveInt", "v>0", "auto", "-1"]),
    "out of range": ("--methods.lpft.lp_epochs -1", ["`lp_epochs`", "NonNegativeInt", "v>=0", "-1"]),
    "zero devices": ("--trainer.devices 0", ["`trainer.devices`", "v>0", "auto", "Got value: 0"]),
    "element": ("--seeds [a]", ["`seeds`", "Expected an int. Got value: a"]),
    "constructor's words": (
        "--data.source lpft.data.sources.Digits --data.source.num_clients 500",
        ["lpft run: `num_clients=500`", "num_clients=179` or less.\nFor all"],
    ),
    "nothing selected": ("--only ,", ["`--only ,` names no method.", "none, ft, lpft"]),
    "choice": (
        "--methods.lpft.head_init no",
        ["`methods`", "lpft.methods.lpft.LPFT, `head_init`", "'global', 'random', 'zero', 'lstsq'", "no"],
    ),
    "no list": ("--seeds 0,1", ["`seeds`", "0,1", "HINT: write a list, such as --seeds '[0, 1]'"]),
    "no module": ("--network a.b.C", ["`network`", "'a'", "HINT", "lpft.models.cnn.SmallCNN"]),
    "no class": (
        "--data.source lpft.data.sources.Digit",
        ["`data.source`", "Digit", "HINT", "lpft.data.sources.Digits"],
    ),
    "no path": ("--methods.x FT2", ["`methods`", "FT2", "HINT", "lpft.methods.lpft.LPFT"]),
    "other class": ("--network torch.nn.Linear", ["`network`", "torch.nn.Linear", "BodyHeadNet", "HINT"]),
    "no file": ("--network nofile.yaml", ["`network`", "There is no file nofile.yaml"]),
    "null": ("--methods.ft null", ["`methods`", "None", "HINT", "class_path"]),
    "new method": ("--methods.other.lr 1", ["`methods`", "HINT", "class_path"]),
}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    lpft(*words, code=2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for noise in (
        "Union",
        "typing.",
        "<class",
        "NestedArg",
        "Namespace",
        "<unicode",
        "Callable",
        "either not accessible",
        "Subtypes",
    ):
        assert noise not in error
    assert error.startswith("lpft run: ")
    assert error.endswith("For all settings: lpft run --help\n")
    return error


@pytest.mark.parametrize("case", [*UNKNOWN, *WRONG])
def test_wrong_settings(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = {**UNKNOWN, **WRONG}[case]
    error = said(["run", "-c", TOY, *words.split(" ")], capsys)
    for text in expected:
        assert text in error


@pytest.mark.parametrize("section", ["personalization", "trainer"])
def test_null_for_a_section(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = said(["run", "-c", TOY, f"--{section}", "null"], capsys)
    assert f"`{section}`: Unable to load config 'null'\n" in error


def test_a_name_that_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", "../x", ".."):
        error = said(["run", "-c", TOY, "--name", name], capsys)
        assert f"`name: {name}` cannot be a folder of `runs`" in error
        assert "HINT" in error
        assert "--out" in error


def test_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in Path(TOY).read_text().splitlines() if not line.startswith("data:")]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    error = said(["run", "-c", str(tmp_path / "x.yaml")], capsys)
    assert "`data.source`" in error or "data.source" in error
    assert "class_path: lpft.data.sources.Digits" in error


def test_without_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert "HINT: name an experiment, such as `-c configs/digits.yaml`" in said(["run"], capsys)


FILES = {
    "empty": (b"", "is empty"),
    "only comments": (b"# name: x\n", "is empty"),
    "broken": (b"a: [1, 2\n", "line 2"),
    "binary": (b"\x89PNG\xff\x00", "is no text in UTF-8"),
    "Latin-1": ("name: café\n".encode("latin-1"), "is no text in UTF-8"),
    "list": (b"- a\n- b\n", "holds a list"),
    "twice": (b"name: x\nmethods:\n  ft: 1\n  ft: 2\n", "`ft` stands twice, in line 3 and in line 4"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_experiment_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = FILES[case]
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    error = said(["run", "-c", str(path)], capsys)
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
    error = said(["run", "-c", str(config)], capsys)
    assert str(part) in error
    assert FILES[case][1] in error if case != "missing" else "`network` names a file that is not there" in error


def test_a_key_of_the_top_that_is_misspelt_in_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("seeds:", "seed:"))
    assert "`seed`" in (error := said(["run", "-c", str(config)], capsys))
    assert "perhaps `seeds` is meant" in error


def test_settings_beside_class_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("lpft.methods.ft.FT}", "lpft.methods.ft.FT, epochs: 3}"))
    assert "init_args: {" in said(["run", "-c", str(config)], capsys)


@pytest.mark.parametrize("section", ["data", "federation", "personalization", "methods", "trainer", "tune"])
def test_a_section_that_is_empty(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(Path(TOY).read_text()), section: None}))
    error = said(["run", "-c", str(config)], capsys)
    assert f"{config}: `{section}` is empty" in error
    assert "HINT: remove the line, or give it settings" in error


@pytest.mark.parametrize("source", ["ward.npz", "null"])
def test_a_source_is_a_set_of_settings(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ward.npz").write_bytes(b"PK\xff\x00")
    init_args = f"{{root: {tmp_path}, domains: {{ward: {source}}}}}"
    data = f"{{source: {{class_path: lpft.data.sources.Arrays, init_args: {init_args}}}}}"
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("{source: {class_path: tests.toy.ToySource}}", data))
    error = said(["run", "-c", str(config)], capsys)
    assert "`domains`" in error
    assert "codec" not in error
    assert "HINT: write the settings of every domain, such as {ward: {path: ward.npz}}" in error


@pytest.mark.parametrize("name", ["1", "no"])
@pytest.mark.parametrize("what", ["client", "method"])
def test_a_name_that_is_no_text(what: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(TOY).read_text()
    if what == "client":
        data = (
            f"{{source: {{class_path: lpft.data.sources.Arrays, init_args: {{domains: {{{name}: {{path: x.npz}}}}}}}}}}"
        )
        text = text.replace("{source: {class_path: tests.toy.ToySource}}", data)
    else:
        text = text.replace("  ft: {", f"  {name}: {{")
    config = tmp_path / "x.yaml"
    config.write_text(text)
    error = said(["run", "-c", str(config)], capsys)
    assert f"The name {({'1': 1, 'no': False})[name]} of a {what} is no text" in error
    assert "HINT: put it in quotes" in error


def test_what_is_not_understood_is_left_as_it_is() -> None:
    assert explain("Something else entirely").reason == "Something else entirely"
