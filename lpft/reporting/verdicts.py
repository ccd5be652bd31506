"""What an experiment shows, in sentences: functions that an experiment names under `verdicts`, by dotted path.

A verdict takes the points of a sweep (one point if there is none) and returns lines, the first of which states the
result and the rule it was found by. To add one, write such a function anywhere and name it:

    verdicts: [lpft.reporting.verdicts.plateau, my.verdicts.fairness]

Every rule is applied to test accuracies as they are; no verdict chooses anything. Standard deviations are over seeds,
ddof 0, and those of a difference are over its values seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev

from lpft.evaluation.convergence import MAX_CHANGE, judge_convergence
from lpft.evaluation.diagnostics import NEAR_CHANCE
from lpft.reporting.phrases import at, spread
from lpft.reporting.results import MethodResult
from lpft.reporting.sweeps import Point, label
from lpft.reporting.tables import curve_rows, depth_rows, distortion_points, figures

OVERFIT, RETAINED = 1.0, 1.0
"""Points of global accuracy lost since its best epoch, and of local accuracy that may be lost since the first."""
PLATEAU = 0.5
"""Points below the best Average that still belong to the plateau."""
FEW_LAYERS = 6
"""Of fewer layers a rank correlation with depth says little."""
MANY_LAYERS = 8
"""Of more layers only some are listed."""
MATCHED = 0.2
"""Share of the flood level that the achieved training loss may differ by."""


def overfitting(points: Sequence[Point]) -> list[str]:
    """F2: with which settings do clients overfit to themselves?"""
    rule = (
        f"Rule: at the end of fine-tuning Global is more than {OVERFIT:g} point below its best epoch (epoch 0, the"
        f" global model, included), and Local at least that of the first evaluated epoch less {RETAINED:g} point; means"
        " over seeds."
    )
    found, details = [], []
    for point in points:
        judged = {method: told for method in point.trained if (told := _overfits(point, method))}
        found += [overfits for overfits, _ in judged.values()]
        details += [at(point, line) for line in _by_family(point, judged)]
    if not found:
        return [f"Overfitting cannot be judged: no epochs were evaluated (`personalization.eval_every`). {rule}"]
    return [f"Personalized overfitting in {sum(found)} of {_count(len(found), 'setting')}. {rule}", *details]


def plateau(points: Sequence[Point]) -> list[str]:
    """E2: for how long should the head be trained alone?"""
    rule = (
        f"Rule: the plateau is every duration within {PLATEAU:g} points of the best Average; what is shorter than all"
        " of it is too short."
    )
    details = []
    for point in points:
        for rest, durations in _by_duration(point).items():
            details.append(at(point, f"{rest}: {_plateau(durations)}"))
    if not details:
        return [f"Durations of linear probing cannot be compared: no method has `lp_epochs` swept. {rule}"]
    return [rule, *details] if len(details) > 1 else [f"{details[0]} {rule}"]


def distortion(points: Sequence[Point]) -> list[str]:
    """F3a: does global accuracy fall where features move, and do they move less with LP-FT than with FT?"""
    rule = (
        "Rule: over clients, seeds and evaluated epochs of ft and lpft (without epoch 0, which is the origin),"
        " distortion and loss of Global against the global model are positively correlated, and the mean distortion of"
        " lpft at the end is below that of ft. The points of one client are not independent, hence no p-values."
    )
    lines = []
    for point in points:
        pairs = {name: _distortion_and_loss(point, name) for name in ("ft", "lpft")}
        pooled = [pair for own in pairs.values() for pair in own]
        parts = [f"all: {_correlation(pooled)}", *(f"{name}: {_correlation(own)}" for name, own in pairs.items())]
        moved = {name: _moved(point, name) for name in pairs}
        if not pooled or not all(moved.values()):
            lines.append(at(point, f"Distortion cannot be judged without results of both ft and lpft. {rule}"))
            continue
        positive = min(_correlations(pooled)) > 0
        less = fmean(moved["lpft"]) < fmean(moved["ft"])
        told = (
            f"Features that move go with lost global accuracy: {_yes(positive)}. {'; '.join(parts)}."
            f" LP-FT moves them less than FT: {_yes(less)} (mean distortion {spread(moved['lpft'], '.3f')} against"
            f" {spread(moved['ft'], '.3f')})."
        )
        lines.append(at(point, f"{told} {rule}" if point is points[0] else told))
    return lines


def depth(points: Sequence[Point]) -> list[str]:
    """F4: in which layers do features move, and does LP-FT spare all of them?"""
    rule = (
        "Rule: relative distortion of each layer's output on the client's own test images, mean over clients. LP-FT"
        " moves a layer less (or more) than FT if their difference, seed by seed, is more than one standard deviation"
        " from zero."
    )
    lines: list[str] = []
    for point in points:
        moved = {method: by_seed for method in point.trained if (by_seed := _by_depth(point, [method]))}
        if not moved:
            told = "Layers cannot be judged: it is not recorded how far they moved, or no body was trained"
        else:
            told = _layers_compared(*(_by_depth(point, _rows(point, family)) for family in ("lpft", "ft")))
        lines.append(at(point, f"{told}. {rule}" if point is points[0] else f"{told}."))
        lines += [at(point, f"{method}: {_depth_profile(by_seed)}") for method, by_seed in moved.items()]
    return lines


def probing(points: Sequence[Point]) -> list[str]:
    """PEFT: does training the head first help whatever is trained afterwards?"""
    rule = (
        "Rule: each method with linear probing first (lpft, lp_NAME) minus the same without (ft, NAME), at the same"
        " number of epochs, seed by seed. Helps, or hurts: Global differs by more than one standard deviation."
    )
    details: list[str] = []
    signs: list[int] = []
    for point in points:
        for first, plain in _pairs(point.methods):
            gaps = {name: point.differences(first, plain, name) for name in ("local", "global_all", "distortion_own")}
            if not gaps["global_all"]:
                continue
            signs.append(_sign(gaps["global_all"]))
            details.append(
                at(
                    point,
                    f"{first} minus {plain}: Global {spread(gaps['global_all'], '+.1f')}"
                    f" ({_standing(gaps['global_all'])}), Local {spread(gaps['local'], '+.1f')}, distortion"
                    f" {spread(gaps['distortion_own'], '+.2f')}.",
                )
            )
    if not details:
        return [f"Probing cannot be judged: no method is there with it and without. {rule}"]
    told = f"Probing first helps in {signs.count(1)}, hurts in {signs.count(-1)} of {_count(len(signs), 'pair')}"
    return [f"{told}. {rule}", *details]


def flooding(points: Sequence[Point]) -> list[str]:
    """F3b: is LP-FT better than FT at the same training loss?"""
    rule = (
        f"Rule: LP-FT minus FT in Global seed by seed, at flood levels b where the training loss of the last epoch is"
        f" within {MATCHED:.0%} of b with both; else not matched. Ahead means by more than one standard deviation."
    )
    details, ahead, matched = [], 0, 0
    for point in points:
        levels = {name: _levels(point, name) for name in ("ft", "lpft")}
        for level in sorted(levels["ft"].keys() & levels["lpft"].keys()):
            ft, lpft = levels["ft"][level], levels["lpft"][level]
            gap = point.differences(lpft, ft, "global_all")
            losses = {name: _last_loss(point, method) for name, method in (("ft", ft), ("lpft", lpft))}
            fits = all(abs(loss - level) <= MATCHED * level + 1e-9 for loss in losses.values())
            matched += fits
            ahead += fits and _sign(gap) > 0
            told = ", ".join(f"{name} {loss:.3g}" for name, loss in losses.items())
            details.append(
                at(
                    point,
                    f"b = {level:g}: {spread(gap, '+.1f')} ({_standing(gap)}); training loss {told}:"
                    f" {'matched' if fits else 'not matched'}.",
                )
            )
    if not details:
        return [f"Flooding cannot be judged: ft and lpft have no flood level in common. {rule}"]
    told = f"LP-FT is ahead at {ahead} of {_count(matched, 'matched level')} ({len(details)} in all)"
    told = told if matched else f"No level was matched ({len(details)} in all), hence nothing can be said"
    return [f"{told}. {rule}", *details]


def extremes(points: Sequence[Point]) -> list[str]:
    """E3, N3: where do clients have so little in common that no method remembers anything?"""
    rule = (
        "Rule: at chance if accuracy on the others' test sets (Global without the own one) is, with every method, less"
        " than a tenth of the way from chance to 100%; LP-FT no longer differs from FT if their difference in Global,"
        " seed by seed, is within one standard deviation."
    )
    details, collapsed, alike, known = [], 0, 0, False
    standings: list[int] = []
    for point in points:
        best = {m: fmean(x.values()) for m in point.trained if (x := point.by_seed(m, "global_others"))}
        classes = next((cell.num_classes for r in point.results for cell in r.cells if cell.num_classes), None)
        if not best or not classes:
            details.append(at(point, "cannot be judged: no results, or the number of classes is not known."))
            continue
        top = max(best, key=lambda method: best[method])
        bound = 100 / classes + NEAR_CHANCE * (100 - 100 / classes)
        chance = best[top] <= bound
        worst = [fmean(x.values()) for m in point.trained if (x := point.by_seed(m, "worst_row"))]
        told = (
            f"{'at chance' if chance else 'above chance'}: others at most {best[top]:.1f}% ({top}; near chance is up to"
            f" {bound:.1f}%), worst {max(worst):.1f}%"
        )
        gaps = {name: point.differences("lpft", "ft", name) for name in ("local", "global_all")}
        if gaps["global_all"]:
            known = known or len(gaps["global_all"]) > 1
            standings.append(_sign(gaps["global_all"]))
            alike += chance and len(gaps["global_all"]) > 1 and _sign(gaps["global_all"]) == 0
            told += f"; LP-FT minus FT: Global {spread(gaps['global_all'], '+.1f')} ({_standing(gaps['global_all'])}),"
            told += f" Local {spread(gaps['local'], '+.1f')}"
        collapsed += chance
        details.append(at(point, f"{told}."))
    told = f"No method remembers anything at {collapsed} of {_count(len(points), 'point')}"
    told += f"; at {alike} of those LP-FT no longer differs from FT" if collapsed and known else ""
    told += "; whether LP-FT differs from FT cannot be told without a second seed" if collapsed and not known else ""
    if known:
        ahead, behind = standings.count(1), standings.count(-1)
        told += f". In Global LP-FT is ahead of FT at {ahead}, behind at {behind} of {_count(len(standings), 'point')}"
    return [f"{told}. {rule}", *details]


def best(points: Sequence[Point]) -> list[str]:
    """N2, F4: which setting has the best Average, and is it really better than the others?"""
    rule = (
        "Rule: the highest Average on test data, mean over seeds; another setting is not told apart from it if their"
        " difference, seed by seed, is within one standard deviation. This is no tuning: test data must not choose"
        " settings."
    )
    details = []
    for point in points:
        families = dict.fromkeys(variant.family for variant in point.variants.values())
        groups = {"all methods": point.trained} | {name: point.family(name) for name in families}
        details += [at(point, f"{name}: {_best(point, methods)}") for name, methods in groups.items() if methods]
    return [rule, *details] if len(details) != 1 else [f"{details[0]} {rule}"]


def repairs(points: Sequence[Point]) -> list[str]:
    """N1: do clients gain from personalization, or because the global model was not finished?"""
    rule = (
        f"Rule: theta_G has converged if its validation accuracy changes by less than {MAX_CHANGE:g} points over the"
        " last tenth of the rounds, for more than half of the seeds; else gains count as repairs of theta_G. A gain in"
        " Global is a repair in any case."
    )
    levels: list[float] = []
    gains: dict[str, list[float]] = {}
    details, unready = [], 0
    for point in points:
        methods = [name for name in ("ft", "lpft") if name in point.methods] or point.trained
        before = _before(point)
        if not before or not methods:
            details.append(at(point, "cannot be judged: no results."))
            continue
        verdicts = [judge_convergence(history) for history in point.histories.values()]
        ready = sum(verdict.converged for verdict in verdicts)
        finished = 2 * ready > len(verdicts)
        unready += not finished
        changes = [verdict.change for verdict in verdicts if verdict.change is not None]
        told = f"theta_G {spread(list(before.values()), '.1f')}%,"
        told += f" converged for {ready} of {_count(len(verdicts), 'seed')}"
        told += f" (change {fmean(changes):+.2f})" if changes else " (too few rounds to tell)"
        levels.append(fmean(before.values()))
        for name in methods:
            gain = {
                k: [x - before[s] for s, x in point.by_seed(name, k).items() if s in before]
                for k in ("local", "global_all")
            }
            told += f"; {name}: Local {spread(gain['local'], '+.1f')}, Global {spread(gain['global_all'], '+.1f')}"
            told += " (a repair)" if _sign(gain["global_all"]) > 0 else ""
            gains.setdefault(name, []).append(fmean(gain["local"]) if gain["local"] else math.nan)
        details.append(at(point, f"{'personalization' if finished else 'repair'}: {told}."))
    trend = {name: _spearman(levels, own) for name, own in gains.items() if len(own) == len(levels) > 2}
    told = f"Gains count as repairs of theta_G at {unready} of {_count(len(points), 'point')}"
    if trend:
        listed = ", ".join(f"{name} {value:+.2f}" for name, value in trend.items())
        told += f"; rank correlation of theta_G's accuracy with the gain in Local over the points: {listed}"
        told += " (negative: the worse theta_G, the more is gained)"
    return [f"{told}. {rule}", *details]


# What the verdicts look at


def _overfits(point: Point, method: str) -> tuple[bool, str] | None:
    """Tell whether a setting overfits, with the numbers; None if no epochs were evaluated."""
    complete = point.complete(method)
    judged = [_overfits_on([result]) for result in complete]
    mean = _overfits_on(complete)
    if mean is None:
        return None
    overfits, lost, since, kept, first = mean
    agreeing = sum(each is not None and each[0] == overfits for each in judged)
    seeds = f", {agreeing} of {len(judged)} seeds" if len(judged) > 1 else ""
    change = round(-lost, 1) + 0.0  # not -0.0
    return overfits, f"Global {change:+.1f} since epoch {since}, Local {kept:+.1f} since epoch {first}{seeds}"


def _overfits_on(complete: Sequence[MethodResult]) -> tuple[bool, float, int, float, int] | None:
    curves = {name: _mean_curve(complete, name) for name in ("local", "global_all")}
    epochs = sorted(curves["local"].keys() & curves["global_all"].keys())
    if not [epoch for epoch in epochs if epoch > 0]:
        return None
    first = next(epoch for epoch in epochs if epoch > 0)
    end = {name: fmean(figures(result)[name] for result in complete) for name in curves}
    since = max(epochs, key=lambda epoch: curves["global_all"][epoch])
    lost = curves["global_all"][since] - end["global_all"]
    kept = end["local"] - curves["local"][first]
    return lost > OVERFIT and kept >= -RETAINED, lost, since, kept, first


def _mean_curve(results: Sequence[MethodResult], name: str) -> dict[int, float]:
    """Return the mean over seeds of a figure, for every epoch where all of them have it."""
    curves = [{row["epoch"]: row[name] for row in curve_rows(r) if row[name] is not None} for r in results]
    shared = set.intersection(*map(set, curves)) if curves else set()
    return {epoch: fmean(curve[epoch] for curve in curves) for epoch in sorted(shared)}


def _by_family(point: Point, judged: Mapping[str, tuple[bool, str]]) -> list[str]:
    """Say of every family, and of all that was not swept, which settings do and which do not."""
    groups: dict[str, dict[bool, list[str]]] = {}
    for method, (holds, told) in judged.items():
        variant = point.variants.get(method)
        group = groups.setdefault(variant.family if variant else "", {True: [], False: []})
        group[holds].append(f"{variant.label if variant else method} ({told})")
    lines = []
    for family, group in groups.items():
        words = [f"{word}: {', '.join(group[holds])}" for holds, word in ((True, "yes"), (False, "no")) if group[holds]]
        lines.append((f"{family}: " if family else "") + "; ".join(words) + ".")
    return lines


def _by_duration(point: Point) -> dict[str, dict[int, list[float]]]:
    """Return the Averages by seed for every duration of linear probing, by the family and its other settings."""
    budget = (point.config.get("personalization") or {}).get("epochs")
    methods = point.config.get("methods") or {}
    found: dict[str, dict[int, list[float]]] = {}
    for method in point.methods:
        variant = point.variants.get(method)
        if variant and "lp_epochs" in variant.values:
            duration = variant.values["lp_epochs"]
            rest = {key: value for key, value in variant.values.items() if key != "lp_epochs"}
            name = f"{variant.family} ({label(rest)})" if rest else variant.family
            averages = list(point.by_seed(method, _average(point)).values())
            own = ((methods.get(method) or {}).get("init_args") or {}).get("epochs") or budget
            duration = own if duration is None else duration
            if averages and duration is not None:
                found.setdefault(name, {})[int(duration)] = averages
    return found


def _plateau(durations: Mapping[int, Sequence[float]]) -> str:
    means = {duration: fmean(durations[duration]) for duration in sorted(durations)}
    top = max(means, key=lambda duration: means[duration])
    inside = [duration for duration, mean in means.items() if mean >= means[top] - PLATEAU - 1e-9]
    short = [duration for duration in means if duration < inside[0]]
    long = [duration for duration in means if duration > inside[-1]]
    width = pstdev(durations[top])
    told = (
        f"the best Average is {spread(durations[top], '.1f')} at lp_epochs={top}; plateau: {_listed(inside)}; too"
        f" short: {_listed(short)}; beyond it: {_listed(long)}"
    )
    told += f"; the spread over seeds ({width:.1f}) is more than the plateau's width" if width > PLATEAU else ""
    return f"{told}. Average by lp_epochs: {', '.join(f'{d}: {mean:.1f}' for d, mean in means.items())}."


def _distortion_and_loss(point: Point, family: str) -> list[tuple[float, float]]:
    """Return distortion and loss of Global for every client, seed and evaluated epoch of a method."""
    results = [result for method in _rows(point, family) for result in point.complete(method)]
    return [(moved, lost) for result in results for *_, moved, lost in distortion_points(result)]


def _moved(point: Point, family: str) -> list[float]:
    """Return the distortion at the end for every seed, mean over the rows that a method has."""
    by_seed: dict[int, list[float]] = {}
    for method in _rows(point, family):
        for seed, value in point.by_seed(method, "distortion_own").items():
            by_seed.setdefault(seed, []).append(value)
    return [fmean(values) for values in by_seed.values()]


def _pairs(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Return methods that probe first, each with what it does afterwards."""
    known = list(methods)
    pairs = [("lpft", "ft"), *((name, name.removeprefix("lp_")) for name in known if name.startswith("lp_"))]
    return [(first, plain) for first, plain in pairs if first in known and plain in known]


