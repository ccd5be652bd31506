"""The report of a run as one page: report.html, which needs nothing else, and report.md, which links the figures."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import yaml

from lpft.reporting.console import HEADER, comparison_rows, remarks
from lpft.reporting.results import MethodResult, methods_of
from lpft.reporting.style import GRID, INK, MUTED, PAPER, looks
from lpft.reporting.words import TERMS, describe_method, settings_not_from_the_paper, what_was_done
from lpft.runs import Run

CAPTIONS = {
    "tradeoff": (
        "At home against everywhere",
        "One large point per method, one small point per seed; bars are one standard deviation. The global model"
        " (dotted) is as good at home as everywhere. Up is better at home; to the right, more is remembered of the"
        " others. A point up and to the left bought its gain at home by forgetting.",
    ),
    "curves": (
        "While fine-tuning",
        "Accuracy on test sets over the epochs, mean over clients: dashed at home, solid on all test sets. Where the"
        " solid line falls while the dashed one rises or stays, clients overfit to themselves. A vertical line marks"
        " the change of what is trained. The curves are shown, never used to choose an epoch.",
    ),
    "clients": (
        "Who gains, who is hurt",
        "Local accuracy of every client's own model minus the global model's, mean over seeds. Where it is negative,"
        " the client would have done better to keep the global model.",
    ),
    "distortion": (
        "Moving features, forgetting others",
        "One point per client and method, mean over seeds: how far its features moved from the global model's, and"
        " how much accuracy over all test sets was lost.",
    ),
    "matrices": (
        "Every model on every test set",
        "Row: whose model. Column: whose test set. Framed: at home. Mean over seeds, one scale. All accuracies of this"
        " page are means over parts of these matrices; their numbers are in seed_*/METHOD/accuracy.csv.",
    ),
}
"""Title and explanation of every figure."""


@dataclass(frozen=True)
class Page:
    """What the report says, before it is HTML or Markdown.

    Args:
        title: name of the experiment.
        lead: what was done, in words.
        facts: number and noun, for the head of the page.
        remarks: what to know before trusting the numbers.
        header: columns of the comparison.
        rows: one per method: its name and entries.
        methods: name and description of every method.
        colors: of the methods in the figures.
        terms: column and meaning.
        clients_header: columns of the table of clients.
        clients: one row per client.
        foreign: settings that are not from the paper: key, value, remark.
        config: the resolved experiment as YAML.
        made_by: versions.
        svgs: the figures by name.
        captions: title and explanation by name.
    """

    title: str
    lead: str
    facts: list[tuple[str, str]]
    remarks: list[str]
    header: Sequence[str]
    rows: list[tuple[str, list[str]]]
    methods: list[tuple[str, str]]
    colors: dict[str, str]
    terms: Mapping[str, str]
    clients_header: list[str]
    clients: list[tuple[str, list[str]]]
    foreign: list[tuple[str, str, str]]
    config: str
    made_by: str
    svgs: Mapping[str, str]
    captions: Mapping[str, tuple[str, str]] = field(default_factory=lambda: CAPTIONS)


def make_page(run: Run, results: Sequence[MethodResult], config: Mapping[str, Any], svgs: Mapping[str, str]) -> Page:
    """Collect what the report says."""
    methods, seeds = methods_of(results), sorted({result.seed for result in results})
    names = results[0].clients
    look = looks(methods, config)
    facts = [(len(names), "client"), (len(methods), "method"), (len(seeds), "seed")]
    return Page(
        title=str(config.get("name") or run.root.name),
        lead=what_was_done(config, len(names), seeds),
        facts=[(str(number), noun if number == 1 else f"{noun}s") for number, noun in facts],
        remarks=[*remarks(run, results), *_limits(seeds)],
        header=HEADER,
        rows=comparison_rows(results),
        methods=[(method, describe_method(method, config)) for method in methods],
        colors={method: look[method].color for method in methods},
        terms=TERMS,
        clients_header=["client", "train", "val", "test", "global model", *methods],
        clients=[(name, _client_row(name, results, methods)) for name in names],
        foreign=settings_not_from_the_paper(config, len(seeds)),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else "",
        made_by=_made_by(config),
        svgs=svgs,
    )


def to_html(page: Page) -> str:
    """Return the page as one HTML file without any reference to another."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    figures = [(name, *page.captions[name], inline_svg(svg, page.captions[name][0])) for name, svg in page.svgs.items()]
    return environment.get_template("page.html").render(page=page, figures=figures) + "\n"


