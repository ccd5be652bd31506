"""Summarize finished runs for docs/findings.md: gains and forgetting of all methods, with intervals.

    python benchmarks/findings.py RUN [RUN ...] > findings.md

Every figure is read from the runs; docs/findings.md contains the surrounding text.
"""

from __future__ import annotations

import sys

from lpft.evaluation.certainty import Estimate
from lpft.reporting.analysis import Analysis, analyze_results, analyze_sweep
from lpft.reporting.experiment import Experiment, section, word
from lpft.reporting.formatting import interval_end, number
from lpft.storage.run import Run

REFERENCES = ("local", "pooled", "ft", "lpft")


def cell(found: Estimate, word: str = "") -> str:
    """Return an estimate with its interval and verdict (if any) as text."""
    low, high = (interval_end(value, "+.1f") for value in (found.low, found.high))
    return f"{number(found.mean, '+.1f')} ({low} to {high}) {word}".strip()


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def methods_table(analysis: Analysis) -> str:
    """Return a table of every method's differences to the global model and to ft."""
    certainty, rows = analysis.certainty, []
    reference = certainty.references[0]
    for method in analysis.experiment.complete_methods:
        if method == reference:
            continue
        row = [f"`{method}`"]
        for base in (reference, "ft"):
            for metric in ("local", "global_all"):
                found = certainty.comparisons.get((method, base, metric))
                row.append(cell(found.estimate, found.verdict) if found else "")
        at_equal = analysis.tradeoff.comparisons.get((method, "ft"))
        if at_equal and at_equal.matched.overlaps:
            row.append(cell(at_equal.estimate, at_equal.verdict))
        else:
            row.append("")
        rows.append(row)
    header = ["", "Local, to global model", "Global, to global model", "Local, to ft", "Global, to ft"]
    return table([*header, "Global at equal Local, to ft"], rows)


def describe(run: Run) -> str:
    """Return the section of a run."""
    analysis = analyze_results(run)
    experiment = analysis.experiment
    reference = experiment.reference or ""
    summary = analysis.frames.summary.set_index(["method", "metric"])["mean"]
    named = [method for method in (reference, *REFERENCES) if method in experiment.complete_methods]
    levels = {method: summary[method, "local"] for method in named}
    steps = [rung for rung in analysis.ladder if rung.name in ("adabn", "ft")]
    parts = [
        f"## {title(experiment)}",
        f"{len(experiment.client_names)} clients, {len(experiment.seeds)} seeds. Local, percent: "
        + ", ".join(f"`{method}` {level:.1f}" for method, level in levels.items())
        + ".",
        methods_table(analysis),
    ]
    if len(steps) == 2:
        adabn, ft = steps
        for one, whole, what in (
            (adabn.home, ft.home, "gain at home"),
            (adabn.elsewhere, ft.elsewhere, "change elsewhere"),
        ):
            if whole.low > 0 or whole.high < 0:
                parts.append(f"`adabn`, which learns nothing, has {one.mean / whole.mean:.0%} of FT's {what}.")
    tuned = tuned_line(analysis)
    return "\n\n".join([*parts, *([tuned] if tuned else [])])


def describe_sweep(run: Run) -> str:
    """Return the section of a sweep: LP-FT and FT at every point."""
    points, rows = analyze_sweep(run).points, []
    for analysis in points:
        comparisons = analysis.certainty.comparisons
        local, everywhere = (comparisons["lpft", "ft", metric] for metric in ("local", "global_all"))
        found = [cell(one.estimate, one.verdict) for one in (local, everywhere)]
        at_equal = analysis.tradeoff.comparisons["lpft", "ft"]
        found.append(cell(at_equal.estimate, at_equal.verdict) if at_equal.matched.overlaps else "")
        summary = analysis.frames.summary.set_index(["method", "metric"])["mean"]
        values = ", ".join(word(value) for value in analysis.experiment.values.values())
        rows.append([values, f"{summary['none', 'local']:.1f}", *found])
    first = points[0]
    summary = first.frames.summary.set_index(["method", "metric"])["mean"]
    levels = [
        f"`{method}` {summary[method, 'local']:.1f} / {summary[method, 'global_all']:.1f}"
        for method in first.experiment.complete_methods
    ]
    header = ["", "Local, `none`", "Local, LP-FT minus FT", "Global, LP-FT minus FT", "Global at equal Local"]
    parts = [
        f"## {run.root.name}",
        f"{len(first.experiment.client_names)} clients, {len(first.experiment.seeds)} seeds.",
        table(header, rows),
        f"Local / Global in the first row: {', '.join(levels)}.",
    ]
    return "\n\n".join(parts)


def title(experiment: Experiment) -> str:
    """Return the experiment's name and the seeds of tuning, which must not be seeds of the results."""
    name, tuned = str(experiment.config["name"]), section(experiment.config, "provenance", "tuned")
    if not tuned:
        return name
    seeds = section(experiment.config, "tune")["seeds"]
    assert not set(seeds) & set(experiment.seeds), "tuning has seen a seed of the results"
    return f"{name}, tuned on seed {', '.join(map(str, seeds))}"


def tuned_line(analysis: Analysis) -> str:
    """Compare tuned LP-FT with tuned FT; empty without tuning."""
    pair, parts = ("lpft_tuned", "ft_tuned"), []
    for name, metric in (("Local", "local"), ("Global", "global_all")):
        found = analysis.certainty.comparisons.get((*pair, metric))
        if found:
            parts.append(f"{name} {cell(found.estimate, found.verdict)}")
    at_equal = analysis.tradeoff.comparisons.get(pair)
    if at_equal and at_equal.matched.overlaps:
        parts.append(f"Global at equal Local {cell(at_equal.estimate, at_equal.verdict)}")
    return f"`lpft_tuned` minus `ft_tuned`: {', '.join(parts)}." if parts else ""


if __name__ == "__main__":
    runs = [Run(folder) for folder in sys.argv[1:]]
    print("\n\n".join(describe_sweep(run) if run.points() else describe(run) for run in runs))
