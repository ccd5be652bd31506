"""Verdicts: functions, named by dotted path in an experiment, that judge its results by a stated rule."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lpft.reporting.analysis import Analysis

log = logging.getLogger("lpft")

Outcome = Literal["held", "not held", "unclear", "not judged", "failed", ""]
"""Whether the claim of a verdict held; `not judged` if results that it needs are missing."""


@dataclass(frozen=True)
class Verdict:
    """The result of a verdict function: data, which a template converts to text.

    Args:
        outcome: whether the claim held.
        numbers: the numbers that decided the outcome, by name.
        rows: details, such as one row per point or method.
        template: a jinja2 template of ``outcome``, ``numbers`` and ``rows``; every rendered line is a row of
            verdicts.csv, the first one with the result and the rule. Without a template, numbers and rows are listed.
    """

    outcome: Outcome
    numbers: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    template: Path | None = None


VerdictFunction = Callable[[Sequence["Analysis"]], Verdict | list[str]]
"""Takes the analyses of a sweep's points, or of the single run; returns a `Verdict`, or lines of text."""


@dataclass(frozen=True)
class NamedVerdict:
    """A verdict with its name and text, for reports.

    Args:
        name: name of the function.
        outcome: see `Outcome`; empty if the function returned lines of text.
        lines: the result with its rule, then details.
        rows: details as data.
    """

    name: str
    outcome: Outcome
    lines: list[str]
    rows: Sequence[Mapping[str, Any]] = ()


def load_verdict(path: str) -> VerdictFunction:
    """Import a verdict by its dotted path.

    Raises:
        ValueError: if the function does not exist.
    """
    module, _, name = path.rpartition(".")
    hint = "HINT: give the dotted path of a function of a list of analyses, such as `lpft.paper.verdicts.plateau`."
    try:
        verdict = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`verdicts` names `{path}`, which cannot be imported: {error}. {hint}") from error
    if not callable(verdict):
        raise ValueError(f"`verdicts` names `{path}`, which is not a function. {hint}")
    return verdict


def load_verdicts(config: Mapping[str, Any]) -> dict[str, VerdictFunction]:
    """Import the verdicts of an experiment.

    Raises:
        ValueError: if one cannot be imported.
    """
    return {str(path): load_verdict(str(path)) for path in config.get("verdicts") or []}


def apply_verdicts(functions: Mapping[str, VerdictFunction], points: Sequence[Analysis]) -> list[NamedVerdict]:
    """Apply every verdict; an exception is reported as the outcome `failed` and does not stop the others."""
    verdicts = []
    for path, function in functions.items():
        name = path.rpartition(".")[2]
        try:
            verdict = function(points)
            if isinstance(verdict, Verdict):
                verdicts.append(NamedVerdict(name, verdict.outcome, verdict_lines(verdict), verdict.rows))
            else:
                verdicts.append(NamedVerdict(name, "", list(verdict)))
        except Exception as error:
            log.warning("The verdict %s failed.", path, exc_info=error)
            verdicts.append(NamedVerdict(name, "failed", [f"failed: {type(error).__name__}: {error}"]))
    return verdicts


def verdict_lines(verdict: Verdict) -> list[str]:
    """Render the template of a verdict as lines of text."""
    if verdict.template is None:
        rows = [row for row in (verdict.numbers, *verdict.rows) if row]
        return [f"{verdict.outcome}.", *(", ".join(f"{key} {value}" for key, value in row.items()) for row in rows)]
    from lpft.reporting.sentences import environment  # loading verdicts takes no time: every command checks the names

    template = environment(verdict.template.parent).get_template(verdict.template.name)
    text = template.render(outcome=verdict.outcome, numbers=verdict.numbers, rows=verdict.rows)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
