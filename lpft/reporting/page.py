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

from lpft.evaluation.recommend import Advice
from lpft.reporting.console import HEADER, comparison_rows, exceptions, incomplete, mean_and_std
from lpft.reporting.findings import advice_line, advice_of, signatures_of, told
from lpft.reporting.findings import grouped as grouped_signatures
from lpft.reporting.judging import Judged
from lpft.reporting.results import MethodResult, is_reference, methods_of
from lpft.reporting.style import GRID, INK, MUTED, PAPER, looks
from lpft.reporting.sweeps import Variant, family_of, grouped, read_point, variants_of
from lpft.reporting.tables import (
    COMPARED,
    clients_compared,
    difference_rows,
    group_columns,
    group_rows,
    result_rows,
    summary_rows,
)
from lpft.reporting.tuned import Tuned, read_tuned
from lpft.reporting.words import (
    ADVICE_RULE,
    TERMS,
    describe_family,
    describe_method,
    headline,
    settings_not_from_the_paper,
    what_was_done,
)
from lpft.storage.run import Run

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
        "One large point per client and method, mean over seeds: how far its features moved from the global model's,"
        " and how much accuracy over all test sets was lost. Small points are evaluated epochs on the way there.",
    ),
    "depth": (
        "Where features moved",
        "How far the output of each layer moved from the global model's on the client's own test images, divided by the"
        " norm of the global model's, since layers differ in size; mean over clients and seeds, shaded one standard"
        " deviation over seeds. Methods that train no more than the head are not there: nothing moved.",
    ),
    "matrices": (
        "Every model on every test set",
        "Row: whose model. Column: whose test set. Framed: at home. Mean over seeds, one scale. All accuracies of this"
        " page are means over parts of these matrices; their numbers are in seed_*/METHOD/accuracy.csv.",
    ),
}
"""Title and explanation of every figure."""

SWEPT = {
    "tradeoff": " A line joins the settings of a sweep from the first (light) to the last (dark).",
    "clients": " A bar spans the settings of a sweep, its mark is their median.",
    "matrices": " Of a method with swept settings, those with the highest mean of Local and Global are shown.",
}
"""What is added to the explanation where methods have swept settings."""


LATER = ("curves", "clients", "distortion", "depth", "matrices")
"""The figures that come after the tables; the others come at once."""

Row = tuple[str, list[str]]
"""Name and entries."""
Groups = list[tuple[str, list[tuple[str, str, list[str]]]]]
"""Rows under the method whose variants they are, or under none: method, how it is called there, entries."""

DIFFERENCES = ("method", "Local", "Global", "worst", "average3", "clients better / same / worse", "n")
BY_GROUP = (
    "Accuracy in percent of the clients' own models on the test images of one group, mean over clients. The worst group"
    " is that of each model by itself, so its mean may be lower than all others in the row. A group of few images says"
    " little."
)
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
        groups: one row per method.
        judged: what the experiment's verdicts said.
        tuned: what tuning did; None if there was none.
        differences: comparisons seed by seed: the method compared with, and rows in columns `DIFFERENCES`.
        by_group: accuracies by group of samples: the test set, columns, and rows; none if the data have no groups.
        group_sizes: how many test samples the groups have.
        advice: what each client should do, in columns `ADVICE`; the last entry of a row tells whether to personalize.
        advice_line: the same summed up.
        methods: name and description of every method; variants of one are described together.
        colors: of the methods in the figures.
        method_colors: of those that are described.
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
    groups: Groups
    judged: Sequence[Judged]
    tuned: Tuned | None
    differences: list[tuple[str, Groups]]
    by_group: list[tuple[str, Sequence[str], Groups]]
    group_sizes: str
    advice: list[Row]
    advice_line: str
    methods: list[tuple[str, str]]
    colors: dict[str, str]
    method_colors: dict[str, str]
    terms: Mapping[str, str]
    clients_header: list[str]
    clients: list[Row]
    foreign: list[tuple[str, str, str]]
    config: str
    made_by: str
    svgs: Mapping[str, str]
    captions: Mapping[str, tuple[str, str]] = field(default_factory=lambda: CAPTIONS)
    later: Sequence[str] = LATER
    differences_header: Sequence[str] = DIFFERENCES
    by_group_rule: str = BY_GROUP
    advice_header: Sequence[str] = ADVICE
    advice_rule: str = ADVICE_RULE