def _by_depth(point: Point, methods: Sequence[str]) -> dict[int, dict[str, float]]:
    """Return the relative distortion by layer for every seed, mean over the methods; none if no body was trained."""
    found: dict[int, dict[str, list[float]]] = {}
    for result in (result for method in methods for result in point.complete(method)):
        for row in depth_rows(result):
            if row["distortion_relative"] is not None:
                found.setdefault(result.seed, {}).setdefault(row["layer"], []).append(row["distortion_relative"])
    return {seed: {layer: fmean(values) for layer, values in layers.items()} for seed, layers in found.items()}


def _layers_compared(lpft: Mapping[int, Mapping[str, float]], ft: Mapping[int, Mapping[str, float]]) -> str:
    """Say how many layers LP-FT moves less than FT."""
    gaps = _layer_gaps(lpft, ft)
    if not gaps:
        return "LP-FT cannot be held against FT: no seed has both"
    signs = {layer: _sign(values) for layer, values in gaps.items()}
    less, more = ([layer for layer, sign in signs.items() if sign == way] for way in (-1, 1))
    told = f"LP-FT moves {len(less)} of {_count(len(signs), 'layer')} less than FT"
    told += f", {len(more)} more ({_listed(more)})" if more else ", none more"
    return told + ("" if max(map(len, gaps.values())) > 1 else "; one seed: no spread to judge by")