def inline_svg(svg: str, title: str) -> str:
    """Make an SVG file part of a page: no prolog, no fixed size, and the page's own colours for light and dark."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    opening, rest = body[: body.index(">") + 1], body[body.index(">") + 1 :]
    width = re.search(r'viewBox="0 0 ([\d.]+)', opening)
    natural = float(width[1]) * 4 / 3 if width else 720
    size = f' style="max-width: {natural:.0f}px; min-width: {min(natural, 544):.0f}px"'
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    opening = opening.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"{size}', 1)
    for color, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "line"), (PAPER, "card")):
        rest = rest.replace(color, f"var(--{name})")
    return opening + rest


def to_markdown(page: Page) -> str:
    """Return the page as Markdown, with links to the figures."""
    parts = [f"# {_plain(page.title)}", page.lead]
    if page.remarks:
        parts += ["## Before you trust the numbers", "\n".join(f"- {_plain(remark)}" for remark in page.remarks)]
    parts += ["## Comparison", "Accuracy in percent.", _table(page.header, page.rows)]
    parts += ["\n".join(f"- **{_plain(name)}**: {_plain(text)}" for name, text in page.methods)]
    for name in page.svgs:
        title, text = page.captions[name]
        parts += [f"## {title}", f"![{title}](figures/{name}.svg)", text]
    parts += ["## Clients", "Local accuracy, mean over seeds.", _table(page.clients_header, page.clients)]
    parts += ["## What the columns mean", "\n".join(f"- **{term}**: {text}" for term, text in page.terms.items())]
    parts += [
        "## Settings not from the paper",
        _table(["setting", "value", "remark"], [(k, [v, r]) for k, v, r in page.foreign]),
    ]
    return "\n\n".join([*parts, _plain(page.made_by)]) + "\n"


def _client_row(name: str, results: Sequence[MethodResult], methods: Sequence[str]) -> list[str]:
    """Return a client's sample counts, the global model's accuracy and each method's, with what is not ok."""
    cells = [cell for result in results for cell in result.cells if cell.client == name]
    counts = [_span([getattr(cell, key) for cell in cells]) for key in ("num_train", "num_val", "num_test")]
    before = {cell.seed: cell.local_before for cell in cells}
    entries = []
    for method in methods:
        own = [cell for cell in cells if cell.method == method]
        status = sorted({cell.status for cell in own} - {"ok"})
        local = _mean([cell.accuracy[cell.clients.index(name)] for cell in own])
        entries.append(" ".join([local, *(f"({word})" for word in status)]))
    return [*counts, _mean(list(before.values())), *entries]


def _limits(seeds: Sequence[int]) -> list[str]:
    if len(seeds) == 1:
        return ["one seed: how much chance is in these numbers is not known"]
    return [f"{len(seeds)} seeds: a mean and its spread, no test of significance; small differences may be chance"]


def _made_by(config: Mapping[str, Any]) -> str:
    program = config.get("lpft")
    program = program if isinstance(program, Mapping) else {}
    parts = [f"lpft {program['version']}"] if "version" in program else ["lpft"]
    parts += [f"{key} {program[key]}" for key in ("torch", "lightning", "python", "git", "device") if program.get(key)]
    return ", ".join(parts)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return f"{fmean(known):.1f}" if known else "-"


def _span(values: Sequence[int]) -> str:
    if not values:
        return "-"
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [[_plain(entry) for entry in line] for line in (header, *([name, *entries] for name, entries in rows))]
    lines.insert(1, ["---", *("---:" for _ in header[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Keep Markdown from reading anything into a text: names come from outside."""
    text = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
