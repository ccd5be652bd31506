"""The figures of sweeps: metrics against the swept value, and heat maps where two keys were swept."""

from __future__ import annotations

import json
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
from lpft.reporting.analysis import Analysis, swept_keys
from lpft.reporting.drawing import Drawing, described, panels
from lpft.reporting.experiment import Values, measure_word, section, short_keys, word
from lpft.reporting.frames import complete_rows
from lpft.reporting.heatmap import draw_fields, write_numbers
from lpft.reporting.style import INK, Look, looks, short

DRAWN = ("local", "global_all", "worst_row", "average3", "distortion_own")
"""The metrics that are drawn against a swept value, and have a table of all points in the report."""
IN_GRID = ("local", "global_all", "average3")
"""What is drawn where several keys were swept, and every metric has a row of panels."""
IN_HEAT = ("local", "global_all", "average3", "distortion_own")
DECADES = 30.0
"""Values are drawn on a logarithmic axis if the largest is at least this many times the smallest positive one."""
MANY = 6
"""Maximum number of panels in a row."""


Swept = pd.DataFrame
"""Rows of results.csv with ``line``, the method, and a column of JSON for every swept key, named by `KEY`."""
KEY = "swept {}".format


@dataclass(frozen=True)
class Scale:
    """The values of a swept key on an axis.

    Args:
        levels: its values as JSON, from left to right.
        values: the same as values.
        x: their positions: numbers are at their value; on a logarithmic axis, 0 is one step left of the smallest.
            Other values are evenly spaced.
        log: whether the axis is logarithmic.
    """

    levels: list[str]
    values: list[Any]
    x: list[float]
    log: bool

    @classmethod
    def of(cls, column: pd.Series) -> Scale:
        """Return the scale that fits a column of JSON."""
        values = {level: json.loads(level) for level in column.unique()}
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values.values()):
            return cls(list(values), list(values.values()), list(map(float, range(len(values)))), log=False)
        levels = sorted(values, key=lambda level: values[level])
        numbers = [values[level] for level in levels]
        positive = [value for value in numbers if value > 0]
        log = numbers[0] >= 0 and len(positive) > 2 and positive[-1] / positive[0] >= DECADES
        zero = positive[0] / (positive[-1] / positive[0]) ** (1 / (len(positive) - 1)) if log else 0.0
        return cls(levels, numbers, [float(value) or zero for value in numbers], log)

    def texts(self, length: int) -> list[str]:
        """Return the values in short; at full length where two would look the same."""
        texts = [word(value) for value in self.values]
        cut = [short(text, length) for text in texts]
        return cut if len(set(cut)) == len(cut) else texts

    def set_axis(self, axes: Axes) -> None:
        """Set scale, limits and ticks of the horizontal axis."""
        if self.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        transform = axes.xaxis.get_transform()
        positions = transform.transform(np.array(self.x))
        margin = 0.06 * (positions[-1] - positions[0]) or 0.5
        axes.set_xlim(*transform.inverted().transform(np.array([positions[0] - margin, positions[-1] + margin])))
        texts = self.texts(14)
        shown = _apart(positions.tolist(), texts)
        axes.set_xticks([self.x[index] for index in shown], [texts[index] for index in shown])
        axes.tick_params(axis="x", labelsize=8)


def variant_drawings(analysis: Analysis) -> dict[str, Drawing]:
    """Return the figures of sweeps over methods' settings within a run: lines for one key, heat maps for two.

    Methods that were swept over the same key share a figure; the others are horizontal lines in it.
    """
    experiment, look = analysis.experiment, analysis.looks
    controls = [_swept(analysis, method, {}) for method in experiment.methods if method not in experiment.variants]
    by_keys: dict[tuple[str, ...], list[Swept]] = {}
    drawings: dict[str, Drawing] = {}
    for family, members in experiment.families(experiment.variants).items():
        rows = pd.concat([_swept(analysis, method, experiment.variants[method].values) for method in members])
        rows["line"] = family
        keys = _varied(rows)
        if len(keys) == 2:
            name = f"heat-{_safe(family)}"
            draw = partial(_heat, rows, keys, False)
            drawings[name] = described(name, "heat", draw, experiment.config, family=family, keys=keys)
        elif keys:
            by_keys.setdefault(keys, []).append(rows)
    plain = {look[method].family: look[method].plain for method in experiment.methods}
    for keys, parts in by_keys.items():
        rows, name = pd.concat(parts), f"sweep-{'-'.join(map(_safe, keys))}"
        draw = partial(_lines, rows, keys, plain, pd.concat(controls) if controls else rows[:0])
        names = list(rows["line"].unique())
        values = {"names": names, "keys": keys, **_left_out(rows, keys)}
        drawings[name] = described(name, "variants", draw, experiment.config, **values)
    return drawings


