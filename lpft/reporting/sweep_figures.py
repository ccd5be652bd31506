"""The figures of sweeps: metrics against the swept value, and heat maps where two keys were swept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from lpft.evaluation.metrics import metric_named
from lpft.reporting.analysis import Analysis
from lpft.reporting.drawing import Drawing
from lpft.reporting.figure_data import complete
from lpft.reporting.heatmap import bare, write_number
from lpft.reporting.style import INK, Look, looks, panels, short
from lpft.reporting.sweeps import Values, short_keys, word

DRAWN = ("local", "global_all", "worst_row", "average3", "distortion_own")
"""The metrics that are drawn against a swept value."""
IN_GRID = ("local", "global_all", "average3")
"""What is drawn where several keys were swept, and every metric has a row of panels."""
IN_HEAT = ("local", "global_all", "average3", "distortion_own")
DECADES = 30.0
"""Positive values are drawn on a logarithmic axis if the largest is so many times the smallest."""
MANY = 6
"""So many panels stand beside each other."""


@dataclass(frozen=True)
class Observation:
    """One mark of a line: a method at swept values.

    Args:
        line: the method.
        values: the swept values by short key.
        rows: of results.csv, one per seed.
    """

    line: str
    values: Values
    rows: pd.DataFrame

    def mean_and_std(self, metric: str) -> tuple[float, float]:
        """Return mean and standard deviation over the seeds; NaN without values."""
        values = self.rows[metric].dropna().to_numpy(dtype=float) if metric in self.rows else np.array([])
        return (float(values.mean()), float(values.std())) if len(values) else (math.nan, math.nan)


def variant_drawings(analysis: Analysis) -> dict[str, Drawing]:
    """Return the figures of sweeps over methods' settings within a run: lines for one key, heat maps for two.

    Methods that were swept over the same key share a figure; the others are horizontal lines in it.
    """
    look = looks(analysis.methods, analysis.config)
    families: dict[str, list[Observation]] = {}
    controls = []
    for method in complete(analysis):
        variant = analysis.variants.get(method)
        if variant:
            observation = Observation(variant.family, variant.values, _rows(analysis, method))
            families.setdefault(variant.family, []).append(observation)
        else:
            controls.append(Observation(method, {}, _rows(analysis, method)))
    base = {look[method].family: look[method].plain for method in analysis.methods}
    by_keys: dict[tuple[str, ...], list[Observation]] = {}
    drawings: dict[str, Drawing] = {}
    for family, observations in families.items():
        keys = tuple(_varied(observations))
        if len(keys) == 2:
            name = f"heat-{_safe(family)}"
            title = f"{family} by {' and '.join(keys)}"
            caption = "Mean over seeds; every panel has its own scale. Framed: highest accuracy, least distortion."
            drawings[name] = Drawing(name, title, caption, partial(_heat, observations, keys, False))
        elif keys:
            by_keys.setdefault(keys, []).extend(observations)
    for keys, observations in by_keys.items():
        name = f"sweep-{'-'.join(_safe(key) for key in keys)}"
        names = dict.fromkeys(observation.line for observation in observations)
        caption = (
            "Mean over seeds; bars show one standard deviation. Horizontal lines are methods that were not swept."
            f" Distortion is how far the features moved.{_left_out(observations, keys)}"
        )
        title = f"{' and '.join(names)} by {', '.join(keys)}"
        drawings[name] = Drawing(name, title, caption, partial(_lines, observations, keys, controls, base))
    return drawings


def point_drawings(points: Sequence[Analysis]) -> dict[str, Drawing]:
    """Return the figures of a sweep over runs: lines, and for two keys the compared pair's difference as heat maps."""
    names = short_keys(list(dict.fromkeys(key for point in points for key in point.values)))
    observations = [
        Observation(method, _named(point, names), _rows(point, method))
        for point in points
        for method in complete(point)
    ]
    keys = tuple(_varied(observations))
    if not keys:
        return {}
    methods = list(dict.fromkeys(observation.line for observation in observations))
    settings = {m: s for point in points for m, s in (point.config.get("methods") or {}).items()}
    caption = "Mean over seeds; bars show one standard deviation. Accuracies are on test data."
    caption += _left_out(observations, keys)
    lines = partial(_lines, observations, keys, (), looks(methods, {"methods": settings}))
    drawings = {"sweep": Drawing("sweep", f"By {', '.join(keys)}", caption, lines)}
    pair = next(iter(points[0].pairs), None)
    differences = _differences(points, names, *pair) if pair else []
    if pair and differences and len(keys) == 2:
        caption = (
            f"Mean over seeds of the differences seed by seed. Blue: {pair[0]} has the higher accuracy, or the smaller"
            f" distortion; red: {pair[1]} does."
        )
        heat = partial(_heat, differences, keys, True)
        drawings["difference"] = Drawing("difference", f"{pair[0]} minus {pair[1]}", caption, heat)
    return drawings


