"""Every command and every snippet of the documentation runs, at a small size, page by page from the top down.

`tests.pages.NOT_RUN` lists what is not run. CI runs it: ``pytest -m docs --dist load``.
"""

from __future__ import annotations

import linecache
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger
from PIL import Image

from lpft.cli import main
from lpft.config import study
from lpft.evaluation.metrics import METRICS
from lpft.models.cnn import SmallCNN
from lpft.reporting.drawing import FIGURES
from lpft.types import DataSpec
from tests.commands import lpft
from tests.pages import PAGES, ROOT, Block, blocks, reason
from tests.shapes import save_shapes

pytestmark = [pytest.mark.docs, pytest.mark.usefixtures("undrawn")]
SMALL = ROOT / "tests" / "conf" / "small.yaml"
CHECKOUT = ("configs", "benchmarks", "examples")


def save_sites(folder: Path) -> None:
    """Write the sites and the global model of docs/own.md."""
    for seed, site in enumerate(("north", "south", "west")):
        save_shapes(folder / "sites" / site, 6, seed, {"cat": "circle", "dog": "square", "owl": "triangle"})
    net = SmallCNN(DataSpec(3, 32, 3), width=2, features=8)  # the sizes of SMALL
    torch.save(net.state_dict(), folder / "global.pt")


def save_photos(folder: Path) -> None:
    """Write the images of docs/export.md."""
    (folder / "folder" / "of" / "images").mkdir(parents=True)
    for name in ("photo.png", "folder/of/images/1.png", "folder/of/images/2.png"):
        Image.new("RGB", (20, 30), (9, 99, 199)).save(folder / name)


def save_scans(folder: Path) -> None:
    """Write the images of docs/extend.md."""
    (folder / "scans").mkdir()
    for number in range(40):
        name = f"{('north', 'south')[number % 2]}_{('ill', 'well')[number // 2 % 2]}_{number}.png"
        Image.new("RGB", (32, 32), (number, 6 * number, 99)).save(folder / "scans" / name)


GIVEN: dict[str, Callable[[Path], None]] = {
    "install.md": save_sites,
    "own.md": save_sites,
    "export.md": save_photos,
    "extend.md": save_scans,
}
"""What a page takes for granted."""


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Make every experiment small: the file `SMALL` comes after the files of a command line, one seed at its end."""
    opened = study.open_study

    def open_small(command: str, args: list[str] | study.Config, given: Sequence[Logger] = ()) -> study.Study:
        if isinstance(args, dict):
            return opened(command, {**study._merged(args, yaml.safe_load(SMALL.read_text())), "seeds": [0]}, given)
        files = [i + 1 for i, word in enumerate(args) if args[i - 1] == "-c" or word.startswith("--config=")]
        return opened(command, [*args[: files[-1]], f"--config={SMALL}", *args[files[-1] :], "--seeds=[0]"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "open_study", open_small)
        yield


@pytest.fixture(scope="module")
def digits(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who has run the first command."""
    folder = tmp_path_factory.mktemp("reader")
    for name in CHECKOUT:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lpft("run", "-c", "configs/digits.yaml")
    return folder


@pytest.fixture
def folder(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, in which a page is followed; what its modules register is taken back."""
    copied = shutil.copytree(digits, tmp_path / "reader")
    modules, metrics, figures = set(sys.modules), list(METRICS), dict(FIGURES)
    monkeypatch.chdir(copied)
    monkeypatch.setattr(sys, "path", [str(copied), *sys.path])
    monkeypatch.setattr(sys, "argv", ["page"])
    yield copied
    METRICS[:] = metrics
    FIGURES.clear()
    FIGURES.update(figures)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(copied) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh", "python")], ids=lambda page: page.name)
def test_examples_of_a_page_run(page: Path, folder: Path) -> None:
    GIVEN.get(page.name, lambda folder: None)(folder)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "sh", "python", "yaml"):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            run_python(block, names)
        elif block.language == "sh":
            for command in block.commands():
                if not reason(command):
                    run_command(block, command)


def run_python(block: Block, names: dict[str, object]) -> None:
    """Run a snippet after those before it on the page; errors show its lines."""
    where = f"{block.page}:{block.line}"
    linecache.cache[where] = (len(block.text), None, block.text.splitlines(keepends=True), where)
    exec(compile(block.text, where, "exec"), names)


def run_command(block: Block, command: str) -> None:
    """Run a command in this process; it has to end well."""
    program, *words = shlex.split(command)
    where = f"{block.page}:{block.line}: {command}"
    if program == "lpft":
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert not stop.value.code, where
    else:
        assert program == "python", where
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
