"""The report of a run or a sweep: report.html, which is self-contained, and report.md, which links the figures.

This module collects what the templates show; it computes no diagnostics and draws nothing.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from pandas import DataFrame

from lpft.evaluation.convergence import judge_convergence
from lpft.evaluation.metrics import Metric, metric_named, shown_metrics
from lpft.evaluation.recommend import Recommendation
from lpft.reporting import english
from lpft.reporting.analysis import Analysis, Sweep
from lpft.reporting.console import comparison_rows, exceptions, incomplete
from lpft.reporting.drawing import Drawing
from lpft.reporting.figures import drawings
from lpft.reporting.judging import Judged, Spread
from lpft.reporting.results import provenance
from lpft.reporting.style import GRID, INK, MUTED, PAPER, looks
from lpft.reporting.sweep_figures import point_drawings
from lpft.reporting.sweeps import family_of, grouped, label, short_keys, swept, word
from lpft.storage.atomic import write_atomically

COMPARED = ("local", "global_all", "worst_row", "average3")
"""The metrics in which methods are compared seed by seed."""
OF_POINTS = ("local", "global_all", "worst_row", "average3", "distortion_own")
"""The metrics that have a table in the report of a sweep."""
OF_TUNING = ("local", "global_all", "average3")
TEST_SETS = {"local": "On the client's own test set", "all": "On the test sets of all clients together"}
MANY_LINES = 8
"""So many lines of one diagnostic are listed."""

Rows = list[tuple[str, list[str]]]
"""Method (or client) and entries."""
Groups = list[tuple[str, list[tuple[str, str, list[str]]]]]
"""Name of a swept method, or empty; method, its name in the group, entries."""


def write_page(analysis: Analysis, svgs: Mapping[str, str], judged: Sequence[Judged] = ()) -> Path:
    """Write report.html and report.md of a run.

    Args:
        analysis: of the run.
        svgs: its figures by name.
        judged: its verdicts.

    Returns:
        The path of report.html.
    """
    return _write(analysis.run.root, "page", run_page(analysis, svgs, judged))


def write_sweep_page(sweep: Sweep, svgs: Mapping[str, str], judged: Sequence[Judged] = ()) -> Path:
    """Write report.html and report.md of a sweep; see `write_page`."""
    return _write(sweep.run.root, "sweep", sweep_page(sweep, svgs, judged))


def run_page(analysis: Analysis, svgs: Mapping[str, str], judged: Sequence[Judged] = ()) -> dict[str, Any]:
    """Return what the templates ``page.html`` and ``page.md`` show."""
    config, methods, variants = analysis.config, analysis.methods, analysis.variants
    look = looks(methods, config)
    baselines = dict.fromkeys(name for name in (analysis.reference, *(b for _, b in analysis.pairs)) if name)
    diagnostics = english.by_name(analysis.diagnostics)
    return {
        **_common(config, analysis.run.root.name, judged, svgs, drawings(analysis)),
        "lead": english.lead(config, len(analysis.client_names), analysis.seeds),
        "headline": english.headline(analysis.summary, analysis.reference),
        "recommendation": english.recommendation_line(analysis.client_recommendations),
        "recommendation_rule": english.say("recommendation", "rule"),
        "recommendations": [_recommendation_row(entry) for entry in analysis.client_recommendations],
        "table_header": ["method", *(metric.title for metric in shown_metrics()), "n"],
        "groups": _grouped(analysis, comparison_rows(analysis)),
        "colors": {method: look[method].color for method in methods},
        "method_colors": {look[method].family: look[method].family_color for method in methods},
        "methods": _descriptions(analysis),
        "metrics": shown_metrics(),
        "tuning": _tuning(analysis),
        "remarks": [*incomplete(analysis), *exceptions(analysis)],
        "num_seeds": len(analysis.seeds),
        "diagnostics": [(name, english.located(own), english.remedy(name)) for name, own in diagnostics.items()],
        "max_lines": MANY_LINES,
        "compared": [metric_named(name) for name in COMPARED],
        "differences": [
            (name, _grouped(analysis, rows)) for name in baselines if (rows := _differences(analysis, name))
        ],
        "by_group": _by_group(analysis),
        "group_sizes": _group_sizes(analysis.groups),
        "clients_header": ["client", "train", "val", "test", "global model", *methods],
        "clients": _client_rows(analysis),
        "swept": bool(variants),
    }


def sweep_page(sweep: Sweep, svgs: Mapping[str, str], judged: Sequence[Judged] = ()) -> dict[str, Any]:
    """Return what the templates ``sweep.html`` and ``sweep.md`` show."""
    points, keys = sweep.points, swept(sweep.config)
    methods = list(dict.fromkeys(method for point in points for method in point.complete_methods))
    first_with = {method: next(p for p in points if method in p.complete_methods) for method in methods}
    seeds = sorted({seed for point in points for seed in point.seeds})
    names = short_keys(list(keys))
    return {
        **_common(sweep.config, sweep.run.root.name, judged, svgs, point_drawings(points)),
        "keys": [(names[key], [word(value) for value in values]) for key, values in keys.items()],
        "num_points": len(points),
        "num_planned": sweep.num_planned,
        "seeds": seeds,
        "num_seeds": len(seeds),
        "only_point": english.lead(points[0].config, len(points[0].client_names), seeds) if len(points) == 1 else "",
        "table_header": ["point", *methods, "n"],
        "tables": [(metric_named(name), _point_rows(sweep, methods, metric_named(name))) for name in OF_POINTS],
        "missing": sweep.missing,
        "incomplete": [(point.label, line) for point in points for line in incomplete(point)],
        "not_converged": [point.label for point in points if not _converged(point)],
        "methods": [(method, english.describe_method(method, point.config)) for method, point in first_with.items()],
        "metrics": [metric_named(name) for name in OF_POINTS],
    }


def _common(
    config: Mapping[str, Any],
    name: str,
    judged: Sequence[Judged],
    svgs: Mapping[str, str],
    available: Mapping[str, Drawing],
) -> dict[str, Any]:
    record = provenance(config)
    versions = {key: record[key] for key in ("torch", "lightning", "python", "git", "device") if record.get(key)}
    return {
        "title": str(config.get("name") or name),
        "judged": judged,
        "figures": [(available[name], inline_svg(svg, available[name].title)) for name, svg in svgs.items()],
        "settings": [(key.replace(".init_args.", "."), str(value)) for key, value in english.flat(_settings(config))],
        "config": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else "",
        "made_by": ", ".join([f"lpft {record.get('version', '')}".strip(), *(f"{k} {v}" for k, v in versions.items())]),
    }


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that decide the results."""
    sections = ("data", "augment", "network", "federation", "personalization", "methods")
    return {name: config[name] for name in sections if isinstance(config.get(name), Mapping)}


