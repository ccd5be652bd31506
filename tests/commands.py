"""Run lpft's commands in this process, as the command line would."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from lpft.cli import main
from lpft.storage.run import Run

TOY = str(Path(__file__).parent / "conf" / "toy.yaml")


def lpft(*words: Any, code: int = 0) -> None:
    """Run a command; its exit code must be `code`."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == code


def toy(command: str, out: Path, *words: Any, code: int = 0) -> Run:
    """Run an experiment command on the toy experiment, in the folder `out`."""
    lpft(command, "-c", TOY, "--out", out, *words, code=code)
    return Run(out)


def save_methods(path: Path, methods: dict[str, Any]) -> Path:
    """Write a file that gives the toy experiment other methods and one seed."""
    path.write_text(yaml.safe_dump({"methods": methods, "seeds": [0]}, sort_keys=False))
    return path


def table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file, without the columns that depend on the clock."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def outcome(run: Run) -> dict[str, Any]:
    """Return all that must not depend on processes, interruptions or the clock."""
    files = [*sorted(run.root.glob("seed_*/*/*.csv")), run.root / "results.csv"]
    tables = {str(path.relative_to(run.root)): table(path) for path in files}
    models = sorted(run.root.glob("seed_*/*/models/*.safetensors")) + sorted(
        run.root.glob("seed_*/global/*.safetensors")
    )
    return {**tables, **{str(path.relative_to(run.root)): path.read_bytes() for path in models}}
