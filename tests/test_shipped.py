"""Every shipped experiment has its controls, and runs: a few rounds, one seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lpft.data.sources.corruptions import CORRUPTIONS
from lpft.data.sources.domains import FEDBN_CLASSES
from lpft.paper.table2 import dataset_of
from lpft.storage.run import Run
from tests.commands import lpft, table
from tests.domains import domainnet
from tests.layouts import save_archive, save_batches, save_mats, save_medmnist, save_pickles
from tests.shapes import save_shapes

CONFIGS = Path(__file__).parents[1] / "configs"
ON_REAL_FILES = (
    "digit5_small", "pacs", "office_caltech10", "cifar10_small_corrupted", "mnist_writers", "pneumonia_mnist",
)  # fmt: skip
OWN_DATA = [CONFIGS / f"{name}.yaml" for name in ON_REAL_FILES]
TEMPLATE = CONFIGS / "own_sites.yaml"
ON_BUNDLED_DATA = [CONFIGS / f"{name}.yaml" for name in ("breast_cancer", "digits", "digits_all")]
EXPERIMENTS = [*ON_BUNDLED_DATA, *sorted((CONFIGS / "experiments").glob("*.yaml"))]
SMOKE = {"peft": "smoke_vit.yaml", "breast_cancer": "smoke_features.yaml"}
ALL = sorted({*CONFIGS.glob("*.yaml"), *EXPERIMENTS} - {CONFIGS / "tuned.yaml", CONFIGS / "ladder.yaml"})
TYPES = yaml.safe_load((CONFIGS / "data" / "cifar10_c_19x.yaml").read_text())["source"]["init_args"]["types"]
MADE: dict[str, Callable[[Path], object]] = {
    "digit5": save_mats,
    "digit5_fedbn": save_pickles,
    "digit5_kd3a": save_mats,
    "cifar10_c": lambda root: save_archive(root / "CIFAR-10-C", num_ids=120),
    "cifar10_c_19x": lambda root: save_batches(root, per_file=120),
    "cifar100_c": lambda root: save_archive(root / "CIFAR-100-C", num_classes=100, num_ids=120),
    "cifar10_dirichlet": lambda root: save_batches(root, per_file=100),
    "cifar10_pathological": lambda root: save_batches(root, per_file=100),
    "pneumonia_mnist": lambda root: save_medmnist(root / "open" / "pneumoniamnist.npz", 400, 60, 60, num_classes=2),
}
"""What makes a few images in the layout of an experiment."""

LAYOUTS = [CONFIGS / f"{name}.yaml" for name in MADE]
CONTROLS = ["none", "lp", "ft_short", "ft_early", "ft"]


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_every_shipped_experiment_has_controls_and_verdicts(config: Path) -> None:
    found = yaml.safe_load(config.read_text())
    assert [name for name in found["methods"] if name in CONTROLS] == CONTROLS
    assert list(found["methods"]).index("lpft") >= len(CONTROLS)
    assert found["name"] == config.stem == Path(found["out"]).name
    assert len(found["seeds"]) >= 3 or config == TEMPLATE
    in_the_paper = bool(dataset_of(config.stem)) and config not in OWN_DATA
    assert bool(found.get("verdicts")) == (config.parent.name == "experiments" or in_the_paper)


def test_modes_of_batch_norm_are_compared_on_a_network_that_has_it() -> None:
    found = yaml.safe_load((CONFIGS / "experiments" / "f4_ablations.yaml").read_text())
    assert found["methods"]["lpft_bn_eval"]["init_args"]["bn"] == "eval"
    network = yaml.safe_load((CONFIGS / "experiments" / found["network"]).read_text())
    assert network["init_args"]["norm"] is True


@pytest.mark.slow
@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_runs(config: Path, out: Path) -> None:
    smoke = SMOKE.get(config.stem, "smoke.yaml")
    lpft("run", "-c", config, "-c", CONFIGS / "sizes" / smoke, "--out", out, "--trainer.devices", 1)
    runs = Run(out).points() or [Run(out)]
    assert all((run.root / "results.csv").exists() for run in runs)
    assert (out / "report.html").exists()
    found = yaml.safe_load(config.read_text())
    verdicts = table(out / "verdicts.csv") if "verdicts" in found else []
    assert {row["verdict"] for row in verdicts} == {path.rpartition(".")[2] for path in found.get("verdicts", [])}
    assert not any("cannot be judged" in row["line"] or row["line"].startswith("failed") for row in verdicts)


def test_every_corruption_is_in_the_large_set() -> None:
    assert tuple(TYPES) == CORRUPTIONS


@pytest.mark.slow
@pytest.mark.parametrize("config", LAYOUTS, ids=lambda path: path.stem)
def test_every_layout_is_run_on(config: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    MADE[config.stem](tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # these are not the real files
    lpft("run", "-c", config, "-c", CONFIGS / "sizes" / "smoke.yaml", "--out", out, "--only", "none,lpft",
         "--data.source.root", tmp_path, "--trainer.devices", 1)  # fmt: skip
    assert (out / "report.html").exists()


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif("LPFT_TEST_DATA" not in os.environ, reason="LPFT_TEST_DATA names no folder of image sets")
@pytest.mark.parametrize("config", OWN_DATA, ids=lambda path: path.stem)
def test_every_experiment_on_real_images_runs(config: Path, out: Path) -> None:
    root = ("--data.source.root", os.environ["LPFT_TEST_DATA"])
    lpft("run", "-c", config, "-c", CONFIGS / "sizes" / "smoke.yaml", "--out", out, *root,
         "--personalization.epochs", 2, "--methods.ft_short.epochs", 1, "--methods.lpft.lp_epochs", 1)  # fmt: skip
    assert (out / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["domainnet", "domainnet_fedbn"])
def test_every_experiment_on_domainnet_runs(name: str, tmp_path: Path, out: Path) -> None:
    made = domainnet(tmp_path / "DomainNet")
    words = ["--network.width", 8, "--data.image_size", 32]
    if name == "domainnet_fedbn":
        made.pickle_lists(FEDBN_CLASSES)
        words = ["--network.width", 64, "--data.image_size", 64, "--data.source.share_of_smallest", 0.5]
    short = (
        "--trainer.devices",
        1,
        "--only",
        "none,lp,ft_short,lpft",
        "--personalization.epochs",
        3,
        "--methods.ft_short.epochs",
        1,
        "--methods.lpft.lp_epochs",
        1,
    )
    smoke = ("-c", CONFIGS / "sizes" / "smoke.yaml", "--out", out, "--data.source.root", tmp_path)
    lpft("run", "-c", CONFIGS / f"{name}.yaml", *smoke, *short, *words)
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_the_template_for_own_sites_runs(tmp_path: Path, out: Path) -> None:
    for seed in range(3):
        save_shapes(tmp_path / "sites" / f"site {seed}", 6, seed=seed)
    words = ("--data.source.root", tmp_path / "sites", "--federation.init", "null", "--out", out)
    lpft("run", "-c", TEMPLATE, "-c", CONFIGS / "sizes" / "smoke.yaml", *words)
    assert len(list((out / "seed_0" / "lpft" / "models").iterdir())) == 3
