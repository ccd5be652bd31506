"""Verdicts on the claims of arXiv:2511.12695, named in an experiment's ``verdicts`` by dotted path.

A verdict takes the analyses of a sweep's points (of one run: just one) and returns data; the templates beside this
module turn it into English. To add one, write such a function anywhere and name it:

    verdicts: [lpft.paper.verdicts.plateau, my.verdicts.fairness]

Every rule is applied to test accuracies as they are; no verdict chooses anything. Differences of two rows, or of a row
and the global model, are judged as everywhere in the report: by 95% intervals over seeds and clients, a region of
practical equivalence, and Holm's adjustment for the number of differences that the verdict is about. See
docs/certainty.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pandas import DataFrame

from lpft.evaluation.certainty import estimate
from lpft.evaluation.convergence import MAX_CHANGE
from lpft.evaluation.diagnostics import near_chance
from lpft.paper.evidence import (
    Coefficient,
    Row,
    accuracy_before,
    all_or_none,
    average_of,
    by_duration,
    by_layer,
    change_since,
    compare_by,
    compare_pairs,
    correlations,
    distortion_and_loss,
    evaluated_epochs,
    first_pair,
    flood_levels,
    gap_of,
    gap_of_families,
    is_better,
    is_kept,
    last_loss,
    mean_by_method,
    profile_of,
    trend,
)
from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import metric_name
from lpft.reporting.intervals import Key
from lpft.reporting.references import personalized_methods
from lpft.reporting.verdicts import Outcome, Verdict

MATCHED = 0.2
"""Share of the flood level that the achieved training loss may differ by."""
CONVERGED = 0.5
"""The global model counts as finished if it has converged for more than this share of the seeds."""


def overfitting(points: Sequence[Analysis]) -> Verdict:
    """F2: with which settings do clients overfit to their own data?"""
    rows: list[Row] = []
    changes: dict[str, dict[int, DataFrame]] = {"global_all": {}, "local": {}}
    for point in points:
        for method in personalized_methods(point.experiment):
            epochs = evaluated_epochs(point, method)
            if epochs is not None:
                for (metric, gaps), epoch in zip(changes.items(), epochs, strict=True):
                    gaps[len(rows)] = change_since(point, method, metric, epoch)
                variant = point.experiment.variants.get(method)
                family, setting = (variant.family, variant.label) if variant else ("", method)
                names = {"point": point.experiment.label, "family": family, "setting": setting}
                rows.append({**names, "since": epochs[0], "first": epochs[1]})
    comparisons = {metric: compare_by(gaps, metric, points) for metric, gaps in changes.items()}
    equivalence = points[0].certainty.equivalence
    for number, row in enumerate(rows):
        row |= {metric: of_rows[number] for metric, of_rows in comparisons.items()}
        undecided = is_better(row["global_all"]) is None
        forgets = None if undecided else row["global_all"].verdict == "worse"
        row["overfits"] = _both(forgets, is_kept(row["local"], equivalence))
    overfits = [row["overfits"] for row in rows]
    outcome: Outcome = "held" if True in overfits else "unclear" if None in overfits else "not held"
    numbers = {"overfitting": overfits.count(True), "undecided": overfits.count(None), "settings": len(rows)}
    return _verdict("overfitting", outcome if rows else "not judged", numbers | {"equivalence": equivalence}, rows)


def plateau(points: Sequence[Analysis]) -> Verdict:
    """E2: for how long should the head be trained alone?"""
    rows: list[Row] = []
    for point in points:
        average = average_of(point)
        for name, methods in by_duration(point).items():
            means = {duration: point.certainty.estimates[method, average] for duration, method in methods.items()}
            means = {duration: estimate for duration, estimate in means.items() if estimate.num_seeds}
            if means:
                gaps = _gaps_to_best(point, {duration: methods[duration] for duration in means}, average)
                top = next(duration for duration in means if duration not in gaps)
                to_best = compare_by(gaps, average, [point])
                row: Row = {"point": point.experiment.label, "family": name, "best": top, "average": means[top]}
                row["plateau"] = [d for d in means if d == top or to_best[d].verdict == "equivalent"]
                row["undecided"] = [d for d, comparison in to_best.items() if is_better(comparison) is None]
                worse = [d for d, comparison in to_best.items() if comparison.verdict == "worse"]
                row["too_short"], row["beyond"] = [d for d in worse if d < top], [d for d in worse if d > top]
                rows.append(row | {"gaps": to_best, "averages": {d: estimate.mean for d, estimate in means.items()}})
    narrower = [bool(row["too_short"] or row["beyond"]) or (None if row["undecided"] else False) for row in rows]
    return _verdict("plateau", all_or_none(narrower), {"equivalence": points[0].certainty.equivalence}, rows)


def distortion(points: Sequence[Analysis]) -> Verdict:
    """F3a: does global accuracy fall where features move, and do they move less with LP-FT than with FT?"""
    rows = [_pair_row(point) | {"judged": False} for point in points]
    gaps = {n: gap_of_families(point, *first_pair(point), "distortion_own") for n, point in enumerate(points)}
    for number, comparison in compare_by(gaps, "distortion_own", points).items():
        point, row = points[number], rows[number]
        method, baseline = first_pair(point)
        families = {"all": (baseline, method), baseline: (baseline,), method: (method,)}
        samples = {name: distortion_and_loss(point, names) for name, names in families.items()}
        if samples["all"].empty:
            continue
        row["correlations"] = []
        for name, sample in samples.items():
            pearson, spearman = correlations(sample)
            row["correlations"].append({"of": name, "pearson": pearson, "spearman": spearman, "n": len(sample)})
        signs = [row["correlations"][0][name].sign for name in ("pearson", "spearman")]
        row["positive"] = True if min(signs) > 0 else False if min(signs) < 0 else None
        row |= {"less": is_better(comparison), "moved": comparison, "judged": True}
    outcomes = [_both(row["positive"], row["less"]) for row in rows if row["judged"]]
    return _verdict("distortion", all_or_none(outcomes), {}, rows)


def depth(points: Sequence[Analysis]) -> Verdict:
    """F4: in which layers do features move, and does LP-FT move all of them less than FT?"""
    rows: list[Row] = []
    gaps: dict[tuple[int, str], DataFrame] = {}
    for number, point in enumerate(points):
        row = _pair_row(point)
        moved, reference = (by_layer(point, point.experiment.family_rows(name)) for name in first_pair(point))
        gaps |= {(number, layer): moved[layer] - reference[layer] for layer in moved if layer in reference}
        profiles = {name: by_layer(point, [name]) for name in personalized_methods(point.experiment)}
        profiles = {name: profile for name, profile in profiles.items() if profile}
        row["profiles"] = [{"method": name, **profile_of(profile)} for name, profile in profiles.items()]
        rows.append(row | {"recorded": bool(profiles)})
    comparisons = compare_by(gaps, "distortion_own", points)
    for number, row in enumerate(rows):
        row["gaps"] = {layer: comparison for (of, layer), comparison in comparisons.items() if of == number}
        for name, word in {"less": "better", "more": "worse"}.items():
            row[name] = [layer for layer, comparison in row["gaps"].items() if comparison.verdict == word]
    return _verdict("depth", all_or_none(list(map(is_better, comparisons.values()))), {}, rows)


def probing(points: Sequence[Analysis]) -> Verdict:
    """PEFT: does training the head first help whatever is trained afterwards?"""
    pairs = dict(enumerate((point, pair) for point in points for pair in point.experiment.pairs))
    comparisons = compare_pairs(pairs, ("local", "global_all", "distortion_own"), points)
    rows = [
        _pair_row(*pairs[number]) | {metric: of_pairs.get(number) for metric, of_pairs in comparisons.items()}
        for number in comparisons["global_all"]
    ]
    words = [row["global_all"].verdict for row in rows]
    numbers = {"helps": words.count("better"), "hurts": words.count("worse"), "equal": words.count("equivalent")}
    outcome: Outcome = "unclear" if words else "not judged"
    if numbers["helps"] and not numbers["hurts"]:
        outcome = "held"
    elif words and numbers["hurts"] + numbers["equal"] == len(words):
        outcome = "not held"
    return _verdict("probing", outcome, numbers | {"pairs": len(words)}, rows)


def flooding(points: Sequence[Analysis]) -> Verdict:
    """F3b: is LP-FT better than FT at the same training loss?"""
    rows: list[Row] = []
    gaps: dict[int, DataFrame] = {}
    for point in points:
        method, baseline = first_pair(point)
        levels = {name: flood_levels(point, name) for name in (baseline, method)}
        for level in sorted(levels[method].keys() & levels[baseline].keys()):
            losses = {name: last_loss(point, levels[name][level]) for name in (baseline, method)}
            matched = all(abs(loss - level) <= MATCHED * level + 1e-9 for loss in losses.values())
            gaps[len(rows)] = gap_of(point, levels[method][level], levels[baseline][level], "global_all")
            rows.append(_pair_row(point) | {"level": level, "losses": losses, "matched": matched})
    comparisons = compare_by(gaps, "global_all", points)
    rows = [rows[number] | {"gap": comparison} for number, comparison in comparisons.items()]
    ahead = [is_better(row["gap"]) for row in rows if row["matched"]]
    outcome: Outcome = "unclear" if rows and not ahead else all_or_none(ahead)
    numbers = {"ahead": ahead.count(True), "matched": len(ahead), "levels": len(rows), "tolerance": MATCHED}
    return _verdict("flooding", outcome, numbers, rows)


def extremes(points: Sequence[Analysis]) -> Verdict:
    """E3, N3: where do clients have so little in common that no method remembers anything?"""
    pairs = {number: (point, first_pair(point)) for number, point in enumerate(points)}
    comparisons = compare_pairs(pairs, ("local", "global_all"), points)
    rows: list[Row] = []
    for number, point in enumerate(points):
        methods = personalized_methods(point.experiment)
        others = mean_by_method(point, methods, "global_others")
        classes = point.frames.clients["num_classes"].dropna()
        row = _pair_row(point) | {"judged": bool(others) and len(classes) > 0}
        if row["judged"]:
            metric = metric_name(point.experiment.config)
            top, bound = max(others, key=lambda name: others[name]), near_chance(int(classes.iloc[0]), metric)
            row |= {"best": top, "others": others[top], "bound": bound, "at_chance": others[top] <= bound}
            row["worst"] = max(mean_by_method(point, methods, "worst_row").values())
            row |= {metric: of_points.get(number) for metric, of_points in comparisons.items()}
        rows.append(row)
    judged = [row for row in rows if row["judged"]]
    collapsed = [row for row in judged if row["at_chance"]]
    words = [row["global_all"].verdict for row in judged if row["global_all"]]
    alike = sum(bool(row["global_all"]) and row["global_all"].verdict == "equivalent" for row in collapsed)
    outcome: Outcome = "held" if alike == len(collapsed) else "unclear"
    if not collapsed:
        outcome = "not held" if judged else "not judged"
    numbers = {"at_chance": len(collapsed), "points": len(rows), "alike": alike, "compared": len(words)}
    numbers |= {word: words.count(word) for word in ("better", "worse", "equivalent")}
    return _verdict("extremes", outcome, numbers, rows)


def best(points: Sequence[Analysis]) -> Verdict:
    """N2, F4: which setting has the best Average, and is it really better than the others?"""
    rows: list[Row] = []
    for point in points:
        families = dict.fromkeys(variant.family for variant in point.experiment.variants.values())
        groups = {name: point.experiment.family_rows(name) for name in families}
        groups = {"all methods": personalized_methods(point.experiment), **groups}
        rows += [row for name, methods in groups.items() if (row := _best(point, name, methods))]
    clear = [not row["alike"] for row in rows]
    outcome: Outcome = "held" if clear and all(clear) else "unclear" if rows else "not judged"
    return _verdict("best", outcome, {}, rows)


def _best(point: Analysis, name: str, methods: Sequence[str]) -> Row | None:
    """Return the best setting of a group, and those that are not worse; None without results."""
    average = average_of(point)
    means = mean_by_method(point, methods, average)
    if not means:
        return None
    to_best = compare_by(_gaps_to_best(point, {method: method for method in means}, average), average, [point])
    top, low = (pick(means, key=lambda method: means[method]) for pick in (max, min))
    return {
        "point": point.experiment.label,
        "group": name,
        "settings": len(means),
        "best": top,
        "average": point.certainty.estimates[top, average],
        "alike": {method: comparison for method, comparison in to_best.items() if comparison.verdict != "worse"},
        "lowest": low,
        "lowest_average": means[low],
    }


def _gaps_to_best(point: Analysis, methods: Mapping[Key, str], metric: str) -> dict[Key, DataFrame]:
    """Return the differences of all rows but the best one to the best one, by the key of the row."""
    means = mean_by_method(point, methods.values(), metric)
    top = max(methods, key=lambda key: means[methods[key]])
    return {key: gap_of(point, row, methods[top], metric) for key, row in methods.items() if key != top}


def repairs(points: Sequence[Analysis]) -> Verdict:
    """N1: do clients gain from personalization, or because the global model was not finished?"""
    rows: list[Row] = []
    gains: dict[str, dict[tuple[int, str], DataFrame]] = {"local": {}, "global_all": {}}
    for number, point in enumerate(points):
        before, complete = accuracy_before(point), point.experiment.complete_methods
        methods = list(dict.fromkeys(name for name in reversed(first_pair(point)) if name in complete))
        methods = methods or personalized_methods(point.experiment)
        row: Row = {"point": point.experiment.label, "judged": len(before) > 0 and bool(methods), "gains": []}
        rows.append(row)
        if row["judged"]:
            models = point.convergences
            converged = sum(model.converged for model in models)
            changes = [model.change for model in models if model.change is not None]
            row |= {"seeds": len(models), "converged": converged, "finished": converged > CONVERGED * len(models)}
            row |= {"global_model": estimate(before), "change": fmean(changes) if changes else None}
            for metric, of_metric in gains.items():
                global_model = point.certainty.global_model
                of_metric |= {(number, name): point.certainty.gaps(name, global_model, metric) for name in methods}
    comparisons = {metric: compare_by(of_metric, metric, points) for metric, of_metric in gains.items()}
    for number, method in comparisons["local"]:
        gain = {metric: of_rows[number, method] for metric, of_rows in comparisons.items()}
        rows[number]["gains"].append({"method": method, **gain})
    finished = [row["finished"] for row in rows if row["judged"]]
    trends = _trends(points, gains["local"], len(finished))
    numbers = {"repaired": finished.count(False), "points": len(rows), "max_change": MAX_CHANGE, "trend": trends}
    return _verdict("repairs", all_or_none(finished), numbers, rows)


def _trends(
    points: Sequence[Analysis], gains: Mapping[tuple[int, str], DataFrame], num_judged: int
) -> dict[str, Coefficient]:
    """Return how the gains of every method that all points have correlate with the global model's accuracy."""
    by_method: dict[str, list[tuple[DataFrame, DataFrame]]] = {}
    for (number, method), gain in gains.items():
        by_method.setdefault(method, []).append((accuracy_before(points[number]), gain))
    return {method: trend(pairs) for method, pairs in by_method.items() if len(pairs) == num_judged > 2}


def _pair_row(point: Analysis, pair: tuple[str, str] | None = None) -> Row:
    method, baseline = pair or first_pair(point)
    return {"point": point.experiment.label, "method": method, "baseline": baseline}


def _both(*claims: bool | None) -> bool | None:
    """Return whether two claims hold; None is undecided."""
    return False if False in claims else None if None in claims else True


def _verdict(name: str, outcome: Outcome, numbers: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    return Verdict(outcome, numbers, rows, Path(__file__).parent / "templates" / f"{name}.txt")
