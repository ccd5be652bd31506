"""The report of a sweep as one page: what its points have in common, what differs, and a link to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

from lpft.evaluation.convergence import judge_convergence
from lpft.reporting.console import incomplete, mean_and_std
from lpft.reporting.judging import Judged
from lpft.reporting.page import figure_in_markdown, made_by, plain, render, table, verdicts_in_markdown, with_captions
from lpft.reporting.sweep_figures import Drawn
from lpft.reporting.sweeps import Point, num_planned, short_keys, swept, word
from lpft.reporting.tables import summary_rows
from lpft.reporting.words import TERMS, describe_method, what_was_done
from lpft.storage.run import Run

TABLES = {
    "Local": ("local", "{:.1f}"),
    "Global": ("global_all", "{:.1f}"),
    "worst": ("worst_row", "{:.1f}"),
    "average3": ("average3", "{:.1f}"),
    "distortion": ("distortion_own", "{:.2f}"),
}
"""One table each: title, figure and form."""

PointRows = list[tuple[str, str, list[str]]]
"""Name of the point, link to its report, entries."""


@dataclass(frozen=True)
class SweepPage:
    """What the report of a sweep says, before it is HTML or Markdown.

    Args:
        title: name of the experiment.
        lead: what was done, in words.
        judged: what the verdicts said.
        header: columns of the tables: the point, then every method.
        tables: title and rows of each.
        points: names of the points.
        remarks: what to know before trusting the numbers.
        methods: name and description of every method.
        terms: word and meaning.
        config: the configuration of the sweep as YAML.
        made_by: versions.
        figures: title, caption and SVG by name.
    """

    title: str
    lead: str
    judged: Sequence[Judged]
    header: list[str]
    tables: list[tuple[str, PointRows]]
    points: list[str]
    remarks: list[str]
    methods: list[tuple[str, str]]
    terms: Mapping[str, str]
    config: str
    made_by: str
    figures: Mapping[str, Drawn]


def make_sweep_page(
    run: Run,
    points: Sequence[Point],
    missing: Sequence[str],
    config: Mapping[str, Any],
    judged: Sequence[Judged],
    figures: Mapping[str, Drawn],
) -> SweepPage:
    """Collect what the report of a sweep says.

    Args:
        run: the run that has the points.
        points: those with results.
        missing: names of those without.
        config: the configuration of the sweep.
        judged: what the verdicts said.
        figures: title, caption and SVG by name.
    """
    methods = list(dict.fromkeys(method for point in points for method in point.methods))
    return SweepPage(
        title=str(config.get("name") or run.root.name),
        lead=_lead(points, config),
        judged=judged,
        header=["point", *methods, "n"],
        tables=[(title, _rows(run, points, methods, *figure)) for title, figure in TABLES.items()],
        points=[point.label for point in points],
        remarks=_remarks(points, missing, config),
        methods=[(method, describe_method(method, _first_with(points, method))) for method in methods],
        terms={term: text for term, text in TERMS.items() if term in TABLES or term == "n"},
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else "",
        made_by=made_by(config),
        figures=figures,
    )


def sweep_to_html(page: SweepPage) -> str:
    """Return the page as one HTML file; its only links lead to the points' own reports."""
    captions = {name: (title, text) for name, (title, text, _) in page.figures.items()}
    svgs = {name: svg for name, (*_, svg) in page.figures.items()}
    return render("sweep.html", page=page, figures=with_captions(svgs, captions))


def sweep_to_markdown(page: SweepPage) -> str:
    """Return the page as Markdown, with links to the figures and to the points' own reports."""
    parts = [f"# {plain(page.title)}", plain(page.lead), *verdicts_in_markdown(page.judged)]
    for name, (title, text, _) in page.figures.items():
        parts += figure_in_markdown(name, title, text)
    parts += ["## All points", "Mean ± standard deviation over seeds; accuracies in percent."]
    for title, rows in page.tables:
        parts += [f"### {title}", table(page.header, [(label, entries) for label, _, entries in rows])]
    links = [f"- [{plain(label)}]({link.removesuffix('.html')}.md)" for label, link, _ in page.tables[0][1]]
    parts += ["### Reports of the points", "\n".join(links)]
    parts += ["## Before you trust the numbers", "\n".join(f"- {plain(remark)}" for remark in page.remarks)]
    parts += ["## Methods", "\n".join(f"- **{plain(name)}**: {plain(text)}" for name, text in page.methods)]
    parts += ["## What the words mean", "\n".join(f"- **{term}**: {text}" for term, text in page.terms.items())]
    return "\n\n".join([*parts, plain(page.made_by)]) + "\n"


def _lead(points: Sequence[Point], config: Mapping[str, Any]) -> str:
    keys = swept(config)
    names = short_keys(keys)
    listed = " and ".join(f"{names[key]} ({', '.join(map(word, values))})" for key, values in keys.items())
    first = points[0]
    seeds = sorted({result.seed for point in points for result in point.results})
    told = what_was_done(first.config, len(first.results[0].clients), seeds) if len(points) == 1 else ""
    planned = num_planned(config) or len(points)
    number = f"All {planned} points" if planned == len(points) else f"{len(points)} of {planned} points"
    told = told or f"Seeds: {', '.join(map(str, seeds))}."
    return f"A sweep over {listed}. {number} have results; each has a global model of its own. {told}"


def _rows(run: Run, points: Sequence[Point], methods: Sequence[str], metric: str, form: str) -> PointRows:
    rows = []
    for point in points:
        found = {row["method"]: row for row in summary_rows(point.rows) if row["metric"] == metric}
        entries = [mean_and_std(found[method], form) if method in found else "-" for method in methods]
        link = quote(str((point.run.root / "report.html").relative_to(run.root)))
        rows.append((point.label, link, [*entries, str(len({row["seed"] for row in point.rows}))]))
    return rows


def _remarks(points: Sequence[Point], missing: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    seeds = {result.seed for point in points for result in point.results}
    remarks = [f"without results: {name}" for name in missing]
    absent = num_planned(config) - len(points) - len(missing)
    remarks += [f"not begun: {absent} points"] if absent > 0 else []
    for point in points:
        remarks += [f"{point.label}: {line}" for line in incomplete(point.results)]
    unready = [
        point.label
        for point in points
        if any(not judge_convergence(history).converged for history in point.histories.values())
    ]
    if unready:
        where = f"{len(unready)} of {len(points)} points ({'; '.join(unready)})"
        where = where if len(unready) < len(points) else "every point"
        remarks.append(
            f"a global model has not converged at {where}: what fine-tuning gains there may repair it rather than"
            " personalize it"
        )
    several = f"{len(seeds)} seeds: a mean and its spread, no test of significance; small differences may be chance"
    return [*remarks, several if len(seeds) > 1 else "one seed: how much chance is in these numbers is not known"]


def _first_with(points: Sequence[Point], method: str) -> Mapping[str, Any]:
    return next(point.config for point in points if method in point.methods)
