"""The golden record: what a few experiments compute, down to the last bit.

    python -m tests.golden.record           runs them and compares with the record
    python -m tests.golden.record --write   makes the record anew

Floating-point results depend on processor and library versions; the record says which it was made with.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.golden.tiny import save_cifar, save_spurious

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
SMOKE = ["-c", str(CONFIGS / "sizes/smoke.yaml")]
NOT_COMPARED = ("seconds", "fingerprint", "checksum")


def cases(root: Path) -> dict[str, list[str]]:
    """Return the arguments of `lpft run` for every case, by name; `root` has the generated image sets."""

    def config(name: str) -> list[str]:
        return ["-c", str(CONFIGS / f"{name}.yaml")]

    return {
        "digits": [*config("digits"), "--seeds", "[0]"],
        "digits_all": [*config("digits_all"), *SMOKE],
        "sweep": [
            *config("experiments/f3b_flooding"), *SMOKE, "--data.source.shift", "0.5", "--sweep",
            '{"methods.lpft.flood": [0.1, 1.0], "data.source.num_clients": [5, 8]}',
        ],
        "tuning": [
            *config("digits"), *config("tuned"), *SMOKE, "--only", "lp,ft,prox,lpft", "--personalization.epochs", "10",
            "--methods.ft_short.epochs", "5",
        ],
        "vit": [*config("experiments/peft"), "-c", str(CONFIGS / "sizes/smoke_vit.yaml")],
        "cifar_c": [
            *config("digits_all"), *SMOKE, "--data", str(CONFIGS / "data/cifar10_c.yaml"), "--data.source.root",
            str(root / "cifar"), "--data.source.types", '["fog", "contrast", "gaussian_noise"]',
            "--data.source.severities", "[2, 5]", "--only", "none,ft,lpft",
        ],
        "spurious": [
            *config("digits_all"), *SMOKE, "--data", str(HERE / "spurious.yaml"), "--data.source.root",
            str(root / "spurious"), "--only", "none,lp,ft,lpft",
        ],
    }  # fmt: skip


def environment() -> dict[str, str]:
    """Return what floating-point results depend on, beside the code."""
    return {
        "torch": str(torch.__version__),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def record_run(run: Path) -> dict[str, Any]:
    """Return what a run has computed, without clocks and fingerprints, by file."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.name in ("results.csv", "accuracy.csv", "tuning.csv", "history.csv"):
            found[name] = [",".join(row.values()) for row in _rows(path)]
        elif path.parent.name == "cells":
            found[name] = _shortened(json.loads(path.read_text(encoding="utf-8")))
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {key: value for key, value in row.items() if key not in NOT_COMPARED}


def _shortened(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell with long lists replaced by their hash; the row of the matrix is in accuracy.csv."""
    return {
        key: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        if isinstance(value, dict | list)
        else value
        for key, value in cell.items()
        if key not in NOT_COMPARED
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name the files, and of cells the figures, that differ."""
    lines = [f"{name}: only {'after' if name in after else 'before'}" for name in sorted(before.keys() ^ after.keys())]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if isinstance(old, dict):
            lines += [f"{name}: {k}: {old.get(k)} -> {new.get(k)}" for k in {**old, **new} if old.get(k) != new.get(k)]
        elif old != new:
            lines += [f"{name}: {a} -> {b}" for a, b in zip(old, new, strict=False) if a != b]
            lines += [f"{name}: {len(old)} -> {len(new)} rows"] if len(old) != len(new) else []
    return lines


def main() -> int:
    """Run the cases; return how many differ from the record."""
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    write = "--write" in sys.argv[1:]
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_cifar(root / "cifar")
        save_spurious(root / "spurious")
        for name, words in cases(root).items():
            if names and name not in names:
                continue
            run = root / "runs" / name
            words = [*words, "--evaluation.curve", "9", "--out", str(run)]
            subprocess.run([sys.executable, "-m", "lpft", "run", *words], check=True)
            found = {"environment": environment(), "files": record_run(run)}
            path = HERE / f"{name}.json"
            if write:
                path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")
                continue
            record = json.loads(path.read_text(encoding="utf-8"))
            lines = differences(record["files"], found["files"])
            if record["environment"] != found["environment"]:
                print(f"{name}: made with {record['environment']}, this is {found['environment']}")
            print(f"{name}: {len(lines)} differences", *lines[:20], sep="\n  ")
            differing += bool(lines)
    return differing


if __name__ == "__main__":
    sys.exit(main())