def point_drawings(points: Sequence[Analysis]) -> dict[str, Drawing]:
    """Return the figures of a sweep over runs: lines, and for two keys the compared pair's difference as heat maps."""
    names = short_keys(swept_keys(points))
    named = [{names[key]: value for key, value in point.experiment.values.items()} for point in points]
    in_points = list(zip(points, named, strict=True))
    rows = pd.concat([_swept(point, m, values) for point, values in in_points for m in point.experiment.methods])
    keys = _varied(rows)
    if not keys:
        return {}
    settings = {m: s for point in points for m, s in section(point.experiment.config, "methods").items()}
    look = looks(list(rows["line"].unique()), {"methods": settings})
    draw = partial(_lines, rows, keys, look, rows[:0])
    config, pairs = points[0].experiment.config, points[0].experiment.pairs
    measure = measure_word(*(point.experiment.config for point in points))
    drawings = {
        "sweep": described("sweep", "points", draw, config, measure=measure, keys=keys, **_left_out(rows, keys))
    }
    if pairs and len(keys) == 2:
        gaps = pd.concat([_difference(point, values, *pairs[0]) for point, values in in_points])
        if len(gaps):
            draw = partial(_heat, gaps, keys, True)
            drawings["difference"] = described("difference", "difference", draw, config, measure=measure, pair=pairs[0])
    return drawings


def _swept(analysis: Analysis, method: str, values: Values) -> Swept:
    rows = complete_rows(analysis.frames, analysis.frames.results, method)
    return rows.assign(line=method, **{KEY(key): json.dumps(value) for key, value in values.items()})


def _difference(point: Analysis, values: Values, method: str, baseline: str) -> Swept:
    """Return one row per seed that has both methods."""
    of_method, of_baseline = (_swept(point, name, {}).set_index("seed")[list(DRAWN)] for name in (method, baseline))
    gaps = (of_method - of_baseline).loc[of_method.index.intersection(of_baseline.index)]
    return gaps.assign(**{KEY(key): json.dumps(value) for key, value in values.items()})


def _varied(rows: Swept) -> tuple[str, ...]:
    """Return the keys with more than one value."""
    keys = {name.removeprefix(KEY("")): name for name in rows.columns if name.startswith(KEY(""))}
    return tuple(key for key, name in keys.items() if rows[name].nunique() > 1)


