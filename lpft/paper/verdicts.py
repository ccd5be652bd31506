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

from lpft.evaluation.convergence import MAX_CHANGE, judge_convergence
from lpft.evaluation.diagnostics import near_chance
from lpft.paper.evidence import (
    OVERFIT,
    RETAINED,
    accuracy_before,
    average_of,
    by_depth,
    by_duration,
    change,
    complete,
    correlate,
    distortion_and_loss,
    distortion_of,
    first_pair,
    flood_levels,
    gap_of,
    last_loss,
    profile_of,
    standing,
    trained,
)
from lpft.reporting.analysis import Analysis
from lpft.reporting.judging import Outcome, Spread, Verdict

PLATEAU = 0.5
"""Points below the best Average that still belong to the plateau."""
MATCHED = 0.2
"""Share of the flood level that the achieved training loss may differ by."""

Row = dict[str, Any]


def overfitting(points: Sequence[Analysis]) -> Verdict:
    """F2: with which settings do clients overfit to their own data?"""
    rows: list[Row] = []
    for point in points:
        for method in trained(point):
            frame = complete(point, point.mean_curves, method)
            changed = change(frame, point, method)
            if changed is not None:
                seeds = [change(of_seed, point, method, seed) for seed, of_seed in frame.groupby("seed")]
                agreeing = sum(one is not None and one["overfits"] == changed["overfits"] for one in seeds)
                variant = point.variants.get(method)
                place = {"point": point.label, "family": variant.family if variant else ""}
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
            rows.append(
                {
                    "point": point.label,
                    "family": name,
                    "best": top,
                    "average": best,
                    "plateau": inside,
                    "too_short": [duration for duration in means if duration < inside[0]],
                    "beyond": [duration for duration in means if duration > inside[-1]],
                    "noisy": best.std > PLATEAU,
                    "averages": means,
                }
            )
    narrower = [bool(row["too_short"] or row["beyond"]) for row in rows]
    outcome: Outcome = "held" if all(narrower) else "not held" if not any(narrower) else "unclear"
    return _verdict("plateau", outcome if rows else "not judged", {"width": PLATEAU}, rows)


def distortion(points: Sequence[Analysis]) -> Verdict:
    """F3a: does global accuracy fall where features move, and do they move less with LP-FT than with FT?"""
    rows: list[Row] = []
    for point in points:
        method, baseline = first_pair(point)
        row: Row = {"point": point.label, "method": method, "baseline": baseline, "judged": False}
        rows.append(row)
        pairs = {name: distortion_and_loss(point, name) for name in (baseline, method) if name}
        moved = {name: distortion_of(point, name) for name in pairs}
        pooled = [pair for of_method in pairs.values() for pair in of_method]
        if not pooled or len(moved) < 2 or not all(spread.n for spread in moved.values()):
            continue
        correlations = {"all": pooled, **pairs}
        row["correlations"] = [
            {"of": name, "pearson": c[0], "spearman": c[1], "n": len(of)}
            for name, of in correlations.items()
            for c in [correlate(of)]
        ]
        row["positive"] = min(correlate(pooled)) > 0
        row["less"] = moved[method].mean < moved[baseline].mean
        row |= {"moved": moved[method], "moved_baseline": moved[baseline], "judged": True}
    found = [row["positive"] and row["less"] for row in rows if row["judged"]]
    return _verdict("distortion", _all_or_none(found), {}, rows)


