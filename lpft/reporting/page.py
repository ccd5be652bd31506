"""The report of a run or a sweep: report.html, which is self-contained, and report.md, which links the figures.

This module collects what the templates show; it computes no diagnostics and draws nothing.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from pandas import DataFrame, isna, read_csv

from lpft.evaluation.certainty import Estimate, estimate
from lpft.evaluation.metric import mean
from lpft.evaluation.metrics import metric_named, shown_metrics
from lpft.evaluation.recommend import Recommendation
from lpft.reporting import held_out, ladder, sentences, tradeoff
from lpft.reporting.analysis import Analysis, Sweep
from lpft.reporting.console import (
    comparison_header,
    comparison_rows,
    exceptions,
    in_process_note,
    incomplete,
    incomplete_points,
    mean_entries,
    num_seeds,
    percent_note,
)
from lpft.reporting.drawing import Drawing
from lpft.reporting.experiment import (
    Experiment,
    flat,
    group_by,
    grouped,
    label,
    measure_word,
    section,
    short_keys,
    word,
)
from lpft.reporting.formatting import estimate_text, number
from lpft.reporting.frames import COUNTS, complete_rows
from lpft.reporting.references import gains, gains_line, reference_rows, rows_apart
from lpft.reporting.style import GRID, INK, MUTED, PAPER
from lpft.reporting.sweep_figures import DRAWN
from lpft.reporting.verdicts import NamedVerdict
from lpft.storage.atomic import write_atomically

COMPARED = ("local", "global_all", "worst_row", "average3")
"""The metrics in which methods are compared seed by seed."""
OF_TUNING = ("local", "global_all", "average3")
TUNING_HEADER = ("method", "chosen settings", "Local", "Global", "average3", "n")
TRIALS_HEADER = ("method", "trial", "settings", "val local", "val global", "score", "")
RECOMMENDATIONS_HEADER = (
    *("client", "val samples", "global model", "best method", "its accuracy", "gain", "recommendation"),
    *("test: global", "test: recommended"),
)
TEST_SETS = {"local": "On the client's own test set", "all": "On the test sets of all clients together"}
SETTINGS = ("data", "augment", "network", "federation", "personalization", "methods")
"""The sections of the configuration that decide the results."""

Rows = list[tuple[str, list[str]]]
"""Method (or client) and entries."""
Groups = list[tuple[str, list[tuple[str, str, list[str]]]]]
"""Name of a swept method, or empty; method, its name in the group, entries."""


def write_page(analysis: Analysis, drawings: Iterable[Drawing], verdicts: Sequence[NamedVerdict] = ()) -> Path:
    """Write report.html and report.md of a run.

    Args:
        analysis: of the run.
        drawings: its figures; those that have nothing to show are left out.
        verdicts: its verdicts.

    Returns:
        The path of report.html.
    """
    shared = _shared(analysis.experiment.config, analysis.run.root.name, verdicts, drawings)
    return _write(analysis.run.root, "page", {**shared, **_run_page(analysis)})


def write_sweep_page(sweep: Sweep, drawings: Iterable[Drawing], verdicts: Sequence[NamedVerdict] = ()) -> Path:
    """Write report.html and report.md of a sweep; see `write_page`."""
    shared = _shared(sweep.config, sweep.run.root.name, verdicts, drawings)
    return _write(sweep.run.root, "sweep", {**shared, **_sweep_page(sweep)})


def _write(folder: Path, template: str, page: Mapping[str, Any]) -> Path:
    environment = sentences.environment(Path(__file__).parent / "templates")
    text = environment.get_template(f"{template}.html").render(page)
    write_atomically(folder / "report.html", text + "\n")
    text = environment.get_template(f"{template}.md").render(page)
    write_atomically(folder / "report.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return folder / "report.html"


def _shared(
    config: Mapping[str, Any], name: str, verdicts: Sequence[NamedVerdict], drawings: Iterable[Drawing]
) -> dict[str, Any]:
    """Return what all templates show."""
    settings = flat({key: section(config, key) for key in SETTINGS})
    return {
        "title": str(config.get("name") or name),
        "verdicts": verdicts,
        "figures": [(drawing, inline_svg(drawing.svg, drawing.title)) for drawing in drawings if drawing.svg],
        "settings": [(key.replace(".init_args.", "."), [str(value)]) for key, value in settings],
        "config": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else "",
        "record": section(config, "provenance"),
    }


def inline_svg(svg: str, title: str) -> str:
    """Convert an SVG file for embedding in a page: no prolog, no fixed size, and the page's colours for light and dark.

    A figure of one plot takes the width of the page; one of several panels scrolls where it would become too small.
    """
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, content = body[: body.index(">") + 1], body[body.index(">") + 1 :]
    width = re.search(r'viewBox="0 0 ([\d.]+)', opening)
    natural = float(width[1]) * 4 / 3 if width else 720
    size = f"max-width: {1.15 * natural:.0f}px" if natural < 560 else f"max-width: {natural:.0f}px; min-width: 544px"
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    opening = opening.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}" style="{size}"', 1)
    for color, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "line"), (PAPER, "card")):
        content = content.replace(color, f"var(--{name})")
    return opening + content


# A run


def _run_page(analysis: Analysis) -> dict[str, Any]:
    """Return what the templates ``page.html`` and ``page.md`` show."""
    experiment, frames, look = analysis.experiment, analysis.frames, analysis.looks
    results = (sentences.result(analysis.certainty), sentences.result_at_equal_local(analysis.tradeoff))
    differences = {name: _differences(analysis, name) for name in analysis.certainty.references}
    titles = [metric_named(name).title for name in COMPARED]
    diagnostics = sentences.by_name(analysis.diagnostics)
    apart = {*reference_rows(experiment.config), *rows_apart(experiment.config)} - {experiment.reference}
    return {
        "lead": sentences.lead(experiment.config, len(experiment.client_names), experiment.seeds),
        "result": " ".join(filter(None, results)),
        "equal_local": tradeoff.equal_local_rows(analysis.tradeoff),
        "equal_local_header": tradeoff.HEADER,
        "equivalence": f"{analysis.certainty.equivalence:g}",
        "percent_note": percent_note(experiment.config),
        "in_process_note": in_process_note(experiment.config),
        "interval_note": sentences.interval_note(analysis.certainty),
        "headline": sentences.headline(
            frames.summary[~frames.summary["method"].isin(apart)],
            experiment.reference,
            alone=len(experiment.client_names) == 1,
        ),
        "gains": gains_line(gains(analysis)),
        "recommendation": sentences.recommendation_line(analysis.recommendations),
        "recommendation_rule": sentences.render(
            "recommendation", "rule", measure=measure_word(analysis.experiment.config)
        ),
        "recommendations_header": RECOMMENDATIONS_HEADER,
        "recommendations": [_recommendation_row(entry) for entry in analysis.recommendations],
        "table_header": ["method", *comparison_header(analysis)],
        "groups": _grouped(experiment, comparison_rows(analysis)),
        "colors": {method: look[method].color for method in experiment.methods},
        "method_colors": {look[method].family: look[method].family_color for method in experiment.methods},
        "methods": _descriptions(experiment),
        "ladder": ladder.ladder_rows(analysis.ladder),
        "ladder_header": ladder.HEADER,
        "metrics": shown_metrics(),
        "tuning": _tuning(analysis),
        "remarks": [*incomplete(analysis), *exceptions(analysis)],
        "num_seeds": len(experiment.seeds),
        "diagnostics": [(name, sentences.located(of), sentences.remedy(name)) for name, of in diagnostics.items()],
        "differences_header": ["method", *titles, "clients better / same / worse", "n"],
        "differences": [(name, _grouped(experiment, rows)) for name, rows in differences.items() if rows],
        "held_out": held_out.held_out_rows(analysis.held_out),
        "held_out_header": held_out.HEADER,
        "by_group": _by_group(analysis),
        "group_sizes": _group_sizes(frames.groups),
        "clients_header": ["client", "train", "val", "test", "global model", *experiment.methods],
        "clients": _client_rows(analysis),
    }


def _grouped(experiment: Experiment, rows: Mapping[str, list[str]]) -> Groups:
    """Group the rows of variants under their method."""
    return [
        (family, [(m, experiment.variants[m].label if family else m, rows[m]) for m in members])
        for family, members in grouped(list(rows), experiment.variants)
    ]


def _descriptions(experiment: Experiment) -> list[tuple[str, str]]:
    """Return every method, or all its variants together, with a description."""
    variants, config = experiment.variants, experiment.config
    descriptions = []
    for name, members in experiment.families(experiment.methods).items():
        swept = [method for method in members if method in variants]  # beside those of an earlier plain row
        values = [variants[method].values for method in swept]
        text = sentences.describe_family(values, swept, config) if swept else sentences.describe_method(name, config)
        descriptions.append((name, text))
    return descriptions


def _differences(analysis: Analysis, baseline: str) -> dict[str, list[str]]:
    """Return every method's differences to a baseline with intervals and verdicts, and how many clients gained."""
    comparisons, rows = analysis.certainty.comparisons, {}
    for method in analysis.experiment.complete_methods:
        by_metric = [comparisons.get((method, baseline, metric)) for metric in COMPARED]
        if by_metric[0] is not None:
            entries = [f"{estimate_text(c.estimate, '+.1f')} {c.verdict}" if c else "-" for c in by_metric]
            counts = " / ".join(map(str, clients_compared(analysis, method, baseline)))
            rows[method] = [*entries, counts, str(by_metric[0].estimate.num_seeds)]
    return rows