def _layer_gaps(
    mine: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]
) -> dict[str, list[float]]:
    """Return for every layer the differences of two methods, seed by seed."""
    pairs = [(mine[seed], other[seed]) for seed in mine if seed in other]
    layers = dict.fromkeys(layer for a, _ in pairs for layer in a)
    return {layer: [a[layer] - b[layer] for a, b in pairs if layer in a and layer in b] for layer in layers}


def _depth_profile(by_seed: Mapping[int, Mapping[str, float]]) -> str:
    """Say where a method moves least and most, and how it goes with depth."""
    layers = dict.fromkeys(layer for own in by_seed.values() for layer in own)
    values = {layer: [own[layer] for own in by_seed.values() if layer in own] for layer in layers}
    means = {layer: fmean(own) for layer, own in values.items()}
    told = ", ".join(f"{layer} {spread(own, '.3f')}" for layer, own in values.items())
    if len(values) > MANY_LAYERS:
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        last = list(values)[-1]
        ends = dict.fromkeys((low, high, last))
        told = "; ".join(f"{layer} {spread(values[layer], '.3f')}" for layer in ends)
        told = f"least, most and last of {_count(len(values), 'layer')}: {told}"
    rank = _spearman(list(range(len(means))), list(means.values())) if len(means) >= FEW_LAYERS else math.nan
    return told + ("." if math.isnan(rank) else f"; rank correlation with depth {rank:+.2f}.")