def make_page(
    run: Run,
    results: Sequence[MethodResult],
    config: Mapping[str, Any],
    svgs: Mapping[str, str],
    judged: Sequence[Judged] = (),
    captions: Mapping[str, tuple[str, str]] | None = None,
) -> Page:
    """Collect what the report says.

    Args:
        run: the run.
        results: of all seeds and methods.
        config: the resolved experiment.
        svgs: the figures by name.
        judged: what the experiment's verdicts said.
        captions: title and explanation of figures that are not in `CAPTIONS`.
    """
    variants = variants_of(config)
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
            (name, found[0].advice, _first(told(found)))
            for name, found in grouped_signatures(signatures_of(run, results)).items()
        ],
        header=HEADER,
        groups=_grouped(comparison_rows(results), variants),
        judged=judged,
        tuned=read_tuned(read_point(run, results)),
        differences=[(name, _grouped(rows, variants)) for name in baselines if (rows := _differences(results, name))],
        by_group=[(title, header, _grouped(rows, variants)) for title, header, rows in _by_group(results)],
        group_sizes=_group_sizes(results),
        advice=[(advice.client, _advice_row(advice)) for advice in advices],
        advice_line=_advised(advices),
        methods=_described(methods, variants, config),
        colors={method: look[method].color for method in methods},
        method_colors={look[method].family: look[method].family_color for method in methods},
        terms=TERMS,
        clients_header=["client", "train", "val", "test", "global model", *methods],
        clients=[(name, _client_row(name, results, methods)) for name in names],
        foreign=settings_not_from_the_paper(config, len(seeds)),
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else "",
        made_by=made_by(config),
        svgs=svgs,
        captions={
            **{name: (title, text + SWEPT.get(name, "") * bool(variants)) for name, (title, text) in CAPTIONS.items()},
            **(captions or {}),
        },
    )


def to_html(page: Page) -> str:
    """Return the page as one HTML file without any reference to another."""
    return render("page.html", page=page, figures=with_captions(page.svgs, page.captions))