def clients_compared(analysis: Analysis, method: str, baseline: str) -> tuple[int, int, int]:
    """Count the clients whose Local, mean over the seeds that have both methods, is higher, equal and lower."""
    change = analysis.certainty.gaps(method, baseline, "local").mean().round(9)
    return int((change > 0).sum()), int((change == 0).sum()), int((change < 0).sum())


def _by_group(analysis: Analysis) -> list[tuple[str, list[str], Groups]]:
    """Return for both kinds of test sets a title, columns, and means with intervals by method."""
    groups, methods = analysis.frames.groups, analysis.experiment.complete_methods
    tables = []
    for test_set, title in TEST_SETS.items() if len(groups) else ():
        on_test_set = groups[groups["test_set"] == test_set]
        names = list(on_test_set["group"].unique())
        rows = {}
        for method in methods:
            complete = complete_rows(analysis.frames, on_test_set, method)
            estimates = [analysis.certainty.estimates[method, f"worst_group_{test_set}"]]
            for name in names:
                of_group = complete[complete["group"] == name]
                estimates.append(estimate(of_group.pivot(index="seed", columns="client", values="accuracy")))
            rows[method] = [estimate_text(e) for e in estimates]
        tables.append((title, ["method", "worst group", *names], _grouped(analysis.experiment, rows)))
    return tables