def _rows(analysis: Analysis, method: str) -> pd.DataFrame:
    return analysis.results[(analysis.results["method"] == method) & analysis.results["complete"]]


def _named(point: Analysis, names: Mapping[str, str]) -> dict[str, Any]:
    return {names[key]: value for key, value in point.values.items()}


def _differences(points: Sequence[Analysis], names: Mapping[str, str], method: str, baseline: str) -> list[Observation]:
    """Return one observation per point whose rows are differences, one per seed that has both."""
    observations = []
    for point in points:
        mine, theirs = (_rows(point, name).set_index("seed")[list(DRAWN)] for name in (method, baseline))
        gaps = (mine - theirs).loc[mine.index.intersection(theirs.index)]
        if len(gaps):
            observations.append(Observation("", _named(point, names), gaps))
    return observations


def _title(metric: str, signed: bool = False) -> str:
    entry = metric_named(metric)
    unit = "points" if signed and entry.unit == "%" else entry.unit
    return f"{entry.title} ({unit})" if unit else entry.title


# Lines


def _lines(
    observations: Sequence[Observation], keys: Sequence[str], controls: Sequence[Observation], look: Mapping[str, Look]
) -> Figure | None:
    """Draw one line per method against the key with the most values; other keys make columns of panels."""
    across, rest, columns = _columns(observations, keys)
    columns = columns[:MANY]
    metrics = [
        m for m in (IN_GRID if rest else DRAWN) if any(not math.isnan(o.mean_and_std(m)[0]) for o in observations)
    ]
    if not metrics:
        return None
    if rest:
        size = (max(1.75, 7.4 / len(columns)), 1.9)
        figure, axes = panels(len(metrics) * len(columns), len(columns), size, sharey="row", sharex=True)
    else:
        figure, axes = panels(len(metrics), 3, (2.75, 2.3), (0.2, 0.5))
    places = _places(_levels(observations, across))
    for number, (metric, column) in enumerate(product(metrics, columns)):
        ax = axes[number]
        here = [o for o in observations if all(_same(o.values[k], v) for k, v in zip(rest, column, strict=True))]
        for control in controls:
            _control(ax, control, metric, look)
        for line in dict.fromkeys(o.line for o in here):
            _line(ax, [o for o in here if o.line == line], across, metric, places, look[line])
        _label_axis(ax, places)
        first, last = number % len(columns) == 0, not rest or number >= len(axes) - len(columns)
        if rest and number < len(columns):
            ax.set_title(", ".join(f"{k}={word(v)}" for k, v in zip(rest, column, strict=True)), fontsize=9)
        if rest and first:
            ax.set_ylabel(_title(metric))
        if not rest:
            ax.set_title(_title(metric))
        ax.tick_params(labelbottom=last)
    figure.supxlabel(across, fontsize=9.5, color=INK)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper left", ncols=min(6, len(names)), handlelength=1.8, columnspacing=1.3
    )
    return figure


