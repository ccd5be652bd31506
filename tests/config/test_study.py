"""From arguments to the runs of a study."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lpft.config.files import ConfigError
from lpft.config.saved_settings import compare_settings
from lpft.config.study import arguments, open_study
from lpft.config.sweep import points
from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.models.base import BodyHeadNet, build_network
from lpft.reporting.experiment import word
from lpft.types import DataSpec
from tests.commands import TOY


def args(out: Path, *words: object) -> list[str]:
    return ["-c", TOY, "--out", str(out), *map(str, words)]


def test_one_object_is_built_for_each_run(out: Path) -> None:
    (experiment,) = open_study("plan", args(out)).experiments
    assert experiment.run.root == out
    assert [type(method) for method in experiment.all_methods.values()][1:] == [FT, LPFT]
    assert [len(client.train) for client in experiment.data.clients] == [20, 33, 40, 24, 17]
    sweep = "{federation.rounds: [1, 2], methods.lpft.lp_epochs: [0, 4]}"
    study = open_study("plan", args(out, "--sweep", sweep))
    assert [e.run.root.name for e in study.experiments] == ["rounds=1", "rounds=2"]
    assert [e.federation.rounds for e in study.experiments] == [1, 2]
    assert all(list(e.all_methods)[2:] == ["lpft+lp_epochs=0", "lpft+lp_epochs=4"] for e in study.experiments)
    assert not out.exists(), "planning writes nothing"


def test_a_network_is_tried_in_stacks_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by every section and every run of a sweep; but networks of other settings, or inputs, are tried."""
    tried: list[torch.dtype] = []

    def counted(net: BodyHeadNet, spec: DataSpec) -> None:
        tried.append(net.head.weight.dtype)

    monkeypatch.setattr("lpft.config.checks.stacking_problem", counted)
    open_study("plan", args(out, "--sweep", "{federation.rounds: [1, 2], personalization.epochs: [4, 5]}"))
    assert len(tried) == 1
    open_study("plan", args(out, "--sweep", "{network.norm: [true, false], federation.rounds: [1, 2]}"))
    assert len(tried) == 3
    open_study("plan", args(out, "--sweep", "{trainer.precision: [32-true, 64-true], federation.rounds: [1, 2]}"))
    assert tried[3:] == [torch.float32, torch.float64]


def test_only_is_always_a_list(out: Path) -> None:
    for only in ("lpft,ft", "[lpft, ft]", '["ft","lpft"]'):
        (experiment,) = open_study("plan", args(out, "--only", only)).experiments
        assert list(experiment.methods) == ["ft", "lpft"]


def test_only_selects_the_variants_of_a_swept_method(out: Path) -> None:
    sweep = ("--sweep", "{methods.lpft.lp_epochs: [0, 4]}")
    for only, rows in (
        ("lpft", ["lpft+lp_epochs=0", "lpft+lp_epochs=4"]),
        ("ft,lpft+lp_epochs=4", ["ft", "lpft+lp_epochs=4"]),
    ):
        (experiment,) = open_study("plan", args(out, *sweep, "--only", only)).experiments
        assert list(experiment.methods) == rows
    with pytest.raises(ConfigError, match=r"names no method 'lp'.*ft, lpft\+lp_epochs=0"):
        open_study("plan", args(out, *sweep, "--only", "lp"))


def test_seeds_of_tuning_need_a_global_model_only_if_a_selected_method_is_tuned(out: Path) -> None:
    tune = ("--tune", "{trials: 2, seeds: [7], grids: {ft: {lr: [0.1]}}}")
    (tuned,), (other,) = (
        open_study("plan", args(out, *tune, "--only", only)).experiments for only in ("ft,lpft", "lpft")
    )
    assert (tuned.global_seeds, other.global_seeds) == ([0, 1, 7], [0, 1])


