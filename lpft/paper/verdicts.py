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
    average_of,
    by_duration,
    by_layer,
    change_since,
    compare_by,
    correlations,
    distortion_and_loss,
    evaluated_epochs,
    first_pair,
    flood_levels,
    gap_of,
    gap_of_families,
    gap_to_global_model,
    is_better,
    is_kept,
    last_loss,
    mean_by_method,
    profile_of,
    trained,
    trend,
)
from lpft.reporting.analysis import Analysis, convergences, family_rows
from lpft.reporting.experiment import metric_name
from lpft.reporting.intervals import Key
from lpft.reporting.verdicts import Outcome, Verdict

MATCHED = 0.2
"""Share of the flood level that the achieved training loss may differ by."""
CONVERGED = 0.5
"""A global model counts as finished if it has converged with more than this share of the seeds."""


def overfitting(points: Sequence[Analysis]) -> Verdict:
    """F2: with which settings do clients overfit to their own data?"""
    rows: list[Row] = []
    changes: dict[str, dict[int, DataFrame]] = {"global_all": {}, "local": {}}
    for point in points:
        for method in trained(point):
            epochs = evaluated_epochs(point, method)
            if epochs is not None:
                for (metric, gaps), epoch in zip(changes.items(), epochs, strict=True):
                    gaps[len(rows)] = change_since(point, method, metric, epoch)
                variant = point.experiment.variants.get(method)
                place = {"point": point.experiment.label, "family": variant.family if variant else ""}
                setting = variant.label if variant else method
                rows.append({**place, "setting": setting, "since": epochs[0], "first": epochs[1]})
    found = {metric: compare_by(gaps, metric, points) for metric, gaps in changes.items()}
    equivalence = _equivalence(points)
    for number, row in enumerate(rows):
        row |= {metric: of_rows[number] for metric, of_rows in found.items()}
        better, kept = is_better(row["global_all"]), is_kept(row["local"], equivalence)
        forgets = None if better is None else row["global_all"].verdict == "worse"
        row["overfits"] = _both(forgets, kept)
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
            means = {duration: one for duration, one in means.items() if one.num_seeds}
            if means:
                gaps = _gaps_to_best(point, {duration: methods[duration] for duration in means}, average)
                top = next(duration for duration in means if duration not in gaps)
                found = compare_by(gaps, average, [point])
                row: Row = {"point": point.experiment.label, "family": name, "best": top, "average": means[top]}
                row["plateau"] = [d for d in means if d == top or found[d].verdict == "equivalent"]
                row["undecided"] = [d for d, one in found.items() if is_better(one) is None]
                worse = [d for d, one in found.items() if one.verdict == "worse"]
                row["too_short"], row["beyond"] = [d for d in worse if d < top], [d for d in worse if d > top]
                rows.append(row | {"gaps": found, "averages": {d: one.mean for d, one in means.items()}})
    narrower = [bool(row["too_short"] or row["beyond"]) or (None if row["undecided"] else False) for row in rows]
    return _verdict("plateau", _all_or_none(narrower), {"equivalence": _equivalence(points)}, rows)


def distortion(points: Sequence[Analysis]) -> Verdict:
    """F3a: does global accuracy fall where features move, and do they move less with LP-FT than with FT?"""
    rows = [_place(point) | {"judged": False} for point in points]
    pairs = {number: (row["method"], row["baseline"]) for number, row in enumerate(rows)}
    gaps = {number: gap_of_families(points[number], *pair, "distortion_own") for number, pair in pairs.items()}
    for number, found in compare_by(gaps, "distortion_own", points).items():
        point, row, (method, baseline) = points[number], rows[number], pairs[number]
        pooled = distortion_and_loss(point, (baseline, method))
        if pooled.empty:
            continue
        row["correlations"] = []
        for name, families in {"all": (baseline, method), baseline: (baseline,), method: (method,)}.items():
            own = distortion_and_loss(point, families)
            pearson, spearman = correlations(own)
            row["correlations"].append({"of": name, "pearson": pearson, "spearman": spearman, "n": len(own)})
        signs = [row["correlations"][0][name].sign for name in ("pearson", "spearman")]
        row["positive"] = True if min(signs) > 0 else False if min(signs) < 0 else None
        row |= {"less": is_better(found), "moved": found, "judged": True}
    outcomes = [_both(row["positive"], row["less"]) for row in rows if row["judged"]]
    return _verdict("distortion", _all_or_none(outcomes), {}, rows)


def depth(points: Sequence[Analysis]) -> Verdict:
    """F4: in which layers do features move, and does LP-FT move all of them less than FT?"""
    rows: list[Row] = []
    gaps: dict[tuple[int, str], DataFrame] = {}
    for number, point in enumerate(points):
        row = _place(point)
        mine, theirs = (by_layer(point, family_rows(point, row[name])) for name in ("method", "baseline"))
        gaps |= {(number, layer): mine[layer] - theirs[layer] for layer in mine if layer in theirs}
        profiles = {name: profile for name in trained(point) if (profile := by_layer(point, [name]))}
        row["profiles"] = [{"method": name, **profile_of(profile)} for name, profile in profiles.items()]
        rows.append(row | {"recorded": bool(profiles)})
    found = compare_by(gaps, "distortion_own", points)
    for number, row in enumerate(rows):
        row["gaps"] = {layer: one for (of, layer), one in found.items() if of == number}
        for name, word in {"less": "better", "more": "worse"}.items():
            row[name] = [layer for layer, one in row["gaps"].items() if one.verdict == word]
    return _verdict("depth", _all_or_none([is_better(one) for one in found.values()]), {}, rows)


