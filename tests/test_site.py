"""The documentation as a site: it is built without a warning, has what it should, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lpft.cli import COMMANDS
from tests.pages import ROOT

pytestmark = [pytest.mark.docs, pytest.mark.xdist_group("site")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    built = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        built / "doctrees",
        "docs",
        built / "html",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built / "html"


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} - {"index.html"}
    assert pages <= set(re.findall(r'class="reference internal" href="(\w+\.html)"', start))


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Other sites are linked to, but no script, style, font or image is theirs."""
    loaded = re.compile(
        r"""<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=["']?(?:https?:)?//|@import|url\(["']?(?:https?:)?//"""
    )
    files = [file for ending in ("html", "css") for file in site.rglob(f"*.{ending}")]
    assert len(files) > 20
    assert [file.name for file in files if loaded.search(file.read_text(encoding="utf-8"))] == []


def test_commands_are_described_as_by_their_help(site: Path) -> None:
    page = (site / "commands.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<section id="lpft-([\w-]+)">(.*?)</section>', page, re.DOTALL))
    assert list(sections) == list(COMMANDS)
    options = {name: re.sub(r"<.*?>", "", section) for name, section in sections.items()}
    assert "--federation.rounds ROUNDS" in options["run"]
    assert "--shard" in options["personalize"]
    assert "--federation.rounds ROUNDS" not in options["personalize"]  # those of `run` are not repeated
    assert "--noise EPS" in options["theory"]


def test_classes_of_the_shipped_methods_are_described(site: Path) -> None:
    page = (site / "classes.html").read_text(encoding="utf-8")
    named = {yaml.safe_load(file.read_text())["class_path"] for file in (ROOT / "configs" / "methods").glob("*.yaml")}
    assert len(named) > 15
    assert named <= set(re.findall(r'id="(lpft\.[\w.]+)"', page))
