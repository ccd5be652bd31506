"""The sentences of reports, rendered from the templates in sentences.yaml."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from pandas import DataFrame

from lpft.evaluation.diagnostics import Diagnostic
from lpft.evaluation.metric import mean
from lpft.evaluation.recommend import PERSONALIZE, Recommendation
from lpft.reporting.experiment import class_name, flat, group_by, measure_word, section
from lpft.reporting.formatting import comparison_text, estimate_text, interval_end, listed, number
from lpft.reporting.intervals import Certainty
from lpft.reporting.tradeoff import Tradeoff

DESCRIBED = ("epochs", "lp_epochs")
"""Settings that every description of a method contains."""


def render(*keys: str, **values: Any) -> str:
    """Render a template of sentences.yaml.

    >>> render("methods", "FT", epochs=1)
    'Full fine-tuning: all layers, 1 epoch.'
    """
    return " ".join(_template(keys).render(values).split())


@cache
def environment(folder: Path) -> jinja2.Environment:
    """Return the jinja2 environment of a folder: HTML is escaped, and filters format numbers.

    ``{{ x | f('.1f') }}`` formats, ``{{ x | n('seed') }}`` counts, ``{{ x | plain }}`` escapes for Markdown.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(["html"], default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {"f": number, "n": _count, "plain": plain, "interval_end": interval_end}
    templates.filters |= {"capital": capital, "estimate": estimate_text, "comparison": comparison_text}
    return templates


def capital(text: str) -> str:
    """Capitalize the first letter of a text.

    >>> capital("balanced accuracy"), capital("AUROC")
    ('Balanced accuracy', 'AUROC')
    """
    return text[:1].upper() + text[1:]


def plain(text: object) -> str:
    """Escape a text for Markdown and HTML, since names are user input."""
    escaped = " ".join(html.escape(str(text), quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@cache
def texts(*keys: str) -> Any:
    """Return a part of sentences.yaml."""
    if keys:
        return texts(*keys[:-1])[keys[-1]]
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@cache
def _template(keys: tuple[str, ...]) -> jinja2.Template:
    return environment(Path(__file__).parent).from_string(texts(*keys))


# Diagnostics and recommendations


def message(diagnostic: Diagnostic) -> str:
    """Describe a diagnostic with its numbers."""
    return render("diagnostics", diagnostic.name, "message", **diagnostic.numbers)


def remedy(name: str) -> str:
    """Return the remedy of a diagnostic."""
    return render("diagnostics", name, "remedy")


def diagnostic_lines(diagnostics: Iterable[Diagnostic]) -> list[str]:
    """Describe diagnostics in one line each: one for all methods, and one for all clients, with the same diagnostic."""
    lines = []
    for name, of_name in by_name(diagnostics).items():
        lines += [f"{name}: {line}" for line in located(d for d in of_name if d.client is None)]
        of_clients = [d for d in of_name if d.client is not None]
        clients = list(dict.fromkeys(str(d.client) for d in of_clients))
        if clients:
            several = f"{len(clients)} clients ({listed(clients)})" if len(clients) > 1 else "1 client"
            lines.append(f"{name}: {several}: {located(of_clients[:1])[0]}")
    return lines


def by_name(diagnostics: Iterable[Diagnostic]) -> dict[str, list[Diagnostic]]:
    """Group diagnostics by name."""
    return group_by(diagnostics, lambda diagnostic: diagnostic.name)


def located(diagnostics: Iterable[Diagnostic]) -> list[str]:
    """Describe diagnostics with seed, method and client in one line each: one for all methods that are alike."""
    lines = []
    for (*_, text), alike in group_by(diagnostics, lambda d: (d.client, d.seed, message(d))).items():
        place = alike[0].place + (f" and {len(alike) - 1} more" if len(alike) > 1 else "")
        lines.append(": ".join(part for part in (place, text) if part))
    return lines


def recommendation_line(recommendations: Sequence[Recommendation]) -> str:
    """Summarize the recommendations in one line; empty without any."""
    if not recommendations:
        return ""
    tested = [r for r in recommendations if r.test_recommended is not None and r.test_before is not None]
    return render(
        *("recommendation", "line"),
        num_clients=len(recommendations),
        personalized=sum(r.recommendation == PERSONALIZE for r in recommendations),
        without_validation=sum(r.gain is None for r in recommendations),
        recommended=mean(r.test_recommended for r in tested) if tested else None,
        before=mean(r.test_before for r in tested),
    )


# The experiment and its result


def lead(config: Mapping[str, Any], num_clients: int, seeds: Sequence[int]) -> str:
    """Describe the experiment in a few sentences, from its configuration."""
    federation = section(config, "federation")
    return render(
        "lead",
        num_clients=num_clients,
        seeds=seeds,
        network=class_name(config.get("network")),
        init=federation.get("init"),
        rounds=federation.get("rounds"),
        epochs=section(config, "personalization").get("epochs"),
    )


def interval_note(certainty: Certainty) -> str:
    """Explain the intervals and verdicts of a table of methods."""
    num_seeds = [certainty.estimates[method, "local"].num_seeds for method in certainty.experiment.complete_methods]
    return render(
        "interval_note",
        several_seeds=max(num_seeds, default=0) > 1,
        one_seed=1 in num_seeds,
        reference=certainty.main_reference,
        equivalence=f"{certainty.equivalence:g}",
    )


def result(certainty: Certainty) -> str:
    """State in one sentence how the pair of methods that an experiment is about compares, and how certain that is.

    Of a swept method, the verdicts are counted. Empty if there is no such pair, or one of them has no accuracy.
    """
    if certainty.main_pair is None:
        return _result_of_family(*certainty.main_family, certainty) if certainty.main_family else ""
    method, baseline = certainty.main_pair
    by_metric = {name: certainty.comparisons.get((method, baseline, name)) for name in ("local", "global_all")}
    if None in by_metric.values():
        return ""
    return render(
        "result",
        method=method,
        baseline="the global model" if baseline == certainty.global_model else baseline,
        measure=measure_word(certainty.experiment.config),
        num_methods=sum((name, baseline, "local") in certainty.comparisons for name in certainty.methods),
        alone=len(certainty.experiment.client_names) == 1,
        **by_metric,
    )


def result_at_equal_local(tradeoff: Tradeoff) -> str:
    """State how much Global the same pair keeps at equal Local.

    Empty if they have no curves or no Local in common, or if a single client has no others.
    """
    pair, alone = tradeoff.certainty.main_pair, len(tradeoff.certainty.experiment.client_names) == 1
    comparison = tradeoff.comparisons.get(pair) if pair else None
    if pair is None or comparison is None or not comparison.matched.overlaps or alone:
        return ""
    return render("result_at_equal_local", method=pair[0], baseline=pair[1], comparison=comparison)


def _result_of_family(rows: Sequence[str], baseline: str, certainty: Certainty) -> str:
    words = {}
    for name in ("local", "global_all"):
        comparisons = [certainty.comparisons.get((row, baseline, name)) for row in rows]
        words[name] = Counter(comparison.verdict for comparison in comparisons if comparison is not None)
    number = words["local"].total()
    family = certainty.experiment.variants[rows[0]].family
    return render("result_of_family", family=family, baseline=baseline, number=number, **words) if number else ""


def headline(summary: DataFrame, reference: str | None, alone: bool = False) -> str:
    """State the result in one sentence: the range of local and global accuracy, from the lowest to the highest method.

    Args:
        summary: the frame of that name.
        reference: the method that is the global model itself; None if there is none.
        alone: whether there is a single client, whose test set is also that of all.
    """
    ranges = {}
    for metric in ("local", "global_all"):
        means = summary[summary["metric"] == metric].set_index("method")["mean"].dropna()
        before = means.get(reference) if reference else None
        means = means[means.index != reference].sort_values(kind="stable")
        if means.empty:
            return ""
        low, high = means.index[0], means.index[-1]
        ranges[metric] = {"low": means[low], "lowest": low, "high": means[high], "highest": high, "before": before}
    return render("headline", alone=alone, **ranges)


def describe_method(method: str, config: Mapping[str, Any]) -> str:
    """Describe in one line what a method does, from its class and its settings."""
    description = _describe(section(config, "methods", method), config)
    return " ".join(part for part in (description, _difference(method, config)) if part)


def describe_at_points(method: str, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe what a method does at the points of a sweep; points with the same description share it.

    Args:
        method: name of the method.
        configs: the resolved experiments by the points' names.
    """
    points: dict[str, list[str]] = {}
    for name, config in configs.items():
        points.setdefault(describe_method(method, config), []).append(name)
    if len(points) == 1:
        return next(iter(points))
    return " ".join(f"{listed(names)}: {text}" for text, names in points.items())


def describe_family(values: Sequence[Mapping[str, Any]], methods: Sequence[str], config: Mapping[str, Any]) -> str:
    """Describe in one line what a method does, and which of its settings are swept.

    Args:
        values: the swept settings of every variant.
        methods: the variants.
        config: the resolved experiment.
    """
    settings = section(config, "methods", methods[0])
    swept = {key: list(dict.fromkeys(str(v[key]) for v in values if key in v)) for key in values[0]}
    init_args = {key: value for key, value in section(settings, "init_args").items() if key not in swept}
    description = _describe({**settings, "init_args": init_args}, config, swept_lp_epochs="lp_epochs" in swept)
    listed_values = "; ".join(f"{key} = {', '.join(words)}" for key, words in swept.items())
    return f"{description} Swept: {listed_values}."


def _describe(settings: Mapping[str, Any], config: Mapping[str, Any], swept_lp_epochs: bool = False) -> str:
    kind, init_args = class_name(settings), section(settings, "init_args")
    if not kind:
        return ""
    settings_shown = ", ".join(f"{key} = {value}" for key, value in flat(init_args))
    return render(
        *("methods", kind if kind in texts("methods") else "other"),
        class_name=kind,
        epochs=init_args.get("epochs") or section(config, "personalization").get("epochs"),
        lp_epochs=init_args.get("lp_epochs", 5),
        solved=init_args.get("lp_solver") == "logreg",
        swept_lp_epochs=swept_lp_epochs,
        settings=f" ({settings_shown})" if settings_shown else "",
    )


def _difference(method: str, config: Mapping[str, Any]) -> str:
    """State the differences from the method of the same class whose name this one extends; empty if there are none."""
    methods = section(config, "methods")
    kind = class_name(methods.get(method))
    bases = [name for name in methods if method.startswith(f"{name}_") and class_name(methods[name]) == kind]
    base = max(bases, key=len, default=None)
    if base is None or not isinstance(methods.get(method), Mapping):
        return ""
    of_method, of_base = (dict(flat(section(methods, name, "init_args"))) for name in (method, base))
    keys = [k for k in of_method | of_base if of_method.get(k) != of_base.get(k) and k not in DESCRIBED]
    return f"Unlike {base}: {', '.join(f'{key} = {of_method.get(key)}' for key in keys)}." if keys else ""