def probing(points: Sequence[Analysis]) -> Verdict:
    """PEFT: does training the head first help whatever is trained afterwards?"""
    pairs = [(point, pair) for point in points for pair in point.experiment.pairs]
    found = {}
    for metric in ("local", "global_all", "distortion_own"):
        gaps = {number: gap_of(point, *pair, metric) for number, (point, pair) in enumerate(pairs)}
        found[metric] = compare_by(gaps, metric, points)
    rows = [
        _place(*pairs[number]) | {metric: of_pairs.get(number) for metric, of_pairs in found.items()}
        for number in found["global_all"]
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
            rows.append(_place(point) | {"level": level, "losses": losses, "matched": matched})
    found = compare_by(gaps, "global_all", points)
    rows = [row | {"gap": found[number]} for number, row in enumerate(rows) if number in found]
    ahead = [is_better(row["gap"]) for row in rows if row["matched"]]
    outcome: Outcome = "unclear" if rows and not ahead else _all_or_none(ahead)
    numbers = {"ahead": ahead.count(True), "matched": len(ahead), "levels": len(rows), "tolerance": MATCHED}
    return _verdict("flooding", outcome, numbers, rows)


def extremes(points: Sequence[Analysis]) -> Verdict:
    """E3, N3: where do clients have so little in common that no method remembers anything?"""
    found = {}
    for metric in ("local", "global_all"):
        gaps = {number: gap_of(point, *first_pair(point), metric) for number, point in enumerate(points)}
        found[metric] = compare_by(gaps, metric, points)
    rows: list[Row] = []
    for number, point in enumerate(points):
        others = mean_by_method(point, trained(point), "global_others")
        classes = point.frames.clients["num_classes"].dropna()
        row = _place(point) | {"judged": bool(others) and len(classes) > 0}
        if row["judged"]:
            metric = metric_name(point.experiment.config)
            top, bound = max(others, key=lambda name: others[name]), near_chance(int(classes.iloc[0]), metric)
            row |= {"best": top, "others": others[top], "bound": bound, "at_chance": others[top] <= bound}
            row["worst"] = max(mean_by_method(point, trained(point), "worst_row").values())
            row |= {metric: of_points.get(number) for metric, of_points in found.items()}
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
        groups = {"all methods": trained(point)} | {name: family_rows(point, name) for name in families}
        rows += [row for name, methods in groups.items() if (row := _best(point, name, methods))]
    clear = [not row["alike"] for row in rows]
    outcome: Outcome = "held" if clear and all(clear) else "unclear" if rows else "not judged"
    return _verdict("best", outcome, {}, rows)


def _best(point: Analysis, name: str, methods: Sequence[str]) -> Row | None:
    """Return the best setting of a group, and those that are not told apart from it."""
    average = average_of(point)
    means = mean_by_method(point, methods, average)
    if not means:
        return None
    found = compare_by(_gaps_to_best(point, {method: method for method in means}, average), average, [point])
    top, low = (pick(means, key=lambda method: means[method]) for pick in (max, min))
    return {
        "point": point.experiment.label,
        "group": name,
        "settings": len(means),
        "best": top,
        "average": point.certainty.estimates[top, average],
        "alike": {method: one for method, one in found.items() if one.verdict != "worse"},
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
        methods = methods or trained(point)
        row: Row = {"point": point.experiment.label, "judged": len(before) > 0 and bool(methods), "gains": []}
        rows.append(row)
        if row["judged"]:
            models = convergences(point)
            converged = sum(model.converged for model in models)
            changes = [model.change for model in models if model.change is not None]
            row |= {"seeds": len(models), "converged": converged, "finished": converged > CONVERGED * len(models)}
            row |= {"global_model": estimate(before), "change": fmean(changes) if changes else None}
            for metric, of_metric in gains.items():
                of_metric |= {(number, name): gap_to_global_model(point, name, metric) for name in methods}
    found = {metric: compare_by(of_metric, metric, points) for metric, of_metric in gains.items()}
    for number, method in found["local"]:
        gain = {metric: of_rows[number, method] for metric, of_rows in found.items()}
        rows[number]["gains"].append({"method": method, **gain})
    finished = [row["finished"] for row in rows if row["judged"]]
    trends = _trends(points, gains["local"], len(finished))
    numbers = {"repaired": finished.count(False), "points": len(rows), "max_change": MAX_CHANGE, "trend": trends}
    return _verdict("repairs", _all_or_none(finished), numbers, rows)


def _trends(
    points: Sequence[Analysis], gains: Mapping[tuple[int, str], DataFrame], num_judged: int
) -> dict[str, Coefficient]:
    """Return how the gains of every method that all points have go with the global model's accuracy."""
    by_method: dict[str, list[tuple[DataFrame, DataFrame]]] = {}
    for (number, method), gain in gains.items():
        by_method.setdefault(method, []).append((accuracy_before(points[number]), gain))
    return {method: trend(pairs) for method, pairs in by_method.items() if len(pairs) == num_judged > 2}


def _place(point: Analysis, pair: tuple[str, str] | None = None) -> Row:
    method, baseline = pair or first_pair(point)
    return {"point": point.experiment.label, "method": method, "baseline": baseline}


def _both(one: bool | None, other: bool | None) -> bool | None:
    """Combine two claims, of which None is undecided."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _all_or_none(outcomes: Sequence[bool | None]) -> Outcome:
    if not outcomes:
        return "not judged"
    return "held" if all(outcomes) else "unclear" if True in outcomes or None in outcomes else "not held"


def _equivalence(points: Sequence[Analysis]) -> float:
    return points[0].certainty.equivalence


def _verdict(name: str, outcome: Outcome, numbers: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    return Verdict(outcome, numbers, rows, Path(__file__).parent / "templates" / f"{name}.txt")
