"""Imports point one way, and only the round loop knows of other processes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lpft

PACKAGE = Path(lpft.__file__).parent
LAYERS = (
    {"types", "storage"},
    {"runtime"},
    {"data", "models", "theory"},
    {"clients"},
    {"federated"},
    {"methods"},
    {"evaluation"},
    {"personalization"},
    {"reporting"},
    {"paper"},
    {"config"},
    {"pipeline"},
    {"flower"},
    {"export"},
    {"prediction"},
    {"results"},
    {"shipped", "arguments"},
    {"completion"},
    {"cli"},
)
STRANGERS = (
    ("federated", "personalization"),
    ("personalization", "reporting"),
    ("data", "models"),
    ("reporting", "paper"),
)
"""Rooms that do not import each other: they meet in files, or above."""
SECTIONS = ("federation.", "personalization.", "trainer.")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = part(path)
    for name in imported(path):
        other = name.split(".")[1] if name.startswith("lpft.") else own
        assert name == "lpft" or other in (own, "__version__") or layer(other) < layer(own), f"{path} imports {name}"


@pytest.mark.parametrize("pair", STRANGERS, ids="-".join)
def test_unrelated_packages_do_not_import_each_other(pair: tuple[str, str]) -> None:
    for one, other in (pair, pair[::-1]):
        if (one, other) == ("paper", "reporting"):  # verdicts read the analysis
            continue
        for path in MODULES:
            if part(path) == one:
                assert not [name for name in imported(path) if name.startswith(f"lpft.{other}")], path


def test_only_the_federated_stage_uses_ranks() -> None:
    for path in MODULES:
        if part(path) in {"data", "models", "clients", "methods", "evaluation"}:
            assert "torch.distributed" not in path.read_text(encoding="utf-8"), path
            assert "lightning.fabric" not in " ".join(imported(path)), path
