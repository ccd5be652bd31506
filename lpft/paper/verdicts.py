"""Verdicts on the claims of arXiv:2511.12695, named in an experiment's ``verdicts`` by dotted path.

A verdict takes the analyses of a sweep's points (of one run: just one) and returns data; the templates beside this
module turn it into English. To add one, write such a function anywhere and name it:

    verdicts: [lpft.paper.verdicts.plateau, my.verdicts.fairness]

Every rule is applied to test accuracies as they are; no verdict chooses anything. Standard deviations are over seeds,
ddof 0; those of a difference are over its values seed by seed. A difference counts if it is more than one standard
deviation from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpft.evaluation.convergence import MAX_CHANGE
from lpft.evaluation.diagnostics import near_chance
from lpft.paper.evidence import (
    OVERFIT,
    RETAINED,
    Row,
    accuracy_before,
    average_of,
    by_depth,
    by_duration,
    change,
    correlate,
    distortion_and_loss,
    distortion_of,
    first_pair,
    flood_levels,
    gap_of,
    last_loss,
    mean_by_method,
    profile_of,
    standing,
    trained,
)
from lpft.reporting.analysis import Analysis, convergences, family_rows
from lpft.reporting.frames import complete_rows
from lpft.reporting.judging import Outcome, Spread, Verdict

PLATEAU = 0.5
"""Points below the best Average that still belong to the plateau."""
MATCHED = 0.2
"""Share of the flood level that the achieved training loss may differ by."""
CONVERGED = 0.5
"""A global model counts as finished if it has converged with more than this share of the seeds."""


def overfitting(points: Sequence[Analysis]) -> Verdict:
    """F2: with which settings do clients overfit to their own data?"""
    rows: list[Row] = []
    for point in points:
        for method in trained(point):
            frame = complete_rows(point.frames, point.frames.mean_curves, method)
            changed = change(frame, point, method)
            if changed is not None:
                seeds = [change(of_seed, point, method, seed) for seed, of_seed in frame.groupby("seed")]
                agreeing = sum(one is not None and one["overfits"] == changed["overfits"] for one in seeds)
                variant = point.experiment.variants.get(method)
                place = {"point": point.experiment.label, "family": variant.family if variant else ""}
                setting = variant.label if variant else method
                rows.append({**place, "setting": setting, **changed, "agreeing": agreeing, "seeds": len(seeds)})
    count = sum(row["overfits"] for row in rows)
    outcome: Outcome = "not judged" if not rows else "held" if count else "not held"
    numbers = {"overfitting": count, "settings": len(rows), "lost": OVERFIT, "retained": RETAINED}
    return _verdict("overfitting", outcome, numbers, rows)


def plateau(points: Sequence[Analysis]) -> Verdict:
    """E2: for how long should the head be trained alone?"""
    rows: list[Row] = []
    for point in points:
        for name, durations in by_duration(point).items():
            means = {duration: Spread.of(durations[duration]).mean for duration in sorted(durations)}
            top = max(means, key=lambda duration: means[duration])
            inside = [duration for duration, mean in means.items() if mean >= means[top] - PLATEAU - 1e-9]
            best = Spread.of(durations[top])
            row: Row = {"point": point.experiment.label, "family": name, "best": top, "average": best}
            row |= {"plateau": inside, "noisy": best.std > PLATEAU, "averages": means}
            row["too_short"] = [duration for duration in means if duration < inside[0]]
            row["beyond"] = [duration for duration in means if duration > inside[-1]]
            rows.append(row)
    narrower = [bool(row["too_short"] or row["beyond"]) for row in rows]
    return _verdict("plateau", _all_or_none(narrower), {"width": PLATEAU}, rows)


def distortion(points: Sequence[Analysis]) -> Verdict:
    """F3a: does global accuracy fall where features move, and do they move less with LP-FT than with FT?"""
    rows = [_place(point) | {"judged": False} for point in points]
    for point, row in zip(points, rows, strict=True):
        method, baseline = row["method"], row["baseline"]
        pairs = {name: distortion_and_loss(point, name) for name in (baseline, method) if name}
        moved = {name: distortion_of(point, name) for name in pairs}
        pooled = [pair for of_method in pairs.values() for pair in of_method]
        if not pooled or len(moved) < 2 or not all(spread.n for spread in moved.values()):
            continue
        row["correlations"] = []
        for name, own in {"all": pooled, **pairs}.items():
            pearson, spearman = correlate(own)
            row["correlations"].append({"of": name, "pearson": pearson, "spearman": spearman, "n": len(own)})
        row["positive"] = min(correlate(pooled)) > 0
        row["less"] = moved[method].mean < moved[baseline].mean
        row |= {"moved": moved[method], "moved_baseline": moved[baseline], "judged": True}
    outcomes = [row["positive"] and row["less"] for row in rows if row["judged"]]
    return _verdict("distortion", _all_or_none(outcomes), {}, rows)


def depth(points: Sequence[Analysis]) -> Verdict:
    """F4: in which layers do features move, and does LP-FT move all of them less than FT?"""
    rows: list[Row] = []
    outcomes: list[int] = []
    for point in points:
        row = _place(point)
        mine, theirs = (by_depth(point, family_rows(point, row[name])) for name in ("method", "baseline"))
        seeds = mine.columns.intersection(theirs.columns)
        gaps = (mine[seeds] - theirs[seeds]).dropna()
        gaps = gaps.reindex([layer for layer in mine.index if layer in gaps.index])
        signs = {str(layer): Spread.of(values).sign for layer, values in gaps.iterrows()} if len(seeds) else {}
        less, more = ([layer for layer, sign in signs.items() if sign == way] for way in (-1, 1))
        outcomes += [len(less) - len(more)] if signs and len(seeds) > 1 else []
        profiles = {name: profile for name in trained(point) if len(profile := by_depth(point, [name]))}
        row |= {"recorded": bool(profiles), "layers": len(signs), "less": less, "more": more, "seeds": len(seeds)}
        row["profiles"] = [{"method": name, **profile_of(profile)} for name, profile in profiles.items()]
        rows.append(row)
    outcome: Outcome = "unclear" if any(row["layers"] for row in rows) else "not judged"
    if outcomes:
        more_than = all(row["less"] and not row["more"] for row in rows if row["layers"])
        outcome = "held" if more_than else "not held" if max(outcomes) < 0 else "unclear"
    return _verdict("depth", outcome, {}, rows)


def probing(points: Sequence[Analysis]) -> Verdict:
    """PEFT: does training the head first help whatever is trained afterwards?"""
    rows: list[Row] = []
    for point in points:
        for pair in point.experiment.pairs:
            gaps = {metric: gap_of(point, *pair, metric) for metric in ("local", "global_all", "distortion_own")}
            if gaps["global_all"].n:
                rows.append({**_place(point, pair), **gaps, "standing": standing(gaps["global_all"])})
    signs = [row["global_all"].sign for row in rows]
    numbers = {"helps": signs.count(1), "hurts": signs.count(-1), "pairs": len(signs)}
    outcome: Outcome = "unclear" if signs else "not judged"
    if numbers["helps"] and not numbers["hurts"]:
        outcome = "held"
    elif numbers["hurts"] and not numbers["helps"]:
        outcome = "not held"
    return _verdict("probing", outcome, numbers, rows)


def flooding(points: Sequence[Analysis]) -> Verdict:
    """F3b: is LP-FT better than FT at the same training loss?"""
    rows: list[Row] = []
    for point in points:
        method, baseline = first_pair(point)
        levels = {name: flood_levels(point, name) for name in (baseline, method)}
        for level in sorted(levels[method].keys() & levels[baseline].keys()):
            losses = {name: last_loss(point, levels[name][level]) for name in (baseline, method)}
            gap = gap_of(point, levels[method][level], levels[baseline][level], "global_all")
            matched = all(abs(loss - level) <= MATCHED * level + 1e-9 for loss in losses.values())
            row = _place(point) | {"level": level, "gap": gap, "standing": standing(gap)}
            rows.append({**row, "losses": losses, "matched": matched})
    ahead = [row["gap"].sign > 0 for row in rows if row["matched"]]
    outcome: Outcome = "unclear" if rows and not ahead else _all_or_none(ahead)
    numbers = {"ahead": sum(ahead), "matched": len(ahead), "levels": len(rows), "tolerance": MATCHED}
    return _verdict("flooding", outcome, numbers, rows)


def extremes(points: Sequence[Analysis]) -> Verdict:
    """E3, N3: where do clients have so little in common that no method remembers anything?"""
    rows: list[Row] = []
    for point in points:
        others = mean_by_method(point, trained(point), "global_others")
        classes = point.frames.clients["num_classes"].dropna()
        row: Row = {"point": point.experiment.label, "judged": bool(others) and len(classes) > 0}
        rows.append(row)
        if row["judged"]:
            top, bound = max(others, key=lambda name: others[name]), near_chance(int(classes.iloc[0]))
            worst = max(mean_by_method(point, trained(point), "worst_row").values())
            row |= {
                "best": top,
                "others": others[top],
                "bound": bound,
                "at_chance": others[top] <= bound,
                "worst": worst,
            }
            gaps = {metric: gap_of(point, *first_pair(point), metric) for metric in ("local", "global_all")}
            row |= {
                **_place(point),
                **gaps,
                "standing": standing(gaps["global_all"]),
                "at_chance": others[top] <= bound,
            }
    judged = [row for row in rows if row["judged"]]
    several = [row for row in judged if row["global_all"].n > 1]
    collapsed = [row for row in judged if row["at_chance"]]
    alike = sum(row in several and not row["global_all"].sign for row in collapsed)
    signs = [row["global_all"].sign for row in judged if row["global_all"].n]
    outcome: Outcome = "held" if alike == len(collapsed) else "unclear"
    if not collapsed:
        outcome = "not held" if judged else "not judged"
    numbers = {"at_chance": len(collapsed), "points": len(rows), "alike": alike, "several_seeds": bool(several)}
    numbers |= {"ahead": signs.count(1), "behind": signs.count(-1), "compared": len(signs)}
    return _verdict("extremes", outcome, numbers, rows)


def best(points: Sequence[Analysis]) -> Verdict:
    """N2, F4: which setting has the best Average, and is it really better than the others?"""
    rows: list[Row] = []
    for point in points:
        families = dict.fromkeys(variant.family for variant in point.experiment.variants.values())
        groups = {"all methods": trained(point)} | {name: family_rows(point, name) for name in families}
        rows += [row for name, methods in groups.items() if (row := _best(point, name, methods))]
    clear = [not row["alike"] and row["average"].n > 1 for row in rows]
    outcome: Outcome = "held" if clear and all(clear) else "unclear" if rows else "not judged"
    return _verdict("best", outcome, {}, rows)


def _best(point: Analysis, name: str, methods: Sequence[str]) -> Row | None:
    """Return the best setting of a group, and those that are not told apart from it."""
    average = average_of(point)
    means = mean_by_method(point, methods, average)
    if not means:
        return None
    top, low = (pick(means, key=lambda method: means[method]) for pick in (max, min))
    gaps = {method: gap_of(point, method, top, average) for method in means if method != top}
    single = all(gap.n < 2 for gap in gaps.values())
    second = max(gaps, key=lambda method: means[method], default=None)
    return {
        "point": point.experiment.label,
        "group": name,
        "settings": len(means),
        "best": top,
        "average": Spread.of(point.by_seed(top, average)),
        "single_seed": single,
        "alike": {} if single else {method: gap for method, gap in gaps.items() if gap.sign >= 0},
        "lowest": low,
        "lowest_average": means[low],
        "second": second,
        "behind": means[top] - means[second] if second else None,
    }


def repairs(points: Sequence[Analysis]) -> Verdict:
    """N1: do clients gain from personalization, or because the global model was not finished?"""
    rows: list[Row] = []
    gains: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        before, complete = accuracy_before(point), point.experiment.complete_methods
        methods = list(dict.fromkeys(name for name in reversed(first_pair(point)) if name in complete))
        methods = methods or trained(point)
        row: Row = {"point": point.experiment.label, "judged": len(before) > 0 and bool(methods), "gains": []}
        rows.append(row)
        if not row["judged"]:
            continue
        models = convergences(point)
        converged = sum(model.converged for model in models)
        changes = [model.change for model in models if model.change is not None]
        row |= {"seeds": len(models), "converged": converged, "finished": converged > CONVERGED * len(models)}
        row |= {"global_model": Spread.of(before), "change": Spread.of(changes).mean if changes else None}
        for method in methods:
            gain = {m: Spread.of((point.by_seed(method, m) - before).dropna()) for m in ("local", "global_all")}
            row["gains"].append({"method": method, **gain})
            gains.setdefault(method, []).append((row["global_model"].mean, gain["local"].mean))
    finished = [row["finished"] for row in rows if row["judged"]]
    trend = {m: correlate(pairs)[1] for m, pairs in gains.items() if len(pairs) == len(finished) > 2}
    numbers = {"repaired": finished.count(False), "points": len(rows), "trend": trend, "max_change": MAX_CHANGE}
    return _verdict("repairs", _all_or_none(finished), numbers, rows)


def _place(point: Analysis, pair: tuple[str, str] | None = None) -> Row:
    method, baseline = pair or first_pair(point)
    return {"point": point.experiment.label, "method": method, "baseline": baseline}


def _all_or_none(outcomes: Sequence[bool]) -> Outcome:
    if not outcomes:
        return "not judged"
    return "held" if all(outcomes) else "not held" if not any(outcomes) else "unclear"


def _verdict(name: str, outcome: Outcome, numbers: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    return Verdict(outcome, numbers, rows, Path(__file__).parent / "templates" / f"{name}.txt")
