"""Verdicts by their dotted path: import them, let them speak, write down what they said."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpft.reporting.results import log
from lpft.reporting.sweeps import Point
from lpft.reporting.tables import to_csv
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run

Verdict = Callable[[Sequence[Point]], list[str]]
"""Takes the points of a sweep, or the one point that a run by itself is; returns lines, first the result."""


@dataclass(frozen=True)
class Judged:
    """What a verdict said.

    Args:
        name: of the function.
        lines: the result with its rule, then details.
    """

    name: str
    lines: list[str]


def load_verdict(path: str) -> Verdict:
    """Import a verdict by its dotted path.

    Raises:
        ValueError: if there is no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`verdicts` names `{path}`, which cannot be imported: {error}. HINT: {_hint()}") from error
    if not callable(found):
        raise ValueError(f"`verdicts` names `{path}`, which is no function. HINT: {_hint()}")
    return found


def load_verdicts(config: Mapping[str, Any]) -> dict[str, Verdict]:
    """Import the verdicts that an experiment names.

    Raises:
        ValueError: if one cannot be imported.
    """
    return {str(path): load_verdict(str(path)) for path in config.get("verdicts") or []}


def judge(verdicts: Mapping[str, Verdict], points: Sequence[Point]) -> list[Judged]:
    """Let every verdict speak; one that fails says so, and keeps nothing else from being reported."""
    judged = []
    for path, verdict in verdicts.items():
        try:
            lines = list(verdict(points))
        except Exception as error:
            log.warning("The verdict %s failed.", path, exc_info=error)
            lines = [f"failed: {type(error).__name__}: {error}"]
        judged.append(Judged(path.rpartition(".")[2], lines))
    return judged


def write_verdicts(run: Run, judged: Sequence[Judged]) -> None:
    """Write verdicts.csv, one row per line; take it away from a run without verdicts."""
    path = run.root / "verdicts.csv"
    if judged:
        rows = [{"verdict": each.name, "line": line} for each in judged for line in each.lines]
        write_atomically(path, to_csv(("verdict", "line"), rows))
    else:
        path.unlink(missing_ok=True)


def _hint() -> str:
    from lpft.reporting import verdicts

    ours = [name for name, value in vars(verdicts).items() if "points" in getattr(value, "__annotations__", {})]
    return f"give the dotted path of a function; lpft.reporting.verdicts has {', '.join(ours)}."
