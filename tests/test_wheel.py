"""What a stranger gets: the package is built, and installed where nothing of this checkout is."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import lpft
from tests.shapes import save_shapes

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parents[1]
SITE_PACKAGES = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "site", "lightning_logs")

TYPED = """\
import lpft
from lpft.methods.ft import FT, NoFineTuning
from lpft.models.base import BodyHeadNet

results = lpft.run("digits.yaml", seeds=[0], federation={"rounds": 2})
table = results.matrix("lpft", seed=0)
net: BodyHeadNet = results.model("lpft", client="plain-0", seed=0)
method = FT(epochs=3)
wrong: int = lpft.__version__
lpft.load(5)
NoFineTuning(epochs=3)
"""
"""A program with three errors that only a typed package shows."""

MYPY = """\
[mypy]
ignore_missing_imports = True
follow_imports = silent
[mypy-torch.*,torchmetrics.*,torchvision.*,lightning.*,numpy.*,pandas.*,scipy.*,sklearn.*,matplotlib.*]
follow_imports = skip
"""
"""Reads lpft, and what is quickly read."""


def run(*words: Any, folder: Path, **variables: str) -> str:
    """Run a program, without what this process knows of the checkout, and return its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LPFT"))}
    environment |= {"LPFT_CACHE": str(folder / "cache"), **variables}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was made of it, and in `direct` the wheel of a checkout."""
    folder = tmp_path_factory.mktemp("built")
    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=LEFT_OUT)
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", folder, source, folder=folder)
    run(*build, "--wheel", "--outdir", folder / "direct", source, folder=folder)
    return folder


@pytest.fixture(scope="module")
def bin(built: Path) -> Path:
    """The programs of a new environment with the wheel, and with the packages of this one, but not its lpft."""
    environment = built / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=built)
    python = environment / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index")
    run(sys.executable, "-m", "pip", "--python", python, *install, *built.glob("*.whl"), folder=built)
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=built).strip()
    (Path(purelib) / "others.pth").write_text(
        "\n".join(SITE_PACKAGES)
    )  # their own .pth files, of an editable lpft, are not read
    found = run(python, "-c", "import lpft; print(lpft.__file__, lpft.__version__)", folder=built).split()
    assert found == [str(Path(purelib) / "lpft" / "__init__.py"), lpft.__version__]
    return environment / "bin"


def names(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_is_complete_and_equals_that_of_the_sdist(built: Path) -> None:
    (wheel,), (direct,), (sdist,) = built.glob("*.whl"), (built / "direct").glob("*.whl"), built.glob("*.tar.gz")
    content = names(wheel)
    assert content == names(direct)
    files = [Path(folder) / name for folder, _, held in os.walk(ROOT / "lpft", followlinks=True) for name in held]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.parent.name != "__pycache__"}
    assert {name for name in content if name.startswith("lpft/")} == expected
    with tarfile.open(sdist) as file:
        members = {name.partition("/")[2] for name in file.getnames()}
    assert {"tests/conf/toy.yaml", "configs/digits.yaml", "slurm/submit.sh", "README.md", "docs/own.md"} <= members
    assert not [name for name in members if name.endswith((".pyc", ".npz", ".npy", ".pt", ".safetensors"))]


def test_the_description_needs_no_other_files(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (metadata,) = (text for name, text in names(wheel).items() if name.endswith("/METADATA"))
    message = email.message_from_bytes(metadata)
    assert message["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r"\]\(([^)]+)\)", message.get_payload())
    assert targets
    assert all(target.startswith("https://") for target in targets), "links to files lead nowhere on an index page"


def test_the_description_leads_to_a_report_and_a_prediction(bin: Path, tmp_path: Path) -> None:
    text = (ROOT / "lpft" / "shipped" / "README.md").read_text()
    digits, own = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for seed, site in enumerate(("north", "south")):
        save_shapes(tmp_path / "FOLDER" / site, 12, seed)
    lpft = bin / "lpft"
    run(lpft, "init", "sizes/smoke", folder=tmp_path)
    for line in [*digits.splitlines()[1:], *own.splitlines()]:
        words = line.split()[1:]
        smoke = ("-c", "sizes/smoke.yaml", "--only", "none,lpft") if words[0] == "run" else ()
        run(lpft, *words, *smoke, folder=tmp_path)
    for name in ("digits", "own_sites"):
        assert (tmp_path / "runs" / name / "report.html").exists()
    client = ("--client", "north", "--to", "model")
    run(lpft, "export", "runs/own_sites", *client, folder=tmp_path)
    shutil.rmtree(tmp_path / "runs")
    image = next((tmp_path / "FOLDER" / "south" / "circle").iterdir())
    assert image.name in run(lpft, "predict", "model", image, folder=tmp_path, COLUMNS="200")
    assert yaml.safe_load((tmp_path / "own_sites.yaml").read_text())["data"]["source"]["init_args"]["root"] == "FOLDER"


def test_its_types_are_visible_to_other_projects(bin: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    (tmp_path / "mypy.ini").write_text(MYPY)
    mypy = (sys.executable, "-m", "mypy", "--python-executable", bin / "python", "program.py")
    done = subprocess.run([str(word) for word in mypy], cwd=tmp_path, capture_output=True, text=True)
    found = re.findall(r"^program.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert found == [("9", "assignment"), ("10", "arg-type"), ("11", "call-arg")], done.stdout + done.stderr


def test_bash_completes_commands_options_and_values(bin: Path, tmp_path: Path) -> None:
    (tmp_path / "completion.bash").write_text(run(bin / "lpft", "completion", "bash", folder=tmp_path))
    (tmp_path / "my.yaml").touch()
    program = """
    source completion.bash
    of_lpft=$(complete -p lpft | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    for line in "$@"; do
        IFS=/ read -ra COMP_WORDS <<<"$line"
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        COMPREPLY=()
        "$of_lpft" lpft "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[*]}"
    done
    """
    cases = {
        "lpft/pers": "personalize",
        "lpft/init/pneu": "pneumonia_mnist",
        "lpft/run/-c/m": "my.yaml",
        "lpft/run/--federation.weighting/s": "samples",
        "lpft/federate/--network/lpft.models.mc": "lpft.models.mcmahan.McMahanCNN",
        "lpft/status/--j": "--json",
    }
    found = run("bash", "-c", program, "bash", *cases, folder=tmp_path).splitlines()
    assert dict(zip(cases, found, strict=True)) == cases