def _rows(point: Point, family: str) -> list[str]:
    """Return the row of a method; if it was swept, those of its variants."""
    return [family] if family in point.methods else point.family(family)


def _above(values: Mapping[int, float], before: Mapping[int, float]) -> list[float]:
    return [value - before[seed] for seed, value in values.items() if seed in before]


def _levels(point: Point, family: str) -> dict[float, str]:
    """Return a family's rows by their flood level."""
    methods = point.config.get("methods") or {}
    rows = {m: ((methods.get(m) or {}).get("init_args") or {}).get("flood") for m in point.family(family)}
    return {float(level): method for method, level in rows.items() if level is not None}


def _last_loss(point: Point, method: str) -> float:
    """Return the training loss of the last epoch, mean over clients and seeds."""
    losses = [
        curve[-1]["train_loss"]
        for result in point.complete(method)
        if (curve := curve_rows(result)) and curve[-1]["train_loss"] is not None
    ]
    return fmean(losses) if losses else math.nan


def _best(point: Point, methods: Sequence[str]) -> str:
    average = _average(point)
    means = {m: fmean(values.values()) for m in methods if (values := point.by_seed(m, average))}
    if not means:
        return "no Average is known."
    top = max(means, key=lambda method: means[method])
    mean = spread(list(point.by_seed(top, average).values()), ".1f")
    told = f"best of {_count(len(means), 'setting')} is {top}, Average {mean}"
    others = {m: point.differences(top, m, average) for m in means if m != top}
    if not others:
        return f"{told}."
    if all(len(gaps) < 2 for gaps in others.values()):
        second = min(others, key=lambda m: means[top] - means[m])
        return f"{told}; next is {second}, {means[top] - means[second]:.1f} below. One seed: no spread to judge by."
    alike = {m: gaps for m, gaps in others.items() if _sign(gaps) <= 0}
    listed = ", ".join(f"{m} ({-fmean(gaps):+.1f} ± {pstdev(gaps):.1f})" for m, gaps in list(alike.items())[:6])
    more = f" and {len(alike) - 6} more" if len(alike) > 6 else ""
    low = min(means, key=lambda method: means[method])
    told += f"; within one standard deviation of it: {listed}{more}" if alike else "; all others are further below"
    return f"{told}; lowest is {low}, {means[low]:.1f}."