def _group_sizes(groups: DataFrame) -> list[tuple[str, int, str]]:
    """Return for every group the number of test samples of all clients, and how many a client has."""
    rows = groups[groups["test_set"] == "local"].drop_duplicates(["client", "group"])
    sizes = rows.groupby("group", sort=False)["num_samples"]
    return [(str(group), int(of_clients.sum()), _span(of_clients)) for group, of_clients in sizes]


def _recommendation_row(entry: Recommendation) -> tuple[str, list[str]]:
    """Return a client, its accuracy before and after with the best method, gain, recommendation and test results."""
    gain = "-" if entry.gain is None else f"{number(entry.gain, '+.1f')} ± {entry.standard_error:.1f}"
    values = (entry.val_before, entry.val_after, entry.test_before, entry.test_recommended)
    val_before, val_after, test_before, test_recommended = (_mean([value]) for value in values)
    row = [str(entry.num_val), val_before, entry.best_method, val_after, gain, entry.recommendation]
    return entry.client, [*row, test_before, test_recommended]


def _tuning(analysis: Analysis) -> dict[str, Any] | None:
    """Return the rule of tuning, tuned and untuned methods side by side, and all trials; None without tuning."""
    path = analysis.run.root / "tuning.csv"
    trials = read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else DataFrame()
    if trials.empty:
        return None
    num_trials = f"{_span(trials['method'].value_counts())} trials"
    criterion = str(trials["criterion"].iloc[0])
    criterion = sentences.texts("tuning", "criteria").get(criterion, criterion)
    tuned = section(analysis.experiment.config, "provenance", "tuned")
    return {
        "rule": sentences.render(
            "tuning", "rule", trials=num_trials, seeds=analysis.run.tuning.seeds(), criterion=criterion
        ),
        "header": TUNING_HEADER,
        "compared": [row for name, chosen in tuned.items() for row in _tuned_rows(analysis, str(name), chosen or {})],
        "trials_header": TRIALS_HEADER,
        "trials": [_trial_row(trial) for trial in trials.to_dict("records")],
    }


def _tuned_rows(analysis: Analysis, name: str, chosen: Mapping[str, Any]) -> Rows:
    """Return a tuned method, untuned and tuned, and their difference seed by seed."""
    base = name.removesuffix("_tuned")
    settings = {base: "untuned", name: label(chosen) or "as untuned: nothing was better"}
    rows = [
        (method, [text, *_entries([analysis.certainty.estimates[method, metric] for metric in OF_TUNING], ".1f")])
        for method, text in settings.items()
        if method in analysis.experiment.complete_methods
    ]
    if len(rows) == 2:
        gaps = [estimate(analysis.certainty.gaps(name, base, metric)) for metric in OF_TUNING]
        rows.append(("", ["difference", *_entries(gaps, "+.1f")]))
    return rows