def _safe(name: str) -> str:
    """Return a name that may be part of a file name and of an id."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)


def _title(metric: str, signed: bool = False) -> str:
    entry = metric_named(metric)
    unit = "points" if signed and entry.unit == "%" else entry.unit
    return f"{entry.title} ({unit})" if unit else entry.title


# Lines


def _lines(rows: Swept, keys: Sequence[str], look: Mapping[str, Look], controls: Swept) -> Figure | None:
    """Draw one line per method against the key with the most values; other keys make columns of panels."""
    across, other_keys, columns = _columns(rows, keys)
    columns = columns[:MANY]
    metrics = [metric for metric in (IN_GRID if other_keys else DRAWN) if rows[metric].notna().any()]
    if not metrics:
        return None
    if other_keys:
        size = (max(1.75, 7.4 / len(columns)), 1.9)
        figure, axes = panels(len(metrics) * len(columns), len(columns), size, sharey="row", sharex=True)
    else:
        figure, axes = panels(len(metrics), 3, (2.75, 2.3), (0.2, 0.5))
    scale = Scale.of(rows[KEY(across)])
    for number, (ax, (metric, column)) in enumerate(zip(axes, product(metrics, columns), strict=True)):
        levels = controls.groupby("line", sort=False)[metric].mean().dropna()
        for method in map(str, levels.index):
            dashes = (0, (1, 1.5)) if look[method].reference else (0, (5, 2))
            ax.axhline(
                levels[method], color=look[method].color, linestyle=dashes, linewidth=1.3, label=short(method, 24)
            )
        in_panel = rows[(rows[list(map(KEY, other_keys))] == list(column)).all(axis=1)]
        for method, of_method in in_panel.groupby("line", sort=False):
            _line(ax, short(method, 24), of_method.groupby(KEY(across))[metric], scale, look[method])
        scale.set_axis(ax)
        if not other_keys:
            ax.set_title(_title(metric))
        elif number < len(columns):
            values = (f"{key}={word(json.loads(level))}" for key, level in zip(other_keys, column, strict=True))
            ax.set_title(", ".join(values), fontsize=9)
        if other_keys and number % len(columns) == 0:
            ax.set_ylabel(_title(metric))
        ax.tick_params(labelbottom=not other_keys or number >= len(axes) - len(columns))
    figure.supxlabel(across, color=INK)
    handles, names = axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"ncols": min(6, len(names)), "handlelength": 1.8, "columnspacing": 1.3}
    figure.legend(handles, names, loc="outside upper left", **style)
    return figure


def _columns(rows: Swept, keys: Sequence[str]) -> tuple[str, list[str], list[tuple[str, ...]]]:
    """Return the key with the most values, the other keys, and all combinations of their values."""
    across = max(keys, key=lambda key: rows[KEY(key)].nunique())
    other_keys = [key for key in keys if key != across]
    return across, other_keys, list(product(*(rows[KEY(key)].dropna().unique() for key in other_keys)))


def _left_out(rows: Swept, keys: Sequence[str]) -> dict[str, Any]:
    """Return what a caption needs to name what is not drawn."""
    _, other_keys, columns = _columns(rows, keys)
    return {"rest": other_keys, "combinations": len(columns), "most": MANY}


def _line(axes: Axes, name: str, by_level: Any, scale: Scale, look: Look) -> None:
    marks = pd.DataFrame({"mean": by_level.mean(), "std": by_level.std(ddof=0)}).reindex(scale.levels)
    marks = marks.assign(x=scale.x).dropna(subset="mean")
    if len(marks):
        size = 7 if look.marker == "*" else 4.5
        style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": size, "elinewidth": 1}
        several = by_level.size().max() > 1
        axes.errorbar(marks["x"], marks["mean"], marks["std"] if several else None, linewidth=1.5, label=name, **style)


def _apart(positions: Sequence[float], texts: Sequence[str]) -> list[int]:
    """Return the ticks whose labels do not touch those before, by index; the first and the last are always shown."""
    last = len(positions) - 1
    gap = ((positions[last] - positions[0]) or 1.0) * max(0.08, 0.035 * max(map(len, texts)))
    shown = [0]
    for index in range(1, len(positions)):
        if positions[index] - positions[shown[-1]] >= gap:
            shown.append(index)
    if shown[-1] != last:
        shown = [index for index in shown if index == 0 or positions[last] - positions[index] >= gap] + [last]
    return shown


# Heat maps


def _heat(rows: Swept, keys: Sequence[str], signed: bool) -> Figure | None:
    """Draw the means over two keys: the first downwards, the second across."""
    down, across = (Scale.of(rows[KEY(key)]) for key in keys)
    metrics = [metric for metric in IN_HEAT if rows[metric].notna().any()]
    if not metrics:
        return None
    size = (max(3.3, 0.62 * len(across.x) + 0.9), max(1.9, 0.42 * len(down.x) + 0.9))
    figure, axes = panels(len(metrics), 2, size, (0.3, 0.3))
    for ax, metric in zip(axes, metrics, strict=True):
        means = rows.groupby(list(map(KEY, keys)))[metric].mean().unstack()
        _heat_panel(ax, means.reindex(index=down.levels, columns=across.levels).to_numpy(), metric, signed)
        ax.set_title(_title(metric, signed))
        ax.set_xticks(range(len(across.x)), across.texts(12))
        ax.set_yticks(range(len(down.x)), down.texts(12))
        ax.set_xlabel(keys[1])
        ax.set_ylabel(keys[0])
    return figure


def _heat_panel(axes: Axes, values: np.ndarray, metric: str, signed: bool) -> None:
    """Draw one metric; without signs, the best values are framed."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    reach = max(abs(low), abs(high)) or 1.0
    entry = metric_named(metric)
    better = -1 if entry.better == "lower" else 1
    scale = TwoSlopeNorm(0, -reach, reach) if signed else Normalize(low, high if high > low else low + 1)
    colors = ("RdBu" if signed else "viridis") + ("_r" if better < 0 else "")
    image = draw_fields(axes, values, scale, cmap=colors, aspect="auto")
    decimals = 1 if entry.unit == "%" and reach >= 1 else 2
    write_numbers(image, f"{'+' if signed else ''}.{decimals}f", fontsize=8)
    for row, column in np.argwhere(better * values == np.nanmax(better * values)) if not signed else ():
        number = next(text for text in axes.texts if text.get_position() == (column, row))
        number.set_fontweight("bold")
        edge = number.get_color()
        axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=edge, linewidth=1.2))