# Rows


def _grouped(analysis: Analysis, rows: Mapping[str, list[str]]) -> Groups:
    """Group the rows of variants under their method."""
    return [
        (family, [(m, analysis.variants[m].label if family else m, rows[m]) for m in members])
        for family, members in grouped(list(rows), analysis.variants)
    ]


def _descriptions(analysis: Analysis) -> list[tuple[str, str]]:
    families: dict[str, list[str]] = {}
    for method in analysis.methods:
        families.setdefault(family_of(method, analysis.variants), []).append(method)
    return [
        (name, english.describe_family([analysis.variants[m].values for m in members], members, analysis.config))
        if members[0] in analysis.variants
        else (name, english.describe_method(name, analysis.config))
        for name, members in families.items()
    ]


def _differences(analysis: Analysis, baseline: str) -> dict[str, list[str]]:
    """Return mean and standard deviation of every method's differences to a baseline, and how many clients gained."""
    rows = {}
    for method in analysis.complete_methods:
        gaps = [Spread.of(analysis.differences(method, baseline, name)) for name in COMPARED]
        if method != baseline and gaps[0].n:
            clients = " / ".join(map(str, analysis.clients_compared(method, baseline)))
            rows[method] = [*(f"{gap:+.1f}" for gap in gaps), clients, str(gaps[0].n)]
    return rows


def _by_group(analysis: Analysis) -> list[tuple[str, list[str], Groups]]:
    """Return for both kinds of test sets a title, columns, and mean and standard deviation over seeds by method."""
    tables = []
    complete = analysis.results[analysis.results["complete"]]
    frame = analysis.groups.merge(complete[["seed", "method"]], on=["seed", "method"])
    for test_set, title in TEST_SETS.items() if len(frame) else ():
        own = frame[frame["test_set"] == test_set]
        means = own.groupby(["method", "group", "seed"], sort=False)["accuracy"].mean()
        names = list(dict.fromkeys(own["group"]))
        rows = {
            method: [
                f"{Spread.of(analysis.by_seed(method, f'worst_group_{test_set}')):.1f}",
                *(f"{Spread.of(means[method, name].dropna()):.1f}" for name in names),
            ]
            for method in analysis.complete_methods
        }
        tables.append((title, ["method", "worst group", *names], _grouped(analysis, rows)))
    return tables


def _group_sizes(groups: DataFrame) -> list[tuple[str, int, str]]:
    """Return for every group the number of test samples of all clients, and how many a client has."""
    rows = groups[groups["test_set"] == "local"].drop_duplicates(["client", "group"])
    return [(str(n), int(own.sum()), _span(own)) for n, own in rows.groupby("group", sort=False)["num_samples"]]


def _recommendation_row(entry: Recommendation) -> tuple[str, list[str]]:
    gain = "-" if entry.gain is None else f"{entry.gain:+.1f} ± {entry.standard_error:.1f}"
    values = (entry.val_before, entry.val_after, entry.test_before, entry.test_recommended)
    val_before, val_after, test_before, test_recommended = (_text([value]) for value in values)
    row = [str(entry.num_val), val_before, entry.best_method, val_after, gain, entry.recommendation]
    return entry.client, [*row, test_before, test_recommended]