def render(template: str, **values: Any) -> str:
    """Fill in one of the templates beside this module."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values) + "\n"


def with_captions(svgs: Mapping[str, str], captions: Mapping[str, tuple[str, str]]) -> list[tuple[str, str, str, str]]:
    """Return name, title, explanation and SVG of every figure, ready for a page."""
    return [(name, *captions[name], inline_svg(svg, captions[name][0])) for name, svg in svgs.items()]


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
    figures = {name: figure_in_markdown(name, *page.captions[name]) for name in page.svgs}
    parts = [f"# {plain(page.title)}", page.lead, *map(plain, page.headline)]
    parts += ["## Comparison", "Accuracy in percent.", table(page.header, _flat(page.groups))]
    parts += ["\n".join(f"- **{plain(name)}**: {plain(text)}" for name, text in page.methods)]
    parts += verdicts_in_markdown(page.judged)
    parts += [text for name, figure in figures.items() if name not in page.later for text in figure]
    if page.tuned:
        parts += ["## Tuned and untuned", plain(page.tuned.rule)]
        parts += [table(page.tuned.compared_header, page.tuned.compared)]
        parts += ["All trials:", table(page.tuned.trials_header, page.tuned.trials)]
    parts += ["## Before you trust the numbers", "\n".join(f"- {plain(remark)}" for remark in page.remarks)]
    for name, advice, found in page.signatures:
        parts += [
            f"**{plain(name)}**",
            "\n".join(f"- {plain(line)}" for line in found),
            f"What to do: {plain(advice)}",
        ]
    for baseline, groups in page.differences:
        title = f"## Difference to {plain(baseline)}"
        parts += [title, "In points, seed by seed.", table(page.differences_header, _flat(groups))]
    if page.by_group:
        parts += ["## By group", plain(page.by_group_rule), plain(page.group_sizes)]
    for title, header, groups in page.by_group:
        parts += [f"**{plain(title)}**", table(header, _flat(groups))]
    if page.advice:
        parts += ["## Who should fine-tune", plain(page.advice_line), ADVICE_RULE]
        parts += [table(page.advice_header, page.advice)]
    parts += [text for name, figure in figures.items() if name in page.later for text in figure]
    parts += ["## Clients", "Local accuracy, mean over seeds.", table(page.clients_header, page.clients)]
    parts += ["## What the columns mean", "\n".join(f"- **{term}**: {text}" for term, text in page.terms.items())]
    parts += [
        "## Settings not from the paper",
        table(["setting", "value", "remark"], [(k, [v, r]) for k, v, r in page.foreign]),
    ]
    return "\n\n".join([*parts, plain(page.made_by)]) + "\n"


def figure_in_markdown(name: str, title: str, text: str) -> list[str]:
    """Return heading, link and explanation of a figure."""
    return [f"## {plain(title)}", f"![{plain(title)}](figures/{name}.svg)", plain(text)]


def verdicts_in_markdown(judged: Sequence[Judged]) -> list[str]:
    """Return what the verdicts said; nothing if there are none."""
    parts = ["## Verdict"] if judged else []
    for each in judged:
        parts.append(f"**{plain(each.name)}**: {plain(each.lines[0])}")
        parts += ["\n".join(f"- {plain(line)}" for line in each.lines[1:])] if len(each.lines) > 1 else []
    return parts


def _grouped(rows: Sequence[Row], variants: Mapping[str, Variant]) -> Groups:
    """Put the rows of variants under the method that they are of."""
    entries = dict(rows)
    return [
        (family, [(m, variants[m].label if family else m, entries[m]) for m in members])
        for family, members in grouped(entries, variants)
    ]


def _flat(groups: Groups) -> list[Row]:
    """Return rows that carry the method's name with the variant's."""
    return [(f"{family}: {name}" if family else name, entries) for family, rows in groups for _, name, entries in rows]


def _described(
    methods: Sequence[str], variants: Mapping[str, Variant], config: Mapping[str, Any]
) -> list[tuple[str, str]]:
    families: dict[str, list[str]] = {}
    for method in methods:
        families.setdefault(family_of(method, variants), []).append(method)
    return [
        (name, describe_family(name, [variants[member].values for member in members], members, config))
        if members[0] in variants
        else (name, describe_method(name, config))
        for name, members in families.items()
    ]


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


def _by_group(results: Sequence[MethodResult]) -> list[tuple[str, Sequence[str], list[Row]]]:
    """Return for both kinds of test sets a title, columns, and mean and standard deviation over seeds by method."""
    rows = group_rows(results)
    columns = group_columns(cell for result in results for cell in result.cells) if rows else []
    titles = {"local": "On the client's own test set", "all": "On the test sets of all clients together"}
    found: list[tuple[str, Sequence[str], list[Row]]] = []
    for where in titles if columns else ():
        own = [column for column in columns if column.split("/")[0] in (f"worst_group_{where}", f"group_{where}")]
        entries: dict[str, list[str]] = {}
        for row in summary_rows(rows, methods_of(results), own):
            entries.setdefault(row["method"], []).append(mean_and_std(row, "{:.1f}"))
        header = ("method", "worst group", *(column.partition("/")[2] for column in own[1:]))
        found.append((titles[where], header, list(entries.items())))
    return found


def _group_sizes(results: Sequence[MethodResult]) -> str:
    """Say how many test samples each group has, at a client and altogether."""
    cells = {cell.client: cell for result in results for cell in result.cells if cell.groups}
    sizes: dict[str, list[int]] = {}
    for cell in cells.values():
        for name, figures in (cell.groups or {}).items():
            sizes.setdefault(name, []).append(figures["num_local"])
    told = "; ".join(f"{name} {sum(found)} ({_span(found)} at a client)" for name, found in sizes.items())
    return f"Test images of each group: {told}." if told else ""


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


def made_by(config: Mapping[str, Any]) -> str:
    """Return the versions that a run was made with, as a sentence without its stop."""
    program = config.get("provenance")
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


def table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table in Markdown."""
    lines = [[plain(entry) for entry in line] for line in (header, *([name, *entries] for name, entries in rows))]
    lines.insert(1, ["---", *("---:" for _ in header[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Keep Markdown from reading anything into a text: names come from outside."""
    text = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