def _before(point: Point) -> dict[int, float]:
    """Return the global model's accuracy by seed, mean over the clients' test sets."""
    known: dict[int, list[float]] = {}
    for result in point.results:
        if result.complete and result.seed not in known:
            known[result.seed] = [cell.local_before for cell in result.cells if cell.local_before is not None]
    return {seed: fmean(values) for seed, values in known.items() if values}


def _average(point: Point) -> str:
    """Return the figure that is called Average; a single client has no worst other, hence none of three."""
    several = any(not math.isnan(row["average3"]) for row in point.rows)
    return "average3" if several else "average2"


# Numbers and words


def _correlation(pairs: Sequence[tuple[float, float]]) -> str:
    pearson, spearman = _correlations(pairs)
    if math.isnan(pearson):
        return f"no correlation can be told from {_count(len(pairs), 'point')}"
    return f"Pearson {pearson:+.2f}, Spearman {spearman:+.2f} over {_count(len(pairs), 'point')}"


def _correlations(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return Pearson's and Spearman's coefficient; NaN where one side does not vary."""
    from scipy import stats  # takes a second

    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return math.nan, math.nan
    x, y = zip(*pairs, strict=True)
    return float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    return _correlations([(a, b) for a, b in zip(x, y, strict=True) if not math.isnan(a + b)])[1]


def _sign(gaps: Sequence[float]) -> int:
    """Return 1 or -1 if the mean is more than one standard deviation from zero, else 0; so is a single seed."""
    if len(gaps) < 2 or abs(fmean(gaps)) <= pstdev(gaps):
        return 0
    return 1 if fmean(gaps) > 0 else -1


def _standing(gaps: Sequence[float]) -> str:
    if len(gaps) < 2:
        return "one seed: no spread to judge by" if gaps else "no seed has both"
    return {0: "within one standard deviation", 1: "ahead", -1: "behind"}[_sign(gaps)]


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