def test_a_moved_run_is_continued_in_its_new_folder(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By its own config.yaml, which still names the old place; another `--out`, and copies of other names, count."""
    for sweep in ("null", "{federation.rounds: [1, 2]}"):
        open_study("federate", args(out, "--sweep", sweep))
        moved = out.rename(tmp_path / "moved")
        caplog.clear()
        with caplog.at_level("INFO", "lpft"):
            study = open_study("run", ["-c", str(moved / "config.yaml")])
        assert study.run.root == moved
        assert all(experiment.run.root.is_relative_to(moved) for experiment in study.experiments)
        assert str(out) in caplog.text
        assert not out.exists()
        assert yaml.safe_load((moved / "config.yaml").read_text())["out"] == str(moved)
        monkeypatch.chdir(moved)
        assert open_study("plan", ["-c", "config.yaml"]).run.root.resolve() == moved
        monkeypatch.chdir(tmp_path)
        other = open_study("plan", ["-c", str(moved / "config.yaml"), "--out", str(tmp_path / "other")])
        assert other.run.root == tmp_path / "other"
        copy = tmp_path / "copy.yaml"
        copy.write_text((moved / "config.yaml").read_text().replace(f"out: {moved}", f"out: {out}"))
        assert open_study("plan", ["-c", str(copy)]).run.root == out
        shutil.rmtree(moved)


def test_long_names_are_refused_before_training(out: Path) -> None:
    """Swept values are shortened, each to a name of its own; names that somebody has chosen are refused."""
    lists = [[value] * 90 for value in (1.25, 1.5)]
    sweep = yaml.safe_dump({"methods.ft.lr": [0.1], "data.mean": lists}, default_flow_style=True, width=10**6)
    with pytest.raises(ConfigError, match="mean"):  # it is no valid mean, but its folder has a name
        open_study("plan", args(out, "--sweep", sweep))
    names = list(points({"data.mean": lists}))
    assert len(set(names)) == 2
    assert all(len(name) <= 200 for name in names)
    with pytest.raises(ConfigError, match="too long for a folder"):
        open_study("plan", args(out, f"--methods.{'m' * 201}", "lpft.methods.ft.FT"))


def test_provenance_records_software_and_data(out: Path) -> None:
    open_study("federate", args(out))
    record = yaml.safe_load((out / "config.yaml").read_text())["provenance"]
    assert record["clients"] == [f"c{i}" for i in range(5)]
    assert record["spec"] == {"in_channels": 1, "image_size": 8, "num_classes": 3}
    assert record["torch"]
    assert record["point"] is None


def test_fingerprints_depend_on_the_same_settings_as_results(out: Path) -> None:
    def prints(*words: object) -> tuple[str, dict[str, str]]:
        (experiment,) = open_study("plan", args(out, *words)).experiments
        return experiment.global_task().fingerprint, experiment.personal_task().fingerprints

    base = prints()
    for words in (("--name", "x"), ("--seeds", "[5]"), ("--only", "none,ft,lpft"), ("--trainer.devices", 2)):
        assert prints(*words) == base
    rounds, epochs, rate = (
        prints(*w) for w in (("--federation.rounds", 9), ("--personalization.epochs", 9), ("--methods.ft.lr", 0.5))
    )
    assert rounds[0] != base[0]
    assert epochs[0] == rate[0] == base[0]
    assert all(epochs[1][name] != base[1][name] for name in base[1])
    assert {name for name in base[1] if rate[1][name] != base[1][name]} == {"ft"}


def test_keywords_become_arguments() -> None:
    words = arguments("x.yaml", {"network": {"class_path": "N", "init_args": {"a": 1}}, "overwrite": True, "out": "y"})
    assert words == [
        "--config=x.yaml",
        '--network={"class_path": "N", "init_args": {"a": 1}}',
        "--overwrite=true",
        "--out=y",
    ]


@pytest.mark.parametrize("key", ["federation.optimizer", "personalization.optimizer", "federation.server_optimizer"])
def test_optimizers_may_be_swept_with_their_settings(key: str, out: Path) -> None:
    adam = "{class_path: torch.optim.Adam, init_args: {lr: %s}}"
    study = open_study("plan", args(out, "--sweep", f"{{{key}: [{adam % 0.5}, {adam % 0.25}]}}"))
    section, _, name = key.partition(".")
    for experiment, rate in zip(study.experiments, (0.5, 0.25), strict=True):
        made = getattr(getattr(experiment, section), name)([torch.nn.Parameter(torch.zeros(1))])
        assert (type(made), made.defaults["lr"]) == (torch.optim.Adam, rate)
        (value,) = experiment.provenance.point.values()
        assert word(value) == f"Adam(lr={rate:g})"


def test_a_network_may_be_only_a_class_path(out: Path) -> None:
    """In a sweep and in a dict, too."""
    named = yaml.safe_load(Path(TOY).read_text()) | {"network": "lpft.models.mlp.MLP", "out": str(out)}
    sweep = "{network: [lpft.models.mlp.MLP, {class_path: lpft.models.mlp.MLP, init_args: {widths: [3]}}]}"
    for study in (open_study("plan", named), open_study("plan", args(out, "--sweep", sweep))):
        experiment = study.experiments[0]
        assert type(experiment.net).__name__ == "MLP"
        assert experiment.global_settings["network"]["class_path"] == "lpft.models.mlp.MLP"
    assert [e.net.head.in_features for e in study.experiments] == [64, 3]


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [2**63]])
@pytest.mark.parametrize("key", ["seeds", "tune.seeds"])
def test_seeds_differ_and_are_in_range(seeds: list[int], key: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=f"`{key}="):
        open_study("plan", args(out, f"--{key}", seeds))


@pytest.mark.parametrize("shard", ["3/2", "1", "a/b", "2/2"])
def test_invalid_shards_are_refused(shard: str, out: Path) -> None:
    with pytest.raises(ConfigError, match="1/4"):
        open_study("personalize", args(out, "--shard", shard))


def test_other_settings_are_refused_with_their_names(tmp_path: Path) -> None:
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}
    compare_settings(tmp_path, old, old)
    with pytest.raises(ConfigError, match=r"different are: `a\.c` \(2 there, 3 here\)\. .*--out.*--overwrite"):
        compare_settings(tmp_path, old, new)
    with pytest.raises(ConfigError, match=r'`a\.b` \(1 there, none here\), `a\.c` \("x{29}\.\.\. there, null here\)'):
        compare_settings(tmp_path, {"a": {"b": 1, "c": "x" * 50}}, {"a": {"c": None}})


def test_torchvisions_order_of_classes_is_reported_for_a_model_from_a_file(
    out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbered folders are in the order of numbers, but in torchvision's ImageFolder in that of texts."""
    for number in range(11):
        folder = tmp_path / "sites" / "a" / str(number)
        folder.mkdir(parents=True)
        for copy in range(4):
            Image.new("RGB", (8, 8), (number, copy, 7)).save(folder / f"{copy}.png")
    sites = f"{{class_path: lpft.data.sources.Sites, init_args: {{root: {tmp_path / 'sites'}}}}}"
    words = (
        "--data.source",
        sites,
        "--data.clients",
        "null",
        "--data.cache_dir",
        tmp_path / "cache",
        "--data.image_size",
        8,
    )
    with caplog.at_level(logging.WARNING, "lpft"):
        (experiment,) = open_study("plan", args(out, *words)).experiments
        assert "ImageFolder" not in caplog.text
        net = build_network(experiment.network, experiment.data.spec, torch.float32, 0)
        torch.save(net.state_dict(), tmp_path / "global.pt")
        open_study("plan", args(out, *words, "--federation.init", tmp_path / "global.pt"))
        orders = [json.loads(order) for order in re.findall(r"\[\"0\".*?\]", caplog.text)]
        assert [[*map(int, order)] for order in orders] == [[*range(11)], [0, 1, 10, *range(2, 10)]]
        caplog.clear()
        chosen = ("--data.source.classes", json.dumps(orders[1]), "--federation.init", tmp_path / "global.pt")
        (experiment,) = open_study("plan", args(out, *words, *chosen)).experiments
    assert "ImageFolder" not in caplog.text
    assert experiment.data.source.class_names[2] == "10"


def test_a_pair_that_cannot_be_compared_is_reported(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    """But not a swept method, whose rows have other names, nor one that tuning is still to make."""
    sweep = ("--sweep", "{methods.ft.lr: [0.1, 0.01]}", "--tune.grids", "{lpft: {lr: [0.1]}}", "--tune.trials", "2")
    with caplog.at_level(logging.INFO, "lpft"):
        open_study("plan", args(out, *sweep, "--compare", "[[lpft, ft], [lpft_tuned, ft]]"))
        assert "compare" not in caplog.text
        open_study("plan", args(out, *sweep, "--compare", "[[lpft, nix]]"))
    assert "`nix`" in caplog.text
