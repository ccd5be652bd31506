"""What the documentation shows works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from lpft.cli import COMMANDS
from tests.commands import TOY, lpft, table, toy

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that docs/own.md shows, from which lpft is started."""
    for block in blocks(ROOT / "docs" / "own.md", "python"):
        name = block.splitlines()[0].removeprefix("# ")
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


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_in_the_documentation_are_valid(path: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line that starts with lpft parses; what it would do is tested elsewhere."""
    for line in "\n".join(blocks(path, "sh")).splitlines():
        if not line.startswith("lpft "):
            continue
        words = [word.strip("'") for word in line.split()[1:]]
        assert words[0] in COMMANDS, line
        if words[0] in ("report", "status"):
            continue
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