def depth(points: Sequence[Analysis]) -> Verdict:
    """F4: in which layers do features move, and does LP-FT move all of them less than FT?"""
    rows: list[Row] = []
    outcomes: list[int] = []
    for point in points:
        method, baseline = first_pair(point)
        profiles = {name: profile for name in trained(point) if len(profile := by_depth(point, [name]))}
        mine, theirs = (by_depth(point, point.family(name)) for name in (method, baseline))
        seeds = mine.columns.intersection(theirs.columns)
        gaps = (mine[seeds] - theirs[seeds]).dropna()
        gaps = gaps.reindex([layer for layer in mine.index if layer in gaps.index])
        signs = {str(layer): Spread.of(values).sign for layer, values in gaps.iterrows()} if len(seeds) else {}
        less, more = ([layer for layer, sign in signs.items() if sign == way] for way in (-1, 1))
        outcomes += [len(less) - len(more)] if signs and len(seeds) > 1 else []
        row = {"point": point.label, "method": method, "baseline": baseline, "recorded": bool(profiles)}
        row |= {"layers": len(signs), "less": less, "more": more, "seeds": len(seeds)}
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
        for method, baseline in point.pairs:
            gaps = {m: gap_of(point, method, baseline, m) for m in ("local", "global_all", "distortion_own")}
            if gaps["global_all"].n:
                place = {"point": point.label, "method": method, "baseline": baseline}
                rows.append({**place, **gaps, "standing": standing(gaps["global_all"])})
    signs = [row["global_all"].sign for row in rows]
    numbers = {"helps": signs.count(1), "hurts": signs.count(-1), "pairs": len(signs)}
    return _verdict("probing", _for_or_against(signs), numbers, rows)


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
            place = {"point": point.label, "method": method, "baseline": baseline, "level": level}
            rows.append({**place, "gap": gap, "standing": standing(gap), "losses": losses, "matched": matched})
    matched_rows = [row for row in rows if row["matched"]]
    ahead = sum(row["gap"].sign > 0 for row in matched_rows)
    outcome: Outcome = "not judged" if not rows else "unclear"
    if matched_rows:
        outcome = "held" if ahead == len(matched_rows) else "unclear" if ahead else "not held"
    numbers = {"ahead": ahead, "matched": len(matched_rows), "levels": len(rows), "tolerance": MATCHED}
    return _verdict("flooding", outcome, numbers, rows)


def extremes(points: Sequence[Analysis]) -> Verdict:
    """E3, N3: where do clients have so little in common that no method remembers anything?"""
    rows: list[Row] = []
    for point in points:
        best = {m: float(x.mean()) for m in trained(point) if len(x := point.by_seed(m, "global_others"))}
        classes = point.clients["num_classes"].dropna()
        row: Row = {"point": point.label, "judged": bool(best) and len(classes) > 0}
        rows.append(row)
        if not row["judged"]:
            continue
        top = max(best, key=lambda name: best[name])
        bound = near_chance(int(classes.iloc[0]))
        worst = max(float(x.mean()) for m in trained(point) if len(x := point.by_seed(m, "worst_row")))
        row |= {"best": top, "others": best[top], "bound": bound, "worst": worst, "at_chance": best[top] <= bound}
        method, baseline = first_pair(point)
        gaps = {m: gap_of(point, method, baseline, m) for m in ("local", "global_all")}
        row |= {"method": method, "baseline": baseline, **gaps, "standing": standing(gaps["global_all"])}
    judged = [row for row in rows if row["judged"]]
    several = [row for row in judged if row["global_all"].n > 1]
    collapsed = [row for row in judged if row["at_chance"]]
    alike = sum(row in several and not row["global_all"].sign for row in collapsed)
    signs = [row["global_all"].sign for row in judged if row["global_all"].n]
    outcome: Outcome = "not judged" if not judged else "unclear" if collapsed and alike < len(collapsed) else "held"
    outcome = "not held" if judged and not collapsed else outcome
    numbers = {"at_chance": len(collapsed), "points": len(rows), "alike": alike, "several_seeds": bool(several)}
    numbers |= {"ahead": signs.count(1), "behind": signs.count(-1), "compared": len(signs)}
    return _verdict("extremes", outcome, numbers, rows)


