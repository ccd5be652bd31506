"""What the documentation shows works as it stands there."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lpft.arguments import ARGUMENTS, parser_of
from lpft.cli import COMMANDS
from lpft.config.loggers import read_loggers
from lpft.models.cnn import SmallCNN
from lpft.models.weights import load_model
from lpft.storage.run import Run, read_client_result
from lpft.types import DataSpec
from tests.commands import TOY, lpft, table, toy
from tests.pages import NOT_RUN, PAGES, ROOT, blocks, reason
from tests.shapes import save_shapes, shape

pytestmark = pytest.mark.usefixtures("undrawn")

OWN = ROOT / "docs" / "own.md"
DOCS = [ROOT / "README.md", *PAGES]
LANGUAGES = ("sh", "python", "yaml", "text")
DIRECTIVES = ("{toctree}", "{eval-rst}", "{include}", "{command-reference}")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages show, from which lpft is started."""
    for block in (block for page in PAGES for block in blocks(page, "python", "yaml") if block.file):
        assert not (tmp_path / block.file).exists(), f"{block.page}:{block.line}: another block has this name"
        (tmp_path / block.file).write_text(block.text)
        sys.modules.pop(block.file.removesuffix(".py"), None)
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
    assert read_client_result(run.cell(0, "anchored", "c0")).clients_per_stack == 2
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

    torch.manual_seed(0)
    net = SmallCNN(DataSpec(3, 32, 3), width=8, features=32)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    rng = np.random.default_rng(5)
    for _ in range(100):
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


def test_tables_of_wards_become_predictions(written: Path) -> None:
    """The walk of docs/own.md with feature arrays: two files of sites, one model, classes of new patients."""
    (written / "wards").mkdir()
    rng = np.random.default_rng(0)
    for ward in ("north", "west"):
        labels = np.arange(40) // 2 % 2
        rows = rng.normal(size=(40, 3)) + 2 * labels[:, None]
        rows[0, 1] = np.nan
        words, patients = np.array(["well", "ill"])[labels], np.arange(40) // 2
        frame = pd.DataFrame(rows, columns=["age", "dose", "size"]).assign(diagnosis=words, patient=patients)
        frame.to_csv(written / "wards" / f"{ward}.csv", index=False)
    names = list(frame.columns[:3])
    np.savez(written / "wards" / "west.npz", x=rows, feature_names=names, diagnosis=words, patient=patients)
    (written / "wards" / "west.csv").unlink()
    frame[[*names]].to_csv(written / "new_patients.csv")
    lpft("prepare", "-c", "wards.yaml")
    short = ("--personalization.epochs", 2, "--methods.lpft.lp_epochs", 1)
    lpft("run", "-c", "wards.yaml", "--only", "none,lpft", "--trainer.devices", 1, *short)
    lpft("export", "runs/wards", "--client", "north", "--to", "north")
    lpft("predict", "north", "new_patients.csv", "--to", "found.csv")
    found = pd.read_csv("found.csv")
    assert np.mean(found["class"] == words) > 0.7


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_in_the_documentation_are_valid(path: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command line parses, and those of init write files; tests/test_pages.py runs all that can be run."""
    for seed, site in enumerate(("north", "south")):
        save_shapes(written / "sites" / site, 4, seed)
    for command in (command for block in blocks(path, "sh") for command in block.commands()):
        program, *words = shlex.split(command.partition(" > ")[0])
        if program != "lpft":
            continue
        assert words[0] in COMMANDS, command
        if words[0] == "init":
            before = set(written.rglob("*"))
            lpft(*words)
            assert set(written.rglob("*")) > before or words == ["init"], command
        elif words[0] == "report" and "--loggers" in words:
            assert read_loggers(words[1:])
        elif words[0] in ARGUMENTS:
            parser_of(words[0]).parse_args(words[1:])
        else:
            words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
            lpft(*words, *([] if "--print_config" in words else ["--print_config"]))
        capsys.readouterr()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_block_is_run_or_has_a_reason_not_to(path: Path) -> None:
    """A page has no other blocks than those that tests read, and no other commands than they run; Python compiles."""
    for block in blocks(path):
        where = f"{path.name}:{block.line}"
        assert block.language in LANGUAGES or block.language.startswith(DIRECTIVES), where
        if block.language == "python":
            compile(block.text, where, "exec")
        if block.language == "sh":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        for command in block.commands() if block.language == "sh" else []:
            known = command.split()[0] in ("lpft", "python") or reason(command)
            assert known, f"{where}: say in tests/pages.py why `{command}` is not run"


def test_blocks_that_are_not_run_still_exist() -> None:
    shown = [command for page in DOCS for block in blocks(page, "sh") for command in block.commands()]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in shown)] == []


def test_figures_of_the_advice_are_those_of_the_results() -> None:
    """Every figure with a decimal in docs/choose.md stands in a table or text that it is taken from."""
    results = "".join((ROOT / "docs" / name).read_text() for name in ("findings.md", "experiments.md"))
    figures = re.findall(
        r"[+-]?\d+\.\d+\b(?!\d*[:.])", re.sub(r"arXiv:\S+|abs/\S+", "", (ROOT / "docs" / "choose.md").read_text())
    )
    assert len(figures) > 40
    assert [figure for figure in figures if figure.lstrip("+-") not in results] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_yaml_in_the_documentation_is_read(path: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block is an experiment, or sections of one: keys, classes and their settings exist."""
    for block in blocks(path, "yaml"):
        found = yaml.safe_load(block.text)
        section = "data" if "source" in found else "loggers" if "class_path" in found else None
        sections = {section: found} if section else found
        (written / "block.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
        lpft("run", *([] if "network" in found else ["-c", TOY]), "-c", "block.yaml", "--print_config")
        capsys.readouterr()


@pytest.mark.parametrize("path", [*DOCS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_are_valid(path: Path) -> None:
    """Files exist, and have the heading that is linked to; names of headings are those of GitHub."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        linked = path.parent / target if target else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("path", [*DOCS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_no_merge_conflict_is_left(path: Path) -> None:
    assert not re.findall(r"^(?:<{7} |={7}$|>{7} ).*", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_readmes_class_paths_exist() -> None:
    import importlib

    for module, name in re.findall(r"`(lpft(?:\.\w+)+)\.([A-Z]\w+)`", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert hasattr(importlib.import_module(module), name)


def test_the_readme_installs_by_two_commands() -> None:
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "lpft run -c configs/digits.yaml" in commands[0]
    assert commands[1].endswith("-m pytest")


def test_the_documented_table_of_attributes_can_be_read(tmp_path: Path) -> None:
    from PIL import Image

    text = next(block.text for block in blocks(OWN, "yaml") if "AttributeTable" in block.text)
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
