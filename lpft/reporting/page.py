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

from lpft.evaluation.advice import Advice
from lpft.reporting.console import HEADER, comparison_rows, exceptions, incomplete, mean_and_std
from lpft.reporting.findings import advice_line, advice_of, grouped, signatures_of, told
from lpft.reporting.results import MethodResult, is_reference, methods_of
from lpft.reporting.style import GRID, INK, MUTED, PAPER, looks
from lpft.reporting.tables import COMPARED, clients_compared, difference_rows, result_rows, summary_rows
from lpft.reporting.words import (
    ADVICE_RULE,
    TERMS,
    describe_method,
    headline,
    settings_not_from_the_paper,
    what_was_done,
)
from lpft.runs import Run

CAPTIONS = {
    "tradeoff": (
        "At home against everywhere",
        "One large point per method, one small point per seed; lines are one standard deviation. The global model"
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


DIFFERENCES = ("method", "Local", "Global", "worst", "average3", "clients better / same / worse", "n")
ADVICE = ("client", "val", "global model", "best method", "with it", "gain", "advice", "test: global", "test: advised")


@dataclass(frozen=True)
class Page:
    """What the report says, before it is HTML or Markdown.

    Args:
        title: name of the experiment.
        lead: what was done, in words.
        headline: the result in sentences.
        remarks: what to know before trusting the numbers.
        signatures: signs of failure: name, what to do, where they were found and by which numbers.
        header: columns of the comparison.
        rows: one per method: its name and entries.
        differences: comparisons seed by seed: the method compared with, and rows in columns `DIFFERENCES`.
        advice: what each client should do, in columns `ADVICE`; the last entry of a row tells whether to personalize.
        advice_line: the same summed up.
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
    headline: list[str]
    remarks: list[str]
    signatures: list[tuple[str, str, list[str]]]
    header: Sequence[str]
    rows: list[tuple[str, list[str]]]
    differences: list[tuple[str, list[tuple[str, list[str]]]]]
    advice: list[tuple[str, list[str]]]
    advice_line: str
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
    differences_header: Sequence[str] = DIFFERENCES
    advice_header: Sequence[str] = ADVICE
    advice_rule: str = ADVICE_RULE


def make_page(run: Run, results: Sequence[MethodResult], config: Mapping[str, Any], svgs: Mapping[str, str]) -> Page:
    """Collect what the report says."""
    methods, seeds = methods_of(results), sorted({result.seed for result in results})
    names = results[0].clients
    look = looks(methods, config)
    summary, advices = summary_rows(result_rows(results), methods), advice_of(results)
    reference = next((method for method in methods if is_reference(method, config)), None)
    baselines = [method for method in methods if method in (reference, "ft")]
    return Page(
        title=str(config.get("name") or run.root.name),
        lead=what_was_done(config, len(names), seeds),
        headline=[sentence for sentence in (headline(summary, reference), _advised(advices)) if sentence],
        remarks=[*incomplete(results), *exceptions(results), *_limits(seeds)],
        signatures=[
            (name, found[0].advice, _first([told(signature) for signature in found]))
            for name, found in grouped(signatures_of(run, results)).items()
        ],
        header=HEADER,
        rows=comparison_rows(results),
        differences=[(name, rows) for name in baselines if (rows := _differences(results, name))],
        advice=[(advice.client, _advice_row(advice)) for advice in advices],
        advice_line=_advised(advices),
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
    figures = {
        name: [
            f"## {page.captions[name][0]}",
            f"![{page.captions[name][0]}](figures/{name}.svg)",
            page.captions[name][1],
        ]
        for name in page.svgs
    }
    parts = [f"# {_plain(page.title)}", page.lead, *map(_plain, page.headline)]
    parts += ["## Comparison", "Accuracy in percent.", _table(page.header, page.rows)]
    parts += ["\n".join(f"- **{_plain(name)}**: {_plain(text)}" for name, text in page.methods)]
    parts += figures.pop("tradeoff", [])
    parts += ["## Before you trust the numbers", "\n".join(f"- {_plain(remark)}" for remark in page.remarks)]
    for name, advice, found in page.signatures:
        parts += [
            f"**{_plain(name)}**",
            "\n".join(f"- {_plain(line)}" for line in found),
            f"What to do: {_plain(advice)}",
        ]
    for baseline, rows in page.differences:
        title = f"## Difference to {_plain(baseline)}"
        parts += [title, "In points, seed by seed.", _table(page.differences_header, rows)]
    if page.advice:
        parts += ["## Who should fine-tune", _plain(page.advice_line), ADVICE_RULE]
        parts += [_table(page.advice_header, page.advice)]
    parts += [text for figure in figures.values() for text in figure]
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


def _differences(results: Sequence[MethodResult], baseline: str) -> list[tuple[str, list[str]]]:
    """Return mean and standard deviation of every method's differences to another, and how many clients gained."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in difference_rows(result_rows(results), baseline):
        found.setdefault(row["method"], {})[row["metric"]] = row
    rows = []
    for method, by_metric in found.items():
        clients = " / ".join(map(str, clients_compared(results, method, baseline)))
        figures = [mean_and_std(by_metric[metric], "{:+.1f}", "{:.1f}") for metric in COMPARED]
        rows.append((method, [*figures, clients, str(by_metric["local"]["n"])]))
    return rows


def _advice_row(advice: Advice) -> list[str]:
    gain = "-" if advice.gain is None else f"{advice.gain:+.1f} ± {advice.standard_error:.1f}"
    accuracies = [_mean([value]) for value in (advice.val_before, advice.val_after)]
    tests = [_mean([value]) for value in (advice.test_before, advice.test_advised)]
    return [str(advice.num_val), accuracies[0], advice.best_method, accuracies[1], gain, advice.advice, *tests]


def _first(lines: Sequence[str], limit: int = 8) -> list[str]:
    """Keep the first lines, and say how many there are more."""
    more = len(lines) - limit
    return [*lines[:limit], *([f"and {more} more, listed in signatures.csv"] if more > 0 else [])]


def _advised(advices: Sequence[Advice]) -> str:
    return f"Advice by validation data: {advice_line(advices)}." if advices else ""


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
