"""Verdicts on the claims of arXiv:2511.12695, named in an experiment's ``verdicts`` by dotted path.

A verdict takes the analyses of a sweep's points (of one run: just one) and returns data; the templates beside this
module turn it into English. To add one, write such a function anywhere and name it:

    verdicts: [lpft.paper.verdicts.plateau, my.verdicts.fairness]

Every rule is applied to test accuracies as they are; no verdict chooses anything. Standard deviations are over seeds,
ddof 0; those of a difference are over its values seed by seed. A difference counts if it is more than one standard
deviation from zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series, concat

from lpft.evaluation.convergence import MAX_CHANGE, judge_convergence
from lpft.evaluation.diagnostics import near_chance
from lpft.reporting.analysis import Analysis
from lpft.reporting.judging import Outcome, Spread, Verdict
from lpft.reporting.sweeps import label

OVERFIT, RETAINED = 1.0, 1.0
"""Points of Global lost since its best epoch, and of Local that may be lost since the first."""
PLATEAU = 0.5
"""Points below the best Average that still belong to the plateau."""
FEW_LAYERS = 6
"""With fewer layers, a rank correlation with depth says little."""
MATCHED = 0.2
"""Share of the flood level that the achieved training loss may differ by."""

Row = dict[str, Any]


def overfitting(points: Sequence[Analysis]) -> Verdict:
    """F2: with which settings do clients overfit to their own data?"""
    rows: list[Row] = []
    for point in points:
        for method in trained(point):
            frame = _complete(point, point.mean_curves, method)
            change = _change(frame, point, method)
            if change is not None:
                seeds = [_change(of_seed, point, method, seed) for seed, of_seed in frame.groupby("seed")]
                agreeing = sum(one is not None and one["overfits"] == change["overfits"] for one in seeds)
                variant = point.variants.get(method)
                place = {"point": point.label, "family": variant.family if variant else ""}
                setting = variant.label if variant else method
                rows.append({**place, "setting": setting, **change, "agreeing": agreeing, "seeds": len(seeds)})
    count = sum(row["overfits"] for row in rows)
    outcome: Outcome = "not judged" if not rows else "held" if count else "not held"
    numbers = {"overfitting": count, "settings": len(rows), "lost": OVERFIT, "retained": RETAINED}
    return _verdict("overfitting", outcome, numbers, rows)


def plateau(points: Sequence[Analysis]) -> Verdict:
    """E2: for how long should the head be trained alone?"""
    rows: list[Row] = []
    for point in points:
        for name, durations in _by_duration(point).items():
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
        pairs = {name: _distortion_and_loss(point, name) for name in (baseline, method) if name}
        moved = {name: _moved(point, name) for name in pairs}
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
        profiles = {name: profile for name in trained(point) if len(profile := _by_depth(point, [name]))}
        mine, theirs = (_by_depth(point, point.family(name)) for name in (method, baseline))
        seeds = mine.columns.intersection(theirs.columns)
        gaps = (mine[seeds] - theirs[seeds]).dropna()
        gaps = gaps.reindex([layer for layer in mine.index if layer in gaps.index])
        signs = {str(layer): Spread.of(values).sign for layer, values in gaps.iterrows()} if len(seeds) else {}
        less, more = ([layer for layer, sign in signs.items() if sign == way] for way in (-1, 1))
        outcomes += [len(less) - len(more)] if signs and len(seeds) > 1 else []
        row = {"point": point.label, "method": method, "baseline": baseline, "recorded": bool(profiles)}
        row |= {"layers": len(signs), "less": less, "more": more, "seeds": len(seeds)}
        row["profiles"] = [{"method": name, **_profile(profile)} for name, profile in profiles.items()]
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
            gaps = {m: _gap(point, method, baseline, m) for m in ("local", "global_all", "distortion_own")}
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
        levels = {name: _levels(point, name) for name in (baseline, method)}
        for level in sorted(levels[method].keys() & levels[baseline].keys()):
            losses = {name: _last_loss(point, levels[name][level]) for name in (baseline, method)}
            gap = _gap(point, levels[method][level], levels[baseline][level], "global_all")
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
        gaps = {m: _gap(point, method, baseline, m) for m in ("local", "global_all")}
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
        before = _before(point)
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
            {"method": name, **{m: Spread.of((point.by_seed(name, m) - before).dropna()) for m in ("local", "global_all")}}
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


# What the verdicts look at


def trained(point: Analysis) -> list[str]:
    """Return the complete methods without the global model itself."""
    return [method for method in point.complete_methods if method != point.reference]


def first_pair(point: Analysis) -> tuple[str, str]:
    """Return the method and the baseline that a claim about LP-FT and FT is judged by; empty names without a pair."""
    return next(iter(point.pairs), ("", ""))


def _complete(point: Analysis, frame: DataFrame, method: str) -> DataFrame:
    """Return the rows of a method of the seeds with which it is complete."""
    seeds = point.by_seed(method, "seconds").index
    return frame[(frame["method"] == method) & frame["seed"].isin(seeds)]


def _change(frame: DataFrame, point: Analysis, method: str, seed: Any = None) -> Row | None:
    """Return how Global and Local moved during fine-tuning; None if no epoch was evaluated with all seeds."""
    evaluated = frame.dropna(subset=["local", "global_all"])
    counts = evaluated.groupby("epoch")["seed"].nunique()
    epochs = counts.index[counts == frame["seed"].nunique()]
    curves = evaluated[evaluated["epoch"].isin(epochs)].groupby("epoch")[["local", "global_all"]].mean().astype(float)
    if not any(epochs > 0):
        return None
    ends = {m: point.by_seed(method, m) for m in ("local", "global_all")}
    end = {m: float(values.mean() if seed is None else values[seed]) for m, values in ends.items()}
    first, since = int(min(epoch for epoch in epochs if epoch > 0)), int(curves["global_all"].idxmax())
    lost = float(curves["global_all"][since] - end["global_all"])
    kept = float(end["local"] - curves["local"][first])
    overfits = lost > OVERFIT and kept >= -RETAINED
    return {"overfits": overfits, "change": round(-lost, 9) + 0.0, "since": since, "kept": kept, "first": first}


def _by_duration(point: Analysis) -> dict[str, dict[int, Series]]:
    """Return Average by seed for every duration of linear probing, by family and other settings."""
    budget = (point.config.get("personalization") or {}).get("epochs")
    durations: dict[str, dict[int, Series]] = {}
    for method in point.complete_methods:
        variant = point.variants.get(method)
        if variant and "lp_epochs" in variant.values:
            rest = {key: value for key, value in variant.values.items() if key != "lp_epochs"}
            duration = variant.values["lp_epochs"]
            if duration is None:
                duration = _argument(point, method, "epochs") or budget
            averages = point.by_seed(method, average_of(point))
            if len(averages) and duration is not None:
                name = f"{variant.family} ({label(rest)})" if rest else variant.family
                durations.setdefault(name, {})[int(duration)] = averages
    return durations


def _argument(point: Analysis, method: str, name: str) -> Any:
    return (((point.config.get("methods") or {}).get(method) or {}).get("init_args") or {}).get(name)


def _distortion_and_loss(point: Analysis, family: str) -> list[tuple[float, float]]:
    """Return distortion and loss of Global for every client, seed and evaluated epoch of a method."""
    from lpft.reporting.figures import distortion_points  # matplotlib takes half a second

    frames = [distortion_points(point, method) for method in point.family(family)]
    return [pair for frame in frames for pair in zip(frame["distortion"], frame["loss"], strict=True)]


def _moved(point: Analysis, family: str) -> Spread:
    """Return the distortion at the end, by seed the mean over the variants of a method."""
    columns = [point.by_seed(method, "distortion_own") for method in point.family(family)]
    return Spread.of(DataFrame(columns).mean() if columns else [])


def _by_depth(point: Analysis, methods: Iterable[str]) -> DataFrame:
    """Return relative distortion, one row per layer and one column per seed, mean over methods."""
    frames = [_complete(point, point.depth, method) for method in methods]
    frame = concat([point.depth.iloc[:0], *frames]).astype({"distortion_relative": float})
    frame = frame.dropna(subset=["distortion_relative"])
    table = frame.pivot_table(index="layer", columns="seed", values="distortion_relative", aggfunc="mean")
    return table.reindex(list(dict.fromkeys(frame["layer"])))


def _profile(table: DataFrame) -> Row:
    """Return the distortion of every layer, and its rank correlation with depth."""
    layers = {str(layer): Spread.of(values.dropna()) for layer, values in table.iterrows()}
    means = [spread.mean for spread in layers.values()]
    rank = correlate(list(enumerate(means)))[1] if len(means) >= FEW_LAYERS else math.nan
    lowest, highest = (pick(layers, key=lambda layer: layers[layer].mean) for pick in (min, max))
    return {"layers": layers, "lowest": lowest, "highest": highest, "last": list(layers)[-1], "rank": rank}


def _levels(point: Analysis, family: str) -> dict[float, str]:
    """Return the rows of a method by their flood level."""
    levels = {method: _argument(point, method, "flood") for method in point.family(family)}
    return {float(level): method for method, level in levels.items() if level is not None}


def _last_loss(point: Analysis, method: str) -> float:
    """Return the training loss of the last epoch, mean over clients and seeds."""
    return float(_complete(point, point.mean_curves, method).groupby("seed")["train_loss"].last().astype(float).mean())


def _best(point: Analysis, name: str, methods: Sequence[str]) -> Row | None:
    """Return the best setting of a group, and those that are not told apart from it."""
    average = average_of(point)
    means = {m: float(values.mean()) for m in methods if len(values := point.by_seed(m, average))}
    if not means:
        return None
    top, low = (pick(means, key=lambda method: means[method]) for pick in (max, min))
    gaps = {m: _gap(point, m, top, average) for m in means if m != top}
    single = all(gap.n < 2 for gap in gaps.values())
    alike = {} if single else {m: gap for m, gap in gaps.items() if gap.sign >= 0}
    row: Row = {"point": point.label, "group": name, "settings": len(means), "best": top, "single_seed": single}
    row |= {"average": Spread.of(point.by_seed(top, average)), "alike": alike, "lowest": low, "lowest_average": means[low]}
    second = max((m for m in means if m != top), key=lambda m: means[m], default=None)
    return row | {"second": second, "behind": means[top] - means[second] if second else None}


def _before(point: Analysis) -> Series:
    """Return the global model's accuracy by seed, mean over the clients' test sets."""
    frame = point.clients[point.clients["method"].isin(point.complete_methods)]
    frame = frame.assign(local_before=frame["local_before"].astype(float)).dropna(subset=["local_before"])
    return frame.drop_duplicates(["seed", "client"]).groupby("seed")["local_before"].mean()


def average_of(point: Analysis) -> str:
    """Return the metric that is called Average; with a single client, which has no worst other, the one without it."""
    return "average3" if point.results["average3"].notna().any() else "average2"


def _gap(point: Analysis, method: str, baseline: str, metric: str) -> Spread:
    return Spread.of(point.differences(method, baseline, metric))


def correlate(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return Pearson's and Spearman's coefficient; NaN for fewer than three pairs, or if one side is constant."""
    from scipy import stats  # takes a second

    pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return math.nan, math.nan
    x, y = zip(*pairs, strict=True)
    return float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)


def standing(gap: Spread) -> str:
    """Return ``ahead``, ``behind``, ``alike``, ``one seed`` or ``no seed``."""
    if gap.n < 2:
        return "one seed" if gap.n else "no seed"
    return {0: "alike", 1: "ahead", -1: "behind"}[gap.sign]


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
