"""What the documentation shows works as it stands there."""

from __future__ import annotations

import itertools
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lpft.arguments import ARGUMENTS, parser_of
from lpft.cli import COMMANDS
from lpft.config.loggers import read_loggers
from lpft.models.cnn import SmallCNN
from lpft.models.weights import load_model
from lpft.storage.run import Run, read_cell
from lpft.types import DataSpec
from tests.commands import TOY, lpft, table, toy
from tests.shapes import save_shapes, shape

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that docs/own.md and docs/loggers.md show, from which lpft is started."""
    shown = (blocks(ROOT / "docs" / f"{page}.md", kind) for page in ("own", "loggers") for kind in ("python", "yaml"))
    for block in itertools.chain(*shown):
        if not (named := re.match(r"# (\w+\.(?:py|yaml))\n", block)):
            continue
        name = named[1]
        (tmp_path / name).write_text(block)
        sys.modules.pop(name.removesuffix(".py"), None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize("devices", [1, 2])
def test_a_method_and_a_network_in_files_of_their_own_run_stacked(written: Path, devices: int) -> None:
    words = ("--methods.anchored", "my_method.AnchoredFT", "--methods.anchored.strength", 0.5, "--seeds", "[0]")
    net = ("--network", "my_network.TwoLayers", "--network.width", 8, "--trainer.devices", devices)
    run = toy("run", written / "run", *words, *net)
    rows = {row["method"]: row for row in table(run.root / "results.csv")}
    assert 0 < float(rows["anchored"]["distortion_own"]) < float(rows["ft"]["distortion_own"])
    assert read_cell(run.cell(0, "anchored", "c0")).clients_per_stack == 2
    by_yaml = toy("run", written / "by_yaml", "-c", written / "my_method.yaml", "--seeds", "[0]", *net)
    again = {row["method"]: row for row in table(by_yaml.root / "results.csv")}
    assert again == {method: rows[method] for method in ("none", "ft", "anchored")}


def test_sites_of_images_and_a_global_model_become_models(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk of docs/own.md, with other images: four sites in three forms, a model that was trained without lpft."""
    shapes = {"cat": "circle", "dog": "square", "owl": "triangle"}
    save_shapes(written / "sites" / "north", 12, seed=0, classes=shapes)
    save_shapes(written / "sites" / "south" / "train", 10, seed=1, classes=shapes, mode="L")
    save_shapes(written / "sites" / "south" / "test", 6, seed=2, classes=shapes)
    save_shapes(written / "sites" / "west" / "scans", 12, seed=3, classes=shapes)
    files = sorted((written / "sites" / "west").rglob("*.*"))
    lines = [f"{file.relative_to(written / 'sites' / 'west').as_posix()},{file.parent.name}" for file in files]
    (written / "sites" / "west" / "labels.csv").write_text("\n".join(["file,label", *lines]))
    save_shapes(written / "sites" / "øst", 12, seed=4, classes=shapes)

    net = SmallCNN(DataSpec(3, 32, 3), width=8, features=32)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    rng = np.random.default_rng(5)
    for _ in range(40):
        labels = torch.from_numpy(rng.integers(3, size=32))
        images = [np.array(shape(list(shapes.values())[k], rng).resize((32, 32))) for k in labels.tolist()]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
        loss = torch.nn.functional.cross_entropy(net((pixels - 0.5) / 0.5), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), written / "global.pt")

    words = ("-c", "sites.yaml", "--trainer.devices", 1, "--trainer.accelerator", "cpu")
    lpft("prepare", *words)
    said = capsys.readouterr().out
    assert all(name in said for name in ("north", "south", "west", "øst"))
    short = ("--personalization.epochs", 3, "--methods.ft_short.epochs", 2, "--methods.lpft.lp_epochs", 1)
    lpft("run", *words, *short, "--fallback")
    run, names = Run(written / "runs" / "sites"), ["north", "south", "west", "øst"]
    trained, _ = load_model(run.global_model(0))
    assert all(torch.equal(trained[name], tensor) for name, tensor in net.state_dict().items())
    matrix = {row[""]: row for row in table(run.method_file(0, "none", "accuracy.csv"))}
    assert list(matrix) == names
    assert min(float(matrix["north"][name]) for name in names) > 50  # it was trained on such shapes; a third is chance
    assert [row["client"] for row in table(run.root / "recommendations.csv")] == names
    assert (run.root / "report.html").exists()
    for name in names:
        assert run.model(0, "advised", name).exists()
        own, _ = load_model(run.model(0, "lpft", name))
        assert any(not torch.equal(own[key], trained[key]) for key in trained)
    tested = next((written / "sites" / "north" / "cat").iterdir())
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["use_model.py", str(run.model(0, "lpft", "north")), str(tested)])
    runpy.run_path("use_model.py")
    assert capsys.readouterr().out.strip() in shapes


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_in_the_documentation_are_valid(path: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line that starts with lpft parses, those of init write files; what others would do is tested elsewhere."""
    for seed, site in enumerate(("north", "south")):
        save_shapes(written / "sites" / site, 4, seed)
    for line in "\n".join(blocks(path, "sh")).splitlines():
        if not line.startswith("lpft "):
            continue
        words = [word.strip("'") for word in line.partition(" > ")[0].split()[1:]]
        assert words[0] in COMMANDS, line
        if words[0] == "init":
            before = set(written.rglob("*"))
            lpft(*words)
            assert set(written.rglob("*")) > before or words == ["init"], line
        elif words[0] == "report" and "--loggers" in words:
            assert read_loggers(words[1:])
        elif words[0] in ARGUMENTS:
            parser_of(words[0]).parse_args(words[1:])
        else:
            words = [str(ROOT / w) if w.startswith("configs/") else TOY if w == "my.yaml" else w for w in words]
            lpft(*words, *([] if "--print_config" in words else ["--print_config"]))
        capsys.readouterr()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_yaml_in_the_documentation_is_yaml(path: Path) -> None:
    for block in blocks(path, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("path", [*DOCS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_the_readmes_class_paths_exist() -> None:
    import importlib

    for module, name in re.findall(r"`(lpft(?:\.\w+)+)\.([A-Z]\w+)`", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert hasattr(importlib.import_module(module), name)


def test_the_readme_installs_by_two_commands() -> None:
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "lpft run -c configs/digits.yaml" in commands[0]
    assert commands[1].endswith("-m pytest")


def test_the_table_of_attributes_is_read_as_it_is_shown(tmp_path: Path) -> None:
    from PIL import Image

    text = next(block for block in blocks(ROOT / "docs" / "own.md", "yaml") if "AttributeTable" in block)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(yaml.safe_load(text)["data"]))
    (tmp_path / "skin").mkdir()
    lines = ["image,patient,diagnosis,age"]
    for i in range(160):
        Image.new("RGB", (64, 64), (i, 255 - i, 9)).save(tmp_path / "skin" / f"{i}.png")
        lines.append(f"{i}.png,p{i // 2},{('naevus', 'melanoma')[i // 2 % 2]},{30 + 10 * (i // 4 % 4)}")
    (tmp_path / "skin" / "metadata.csv").write_text("\n".join(lines))
    lpft(
        "prepare",
        "-c",
        TOY,
        "--data",
        tmp_path / "data.yaml",
        "--data.source.root",
        tmp_path / "skin",
        "--out",
        tmp_path / "run",
    )
