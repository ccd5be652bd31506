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


@pytest.mark.docs
def test_the_site_is_complete_and_needs_no_network(tmp_path: Path) -> None:
    """One test, since the site is built once."""
    pytest.importorskip("sphinx")
    site = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "doctrees", "docs", site]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    check_navigation(pages["index.html"])
    check_commands(pages["commands.html"])
    check_classes(pages["classes.html"])
    check_nothing_is_loaded_from_elsewhere(site)


def check_navigation(start: str) -> None:
    linked = set(re.findall(r'class="reference internal" href="(\w+\.html)"', start))
    assert {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} - {"index.html"} <= linked


def check_commands(page: str) -> None:
    """Every command has a section; those that read an experiment repeat no settings of `run`."""
    sections = dict(re.findall(r'<section id="lpft-([\w-]+)">(.*?)</section>', page, re.DOTALL))
    assert list(sections) == list(COMMANDS)
    texts = {name: re.sub(r"<.*?>", "", section) for name, section in sections.items()}
    assert "--federation.rounds ROUNDS" in texts["run"]
    assert "--shard" in texts["personalize"]
    assert "--federation.rounds ROUNDS" not in texts["personalize"]
    assert "--noise EPS" in texts["theory"]


def check_classes(page: str) -> None:
    named = {yaml.safe_load(file.read_text())["class_path"] for file in (ROOT / "configs" / "methods").glob("*.yaml")}
    assert len(named) > 15
    assert named <= set(re.findall(r'id="(lpft\.[\w.]+)"', page))


def check_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Other sites are linked to, but no script, style, font or image is theirs."""
    tag = r"<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//"
    loaded = re.compile(rf"{tag}|@import|url\([\"']?(?:https?:)?//")
    files = [file for ending in ("html", "css") for file in site.rglob(f"*.{ending}")]
    assert len(files) > 20
    assert [file.name for file in files if loaded.search(file.read_text(encoding="utf-8"))] == []