def _tuning(analysis: Analysis) -> dict[str, Any] | None:
    """Return the rule of tuning, tuned and untuned methods side by side, and all trials; None without tuning."""
    trials = analysis.trials
    if trials.empty:
        return None
    counts = sorted(trials.groupby("method").size().unique())
    number = f"{counts[0]} trials" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} trials"
    criterion = str(trials["criterion"].iloc[0])
    criterion = (
        english.say("tuning", "criteria", criterion) if english.has("tuning", "criteria", criterion) else criterion
    )
    return {
        "rule": english.say("tuning", "rule", trials=number, seeds=analysis.run.tuning.seeds(), criterion=criterion),
        "compared": [row for name, chosen in analysis.tuned.items() for row in _tuned_rows(analysis, name, chosen)],
        "trials": [_trial_row(trial) for trial in trials.to_dict("records")],
    }


def _tuned_rows(analysis: Analysis, name: str, chosen: Mapping[str, Any]) -> Rows:
    """Return a tuned method, untuned and tuned, and their difference seed by seed."""
    base = name.removesuffix("_tuned")
    rows: Rows = []
    for method, settings in ((base, "untuned"), (name, label(chosen) or "as untuned: nothing was better")):
        if method in analysis.complete_methods:
            spreads = [Spread.of(analysis.by_seed(method, metric)) for metric in OF_TUNING]
            rows.append((method, [settings, *(f"{spread:.1f}" for spread in spreads), str(spreads[0].n)]))
    if len(rows) == 2:
        gaps = [Spread.of(analysis.differences(name, base, metric)) for metric in OF_TUNING]
        rows.append(("", ["difference", *(f"{gap:+.1f}" for gap in gaps), str(gaps[0].n)]))
    return rows


def _trial_row(trial: Mapping[Any, Any]) -> tuple[str, list[str]]:
    try:
        settings = label(json.loads(trial["settings"])) or "untuned"
    except (ValueError, AttributeError):
        settings = str(trial["settings"])
    numbers = []
    for name in ("val_local", "val_global", "score"):
        try:
            numbers.append(f"{float(trial[name]):.2f}")
        except ValueError:
            numbers.append(str(trial[name]))
    diverged = str(trial.get("diverged") or "0") not in ("0", "nan")
    notes = [note for note, holds in (("chosen", trial["chosen"] == "1"), ("diverged", diverged)) if holds]
    return str(trial["method"]), [str(trial["trial"]), settings, *numbers, ", ".join(notes)]


def _client_rows(analysis: Analysis) -> Rows:
    """Return sample counts, the global model's accuracy, and each method's with every status that is not ok."""
    rows = []
    for client, frame in analysis.clients.groupby("client", sort=False):
        counts = [_span(frame[name].dropna()) for name in ("num_train", "num_val", "num_test")]
        before = _text(frame.drop_duplicates("seed")["local_before"])
        entries = []
        for method in analysis.methods:
            own = frame[frame["method"] == method]
            statuses = sorted({*own["status"]} - {"ok", "missing", "damaged"})
            entries.append(" ".join([_text(own["local"]), *(f"({status})" for status in statuses)]))
        rows.append((str(client), [*counts, before, *entries]))
    return rows


def _point_rows(sweep: Sweep, methods: Sequence[str], metric: Metric) -> list[tuple[str, str, list[str]]]:
    """Return label, link to the point's report, and entries of one metric."""
    rows = []
    for point in sweep.points:
        spreads = [Spread.of(point.by_seed(method, metric.name)) for method in methods]
        entries = [metric.text(spread.mean, spread.std, spread.n) for spread in spreads]
        seeds = point.results.loc[point.results["complete"], "seed"].nunique()
        link = quote(str((point.run.root / "report.html").relative_to(sweep.run.root)))
        rows.append((point.label, link, [*entries, str(seeds)]))
    return rows


def _converged(point: Analysis) -> bool:
    curves = [[row.get("val_accuracy") for row in rounds] for rounds in point.histories.values() if rounds]
    return all(judge_convergence(curve).converged for curve in curves)


def _text(values: Iterable[Any]) -> str:
    numbers = [float(value) for value in values if value is not None and not math.isnan(float(value))]
    return f"{math.fsum(numbers) / len(numbers):.1f}" if numbers else "-"


def _span(values: Iterable[Any]) -> str:
    numbers = [int(value) for value in values]
    if not numbers:
        return "-"
    return str(numbers[0]) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


# Templates


def _write(folder: Path, template: str, page: Mapping[str, Any]) -> Path:
    for suffix in ("html", "md"):
        write_atomically(folder / f"report.{suffix}", render(f"{template}.{suffix}", page))
    return folder / "report.html"


def render(template: str, page: Mapping[str, Any]) -> str:
    """Fill in one of the templates beside this module; HTML is escaped."""
    text = _environment().get_template(template).render(page)
    return text + "\n" if template.endswith(".html") else re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"plain": plain, "n": lambda number, noun: f"{number} {noun}{'' if number == 1 else 's'}"}
    return environment


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


def plain(text: object) -> str:
    """Escape a text for Markdown and HTML: names come from outside."""
    escaped = " ".join(html.escape(str(text), quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)