def _columns(observations: Sequence[Observation], keys: Sequence[str]) -> tuple[str, list[str], list[tuple[Any, ...]]]:
    """Return the key with the most values, the other keys, and all combinations of their values."""
    counts = {key: len(_levels(observations, key)) for key in keys}
    across = max(counts, key=lambda key: counts[key])
    rest = [key for key in keys if key != across]
    return across, rest, list(product(*(_levels(observations, key) for key in rest)))


def _left_out(observations: Sequence[Observation], keys: Sequence[str]) -> str:
    """Name what is not drawn; empty if everything is."""
    _, rest, columns = _columns(observations, keys)
    if len(columns) <= MANY:
        return ""
    return f" Of {len(columns)} combinations of {' and '.join(rest)} the first {MANY} are drawn; sweep.csv has all."


def _line(
    axes: Axes,
    observations: Sequence[Observation],
    across: str,
    metric: str,
    places: Sequence[tuple[Any, float, str]],
    look: Look,
) -> None:
    marks = [
        (x, *o.mean_and_std(metric)) for value, x, _ in places for o in observations if _same(o.values[across], value)
    ]
    marks = [mark for mark in marks if not math.isnan(mark[1])]
    if not marks:
        return
    x, mean, std = zip(*marks, strict=True)
    style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 7 if look.marker == "*" else 4.5}
    several = any(len(o.rows) > 1 for o in observations)
    axes.errorbar(
        x, mean, std if several else None, **style, linewidth=1.5, elinewidth=1, label=short(observations[0].line, 24)
    )


def _control(axes: Axes, control: Observation, metric: str, look: Mapping[str, Look]) -> None:
    mean, _ = control.mean_and_std(metric)
    line = look[control.line]
    if not math.isnan(mean):
        style = (0, (1, 1.5)) if line.reference else (0, (5, 2))
        axes.axhline(mean, color=line.color, linestyle=style, linewidth=1.3, label=short(control.line, 24))


def _label_axis(axes: Axes, places: Sequence[tuple[Any, float, str]]) -> None:
    x = [place for _, place, _ in places]
    if _is_log([value for value, *_ in places]):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    ticks = _apart(places, _is_log([value for value, *_ in places]))
    axes.set_xticks([place for _, place, _ in ticks], [text for *_, text in ticks])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(*_limits(x, _is_log([value for value, *_ in places])))


def _limits(x: Sequence[float], log: bool) -> tuple[float, float]:
    if log:
        margin = (max(x) / min(x)) ** 0.06
        return min(x) / margin, max(x) * margin
    margin = 0.06 * (max(x) - min(x)) or 0.5
    return min(x) - margin, max(x) + margin


def _apart(places: Sequence[tuple[Any, float, str]], log: bool) -> list[tuple[Any, float, str]]:
    """Leave out ticks whose labels would touch those before; the first and the last stay."""
    scale = [math.log10(x) if log else x for _, x, _ in places]
    width = (scale[-1] - scale[0]) or 1.0
    gap = width * max(0.08, 0.035 * max(len(text) for *_, text in places))
    kept = [0]
    for number in range(1, len(places)):
        if scale[number] - scale[kept[-1]] >= gap:
            kept.append(number)
    last = len(places) - 1
    if kept[-1] != last:
        kept = [number for number in kept if not number or scale[last] - scale[number] >= gap] + [last]
    return [places[number] for number in kept]


def _places(levels: Sequence[Any]) -> list[tuple[Any, float, str]]:
    """Return position on the axis and label of every swept value, from left to right.

    Numbers are at their value; on a logarithmic axis, 0 is one step left of the smallest. Other values are
    evenly spaced.
    """
    if not all(_is_number(level) for level in levels):
        return [(level, float(number), text) for number, (level, text) in enumerate(_texts(levels, 14))]
    ordered = sorted(levels)
    if not _is_log(ordered):
        return [(level, float(level), word(level)) for level in ordered]
    positive = [level for level in ordered if level > 0]
    step = (positive[-1] / positive[0]) ** (1 / (len(positive) - 1))
    return [(level, float(level) if level > 0 else positive[0] / step, word(level)) for level in ordered]