def best(points: Sequence[Analysis]) -> Verdict:
    """N2, F4: which setting has the best Average, and is it really better than the others?"""
    rows: list[Row] = []
    for point in points:
        families = dict.fromkeys(variant.family for variant in point.variants.values())
        groups = {"all methods": trained(point)} | {name: point.family(name) for name in families}
        rows += [row for name, methods in groups.items() if (row := _best(point, name, methods))]
    clear = [not row["alike"] and row["average"].n > 1 for row in rows]
    outcome: Outcome = "held" if clear and all(clear) else "unclear" if rows else "not judged"
    return _verdict("best", outcome, {}, rows)


def repairs(points: Sequence[Analysis]) -> Verdict:
    """N1: do clients gain from personalization, or because the global model was not finished?"""
    rows: list[Row] = []
    for point in points:
        before = accuracy_before(point)
        methods = list(dict.fromkeys(name for name in reversed(first_pair(point)) if name in point.complete_methods))
        methods = methods or trained(point)
        row: Row = {"point": point.label, "judged": len(before) > 0 and bool(methods)}
        rows.append(row)
        if not row["judged"]:
            continue
        curves = [[entry.get("val_accuracy") for entry in rounds] for rounds in point.histories.values() if rounds]
        convergences = [judge_convergence(curve) for curve in curves]
        converged = sum(convergence.converged for convergence in convergences)
        changes = [convergence.change for convergence in convergences if convergence.change is not None]
        row |= {"finished": 2 * converged > len(curves), "global_model": Spread.of(before), "converged": converged}
        row |= {"seeds": len(curves), "change": Spread.of(changes).mean if changes else None}
        row["gains"] = [
            {
                "method": name,
                **{m: Spread.of((point.by_seed(name, m) - before).dropna()) for m in ("local", "global_all")},
            }
            for name in methods
        ]
    judged = [row for row in rows if row["judged"]]
    repaired = sum(not row["finished"] for row in judged)
    gains: dict[str, list[tuple[float, float]]] = {}
    for row in judged:
        for gain in row["gains"]:
            gains.setdefault(gain["method"], []).append((row["global_model"].mean, gain["local"].mean))
    trend = {m: correlate(pairs)[1] for m, pairs in gains.items() if len(pairs) == len(judged) > 2}
    outcome: Outcome = "not judged" if not judged else "unclear"
    if judged:
        outcome = "held" if not repaired else "not held" if repaired == len(judged) else "unclear"
    numbers = {"repaired": repaired, "points": len(rows), "trend": trend, "max_change": MAX_CHANGE}
    return _verdict("repairs", outcome, numbers, rows)


def _best(point: Analysis, name: str, methods: Sequence[str]) -> Row | None:
    """Return the best setting of a group, and those that are not told apart from it."""
    average = average_of(point)
    means = {m: float(values.mean()) for m in methods if len(values := point.by_seed(m, average))}
    if not means:
        return None
    top, low = (pick(means, key=lambda method: means[method]) for pick in (max, min))
    gaps = {m: gap_of(point, m, top, average) for m in means if m != top}
    single = all(gap.n < 2 for gap in gaps.values())
    alike = {} if single else {m: gap for m, gap in gaps.items() if gap.sign >= 0}
    row: Row = {"point": point.label, "group": name, "settings": len(means), "best": top, "single_seed": single}
    row |= {
        "average": Spread.of(point.by_seed(top, average)),
        "alike": alike,
        "lowest": low,
        "lowest_average": means[low],
    }
    second = max((m for m in means if m != top), key=lambda m: means[m], default=None)
    return row | {"second": second, "behind": means[top] - means[second] if second else None}


def _all_or_none(found: Sequence[bool]) -> Outcome:
    if not found:
        return "not judged"
    return "held" if all(found) else "not held" if not any(found) else "unclear"


def _for_or_against(signs: Sequence[int]) -> Outcome:
    if not signs:
        return "not judged"
    if 1 in signs and -1 not in signs:
        return "held"
    return "not held" if -1 in signs and 1 not in signs else "unclear"


def _verdict(name: str, outcome: Outcome, numbers: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    return Verdict(outcome, numbers, rows, Path(__file__).parent / "templates" / f"{name}.txt")
