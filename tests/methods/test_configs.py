"""Every shipped method: it can be chosen by its file, keeps to the interface, and says what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from lpft.methods.base import Method
from lpft.methods.peft import PEFT
from lpft.methods.soup import SoupFT
from tests.methods.fitting import passes

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "methods").glob("*.yaml"))

UNTRAINED = ("none", "prior", "adabn", "stats_mix", "rotated", "pooled", "fedbn", "fedrep", "ditto")


def load(path: Path, *more: str) -> Method:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--methods", type=dict[str, Method], sub_configs=True)
    entry = yaml.safe_load(path.read_text())
    chosen = [f"--methods.x={entry['class_path']}"]
    chosen += [
        f"--methods.x.{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
        for key, value in entry.get("init_args", {}).items()
    ]
    method: Method = parser.instantiate(parser.parse_args([*chosen, *more])).methods["x"]
    return method


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_builds_and_keeps_to_the_budget(path: Path) -> None:
    method = load(path)
    phases = method.phases(15)
    members = method.members if isinstance(method, SoupFT) else 1
    assert sum(phase.epochs for phase in phases) <= 15 * members
    if phases and not isinstance(method, PEFT):
        assert passes(method, epochs=15)[0] < 15 * members + 2


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in UNTRAINED], ids=lambda path: path.stem)
def test_every_method_can_be_flooded(path: Path) -> None:
    assert load(path).flood is None
    assert load(path, "--methods.x.flood=0.5").flood == 0.5