def _texts(levels: Sequence[Any], length: int) -> list[tuple[Any, str]]:
    """Write values in short; at full length where two would look the same."""
    texts = [short(word(level), length) for level in levels]
    return list(zip(levels, texts if len(set(texts)) == len(texts) else map(word, levels), strict=True))


def _is_log(levels: Sequence[Any]) -> bool:
    if not all(_is_number(level) and level >= 0 for level in levels):
        return False
    positive = [level for level in levels if level > 0]
    return len(positive) > 2 and max(positive) / min(positive) >= DECADES


# Heat maps


def _heat(observations: Sequence[Observation], keys: Sequence[str], signed: bool) -> Figure | None:
    """Draw the means over two keys: the first downwards, the second across."""
    down, across = ([value for value, *_ in _places(_levels(observations, key))] for key in keys)
    metrics = [m for m in IN_HEAT if any(not math.isnan(o.mean_and_std(m)[0]) for o in observations)]
    if not metrics:
        return None
    size = (max(3.3, 0.62 * len(across) + 0.9), max(1.9, 0.42 * len(down) + 0.9))
    figure, axes = panels(len(metrics), 2, size, (0.3, 0.3))
    for ax, metric in zip(axes, metrics, strict=True):
        values = np.full((len(down), len(across)), np.nan)
        for observation in observations:
            row = next(i for i, value in enumerate(down) if _same(value, observation.values[keys[0]]))
            column = next(i for i, value in enumerate(across) if _same(value, observation.values[keys[1]]))
            values[row, column] = observation.mean_and_std(metric)[0]
        _heat_panel(ax, values, metric, signed)
        ax.set_title(_title(metric, signed))
        ax.set_xticks(range(len(across)), [text for _, text in _texts(across, 12)])
        ax.set_yticks(range(len(down)), [text for _, text in _texts(down, 12)])
        ax.set_xlabel(keys[1])
        ax.set_ylabel(keys[0])
    return figure


def _heat_panel(axes: Axes, values: np.ndarray, metric: str, signed: bool) -> None:
    finite = values[~np.isnan(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    reach = max(abs(low), abs(high)) or 1.0
    entry = metric_named(metric)
    better = -1 if entry.better == "lower" else 1
    scale = TwoSlopeNorm(0, -reach, reach) if signed else Normalize(low, high if high > low else low + 1)
    colors = ("RdBu" if signed else "viridis") + ("_r" if better < 0 else "")
    image = axes.imshow(values, norm=scale, cmap=colors, aspect="auto", interpolation="none")
    bare(axes)
    form = f"{{:{'+' if signed else ''}.{1 if entry.unit == '%' and reach >= 1 else 2}f}}"
    best = float(np.nanmax(better * values)) if finite.size else math.nan
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            framed = not signed and better * value == best
            weight = "bold" if framed else "normal"
            ground = image.cmap(float(scale(value)))
            ink = write_number(axes, row, column, form.format(value), ground, fontsize=8, fontweight=weight)
            if framed:
                frame = Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=ink, linewidth=1.2)
                axes.add_patch(frame)


# Swept values


def _varied(observations: Sequence[Observation]) -> list[str]:
    """Return the keys with more than one value."""
    keys = dict.fromkeys(key for o in observations for key in o.values)
    return [key for key in keys if len(_levels(observations, key)) > 1]


def _levels(observations: Sequence[Observation], key: str) -> list[Any]:
    """Return the values of a key, each once, as they come."""
    levels = {json.dumps(o.values[key]): o.values[key] for o in observations if key in o.values}
    return list(levels.values())


def _same(one: object, other: object) -> bool:
    return json.dumps(one) == json.dumps(other)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _safe(name: str) -> str:
    """Return a name that may be part of a file name and of an id."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