def _entries(estimates: Sequence[Estimate], form: str) -> list[str]:
    """Return estimates as text, then the number of seeds."""
    return [*(estimate_text(e, form) for e in estimates), str(estimates[0].num_seeds)]


def _trial_row(trial: Mapping[Any, str]) -> tuple[str, list[str]]:
    try:
        settings = label(json.loads(trial["settings"])) or "untuned"
    except (ValueError, AttributeError):
        settings = trial["settings"]
    numbers = [_rounded(trial[name]) for name in ("val_local", "val_global", "score")]
    diverged = trial.get("diverged", "0") not in ("", "0", "nan")
    notes = [note for note, holds in (("chosen", trial["chosen"] == "1"), ("diverged", diverged)) if holds]
    return trial["method"], [trial["trial"], settings, *numbers, ", ".join(notes)]


def _rounded(text: str) -> str:
    try:
        return f"{float(text):.2f}"
    except ValueError:
        return text


def _client_rows(analysis: Analysis) -> Rows:
    """Return sample counts, the global model's accuracy, and each method's with every status that is not ok."""
    columns = ["client", "seed", "method", "status", *COUNTS, "local_before", "local"]
    clients: list[dict[Any, Any]] = analysis.frames.clients[columns].to_dict("records")
    rows = []
    for client, records in group_by(clients, itemgetter("client")).items():
        entries = [_span(record[name] for record in records if not isna(record[name])) for name in COUNTS]
        first_of_seed = {record["seed"]: record["local_before"] for record in reversed(records)}
        entries.append(_mean(first_of_seed.values()))
        by_method = group_by(records, itemgetter("method"))
        for method in analysis.experiment.methods:
            of_method = by_method.get(method, [])
            statuses = sorted({record["status"] for record in of_method} - {"ok", "missing", "damaged"})
            accuracy = _mean(record["local"] for record in of_method)
            entries.append(" ".join([accuracy, *(f"({status})" for status in statuses)]))
        rows.append((client, entries))
    return rows


def _mean(values: Iterable[float | None]) -> str:
    value = mean(values)
    return "-" if math.isnan(value) else f"{value:.1f}"


def _span(numbers: Iterable[int]) -> str:
    values = list(numbers)
    if not values:
        return "-"
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


# A sweep


def _sweep_page(sweep: Sweep) -> dict[str, Any]:
    """Return what the templates ``sweep.html`` and ``sweep.md`` show."""
    points, keys = sweep.points, section(sweep.config, "sweep")
    configs: dict[str, dict[str, Mapping[str, Any]]] = {}  # by method and point
    for point in points:
        for method in point.experiment.complete_methods:
            configs.setdefault(method, {})[point.experiment.label] = point.experiment.config
    seeds = sorted({seed for point in points for seed in point.experiment.seeds})
    names = short_keys(list(keys))
    metrics = [metric_named(name) for name in DRAWN]
    first = points[0].experiment
    return {
        "keys": [(names[key], [word(value) for value in values]) for key, values in keys.items()],
        "num_points": len(points),
        "num_planned": sweep.num_planned,
        "seeds": seeds,
        "num_seeds": len(seeds),
        "num_global_models": len({_federation(point) for point in points}),
        "percent_note": percent_note(*(point.experiment.config for point in points)),
        "only_point": sentences.lead(first.config, len(first.client_names), seeds) if len(points) == 1 else "",
        "table_header": ["point", *configs, "n"],
        "tables": [
            (metric, [(p.experiment.label, [*mean_entries(p, configs, metric), num_seeds(p)]) for p in points])
            for metric in metrics
        ],
        "links": [
            (p.experiment.label, quote(str((p.run.root / "report.html").relative_to(sweep.run.root)))) for p in points
        ],
        "missing": sweep.missing,
        "incomplete": incomplete_points(points),
        "not_converged": [p.experiment.label for p in points if not all(c.converged for c in p.convergences)],
        "methods": [(method, sentences.describe_at_points(method, of_points)) for method, of_points in configs.items()],
        "metrics": metrics,
    }


def _federation(point: Analysis) -> str:
    """Return the settings of a point's global models; points of equal settings share them."""
    return json.dumps([entry for entry in point.run.settings() if entry[1] == "global"], sort_keys=True)
