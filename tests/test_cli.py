"""Usage: help, selections, and errors that end with exit code 2 and say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lpft as package
from tests.commands import TOY, lpft

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    {*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "experiments").glob("*.yaml")}
    - {ROOT / "configs" / "tuned.yaml", ROOT / "configs" / "ladder.yaml"}
)

ERRORS = {
    "unknown option": (["run", "-c", TOY, "--federation.roundz", 3], ["--federation.roundz 3", "`federation.rounds`"]),
    "Trainer's option": (["run", "-c", TOY, "--trainer.gradient_clip_val", 1], ["gradient_clip_val", "clip_norm"]),
    "missing file": (["run", "-c", "nofile.yaml"], ["nofile.yaml", "does not exist"]),
    "too many epochs": (
        ["run", "-c", TOY, "--methods.lpft.init_args.lp_epochs", 20],
        ["Method `lpft`", "`lp_epochs=20`", "`personalization.epochs=4`", "HINT: set"],
    ),
    "method for another network": (
        ["run", "-c", TOY, "--methods.peft", "lpft.methods.peft.PEFT", "--methods.peft.targets", '["*.q"]'],
        ["Method `peft`", "ToyNet has no linear layers", "['*.q']", "body.6", "HINT"],
    ),
    "unknown method": (["run", "-c", TOY, "--only", "lpft,xyz"], ["--only lpft,xyz", "'xyz'", "none, ft, lpft"]),
    "wrong class": (
        ["run", "-c", TOY, "--network", "lpft.models.cnn.Nope"],
        ["lpft.models.cnn", "Nope", "has SmallCNN"],
    ),
    "misspelt class": (["run", "-c", TOY, "--network", "lpft.models.cnn.SmalCNN"], ["did you mean", "cnn.SmallCNN"]),
    "misspelt module": (["run", "-c", TOY, "--network", "lpft.model.cnn.SmallCNN"], ["did you mean", "`lpft.models"]),
    "wrong module": (["run", "-c", TOY, "--network", "nix.Net"], ["HINT: `nix` is neither", "module.Class"]),
    "no such logger": (["run", "-c", TOY, "--loggers", "nix.Logger"], ["HINT: `nix` is neither"]),
    "file in place of settings": (
        ["run", "-c", TOY, "--data.source", "{class_path: lpft.data.sources.Arrays, init_args: {domains: {a: a.npz}}}"],
        ["a.npz", "{path: a.npz}"],
    ),
    "no method": (["run", "-c", TOY, "--methods.x", "torch.optim.SGD"], ["torch.optim.SGD", "Method"]),
    "bad name": (["run", "-c", TOY, "--methods", '{"a/b": {"class_path": "lpft.methods.ft.FT"}}'], ["a/b", "HINT"]),
    "bad shard": (["personalize", "-c", TOY, "--shard", "3/2"], ["--shard 3/2", "1/4"]),
    "bad seeds": (["run", "-c", TOY, "--seeds", "[1, 1]"], ["seeds=[1, 1]", "HINT"]),
    "out of range": (["run", "-c", TOY, "--federation.participation", 0], ["participation", ">0"]),
    "no folder of sites": (
        ["prepare", "-c", ROOT / "configs" / "own_sites.yaml", "--data.source.root", "nowhere"],
        ["nowhere. Expected", "Expected ROOT/SITE/CLASS/IMAGE", "HINT: set"],
    ),
    "no global model": (["personalize", "-c", TOY], ["global model", "does not exist", "lpft federate"]),
    "new head of nothing": (["run", "-c", TOY, "--federation.init_head", "new"], ["federation.init_head", "HINT"]),
    "no such model": (["run", "-c", TOY, "--federation.init", "no.pt"], ["no.pt", "HINT"]),
    "mixing optimizer": (
        ["run", "-c", TOY, "--federation.optimizer", "torch.optim.Adafactor"],
        ["`federation.optimizer`", "Adafactor", "clients_per_stack: 1"],
    ),
    "rate 0": (["run", "-c", TOY, "--personalization.optimizer.lr", 0], ["`personalization.optimizer`", "rate 0"]),
    "out is a file": (["run", "-c", TOY, "--out", TOY], [f"`out: {TOY}`", "ot a directory", "HINT", "--out"]),
    "no GPU": (["run", "-c", TOY, "--trainer.accelerator", "cuda"], ["trainer.accelerator=cuda", "cpu"]),
    "data too small": (
        ["run", "-c", TOY, "--data.source", "lpft.data.sources.Digits", "--data.source.num_clients", 500],
        ["`num_clients=500`", "num_clients=179"],
    ),
    "nothing to report": (["report", "nowhere"], ["nowhere", "not the folder of a run"]),
    "no status": (["status", "nowhere"], ["nowhere"]),
    "unknown command": (["frobnicate"], ["'frobnicate'", "run, federate, tune, personalize"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_exits_with_code_2_and_a_hint(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, expected = ERRORS[case]
    lpft(*words, code=2)
    error = capsys.readouterr().err
    for text in expected:
        assert text in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs/*/seed_*/*/cells")), "nothing may have been computed"


def test_a_misspelt_key_in_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(Path(TOY).read_text().replace("rounds:", "round:"))
    lpft("run", "-c", config, code=2)
    assert "'round'" in (error := capsys.readouterr().err)
    assert "did you mean `federation.rounds`?" in error


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    lpft("--help")
    lpft()
    lpft("--version")
    out = capsys.readouterr().out
    assert out.count("lpft personalize -c FILE") == 2
    assert f"lpft {package.__version__}" in out


@pytest.mark.parametrize("command", ["run", "federate", "tune", "personalize", "prepare", "report", "status", "init"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lpft(command, "--help")
    assert f"usage: lpft {command}" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_experiment_parses(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("run", "-c", config, "--print_config")
    printed = capsys.readouterr().out
    for name in ("none", "lp", "ft_short"):
        assert f"\n  {name}:" in printed, "a control is missing"


def test_prepare_shows_what_is_in_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("prepare", "-c", TOY, "--out", tmp_path)
    assert "c4" in capsys.readouterr().out
    assert (tmp_path / "data" / "contact_sheet.png").exists()


def test_prepare_needs_only_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("prepare", "--data.source", "tests.toy.ToySource", "--data.source.counts", "[9, 5]", "--out", tmp_path)
    assert "2 clients, 3 classes, images 1x8x8: 14 train, 12 val, 24 test" in capsys.readouterr().out
    lpft("prepare", "--data.source", "tests.toy.ToySource", "--data.source.counts", "nine", code=2)
    assert "Traceback" not in capsys.readouterr().err


def test_prepare_prepares_every_dataset_of_a_sweep_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = "{data.source.counts: [[9, 5], [7, 7, 7]], federation.local_epochs: [1, 2]}"
    lpft("prepare", "-c", TOY, "--sweep", sweep, "--out", tmp_path)
    shown = capsys.readouterr().out
    assert [number in shown for number in ("2 clients", "3 clients")] == [True, True]
    assert len(list(tmp_path.glob("points/*/data/clients.csv"))) == 2


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (["--help"], {"torch", "lightning", "numpy", "matplotlib"}),
        (["init"], {"torch", "lightning", "numpy", "matplotlib"}),
        (["status", "nowhere"], {"torch", "lightning", "matplotlib"}),
        (["report", "nowhere"], {"lightning"}),
    ],
)
def test_light_commands_import_nothing_heavy(words: list[str], forbidden: set[str]) -> None:
    code = f"import sys, lpft.cli\ntry: lpft.cli.main({words})\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not forbidden & set(done.stdout.split())


@pytest.mark.parametrize(("addition", "setting"), [("tuned", "lambda_d:"), ("ladder", "pseudo_count:")])
def test_methods_can_be_added_to_an_experiment(addition: str, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("run", "-c", ROOT / "configs" / "digits.yaml", "-c", ROOT / f"configs/{addition}.yaml", "--print_config")
    assert setting in capsys.readouterr().out


@pytest.mark.parametrize("size", sorted((ROOT / "configs" / "sizes").glob("*.yaml")), ids=lambda path: path.stem)
def test_sizes_can_be_added_to_an_experiment(size: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = "e3_heterogeneity" if size.stem == "full_teacher_student" else "e2_lp_duration"
    lpft("run", "-c", ROOT / "configs" / "experiments" / f"{base}.yaml", "-c", size, "--print_config")
    found = yaml.safe_load(capsys.readouterr().out)
    changes = yaml.safe_load(size.read_text())
    assert found["sweep"].keys() == changes.get("sweep", {"methods.lpft.lp_epochs": []}).keys()
    if changes.get("federation") == "../federation/fedbn_digits.yaml":
        assert found["federation"]["optimizer"]["init_args"]["momentum"] == 0  # not the first file's
