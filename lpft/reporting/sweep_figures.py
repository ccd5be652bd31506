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
from lpft.reporting.drawing import Drawing, described, panels
from lpft.reporting.experiment import Values, section, short_keys, word
from lpft.reporting.frames import complete_rows
from lpft.reporting.heatmap import draw_fields, write_numbers
from lpft.reporting.style import INK, Look, looks, short

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

    def mean(self, metric: str) -> float:
        """Return the mean over the seeds; NaN without values."""
        return float(self.rows[metric].mean()) if metric in self.rows else math.nan

    def std(self, metric: str) -> float:
        """Return the standard deviation over the seeds (ddof 0)."""
        return float(self.rows[metric].std(ddof=0))

    def level(self, key: str) -> str:
        """Return what identifies the value of a key."""
        return json.dumps(self.values[key])


Observations = Sequence[Observation]


@dataclass(frozen=True)
class Scale:
    """The values of a swept key on an axis.

    Args:
        key: the key.
        values: each once, by what identifies it; from left to right.
        x: their places: numbers are at their value; on a logarithmic axis, 0 is one step left of the smallest. Other
            values are evenly spaced.
        log: whether the axis is logarithmic.
    """

    key: str
    values: Mapping[str, Any]
    x: Sequence[float]
    log: bool

    @classmethod
    def of(cls, observations: Observations, key: str) -> Scale:
        """Return the scale that fits the values of a key in some observations."""
        values = _levels(observations, key)
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values.values()):
            return cls(key, values, [float(place) for place in range(len(values))], log=False)
        values = dict(sorted(values.items(), key=lambda item: item[1]))
        positive = [value for value in values.values() if value > 0]
        log = min(values.values()) >= 0 and len(positive) > 2 and positive[-1] / positive[0] >= DECADES
        zero = positive[0] / (positive[-1] / positive[0]) ** (1 / (len(positive) - 1)) if log else 0.0
        return cls(key, values, [float(value) or zero for value in values.values()], log)

    def texts(self, length: int) -> list[str]:
        """Return the values in short; at full length where two would look the same."""
        texts = [word(value) for value in self.values.values()]
        cut = [short(text, length) for text in texts]
        return cut if len(set(cut)) == len(cut) else texts

    def set_axis(self, axes: Axes) -> None:
        """Set scale, limits and ticks of the horizontal axis."""
        if self.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        transform = axes.xaxis.get_transform()
        places = transform.transform(np.array(self.x))
        margin = 0.06 * (places[-1] - places[0]) or 0.5
        axes.set_xlim(*transform.inverted().transform(np.array([places[0] - margin, places[-1] + margin])))
        texts = self.texts(14)
        shown = _apart(places.tolist(), texts)
        axes.set_xticks([self.x[number] for number in shown], [texts[number] for number in shown])
        axes.tick_params(axis="x", labelsize=8)


def variant_drawings(analysis: Analysis) -> dict[str, Drawing]:
    """Return the figures of sweeps over methods' settings within a run: lines for one key, heat maps for two.

    Methods that were swept over the same key share a figure; the others are horizontal lines in it.
    """
    experiment = analysis.experiment
    look = looks(experiment.methods, experiment.config)
    by_family: dict[str, list[Observation]] = {}
    controls = []
    for method in experiment.methods:
        variant, rows = experiment.variants.get(method), _rows(analysis, method)
        if len(rows) and variant:
            by_family.setdefault(variant.family, []).append(Observation(variant.family, variant.values, rows))
        elif len(rows):
            controls.append(Observation(method, {}, rows))
    by_keys: dict[tuple[str, ...], list[Observation]] = {}
    drawings: dict[str, Drawing] = {}
    for family, observations in by_family.items():
        keys = _varied(observations)
        if len(keys) == 2:
            name = f"heat-{_safe(family)}"
            drawings[name] = described(
                name, "heat", partial(_heat, observations, keys, False), family=family, keys=keys
            )
        elif keys:
            by_keys.setdefault(keys, []).extend(observations)
    base = {look[method].family: look[method].plain for method in experiment.methods}
    for keys, observations in by_keys.items():
        name = f"sweep-{'-'.join(map(_safe, keys))}"
        draw = partial(_lines, observations, keys, controls, base)
        names = list(dict.fromkeys(observation.line for observation in observations))
        drawings[name] = described(name, "variants", draw, names=names, keys=keys, **_left_out(observations, keys))
    return drawings


def point_drawings(points: Sequence[Analysis]) -> dict[str, Drawing]:
    """Return the figures of a sweep over runs: lines, and for two keys the compared pair's difference as heat maps."""
    names = short_keys(list(dict.fromkeys(key for point in points for key in point.experiment.values)))
    named = [{names[key]: value for key, value in point.experiment.values.items()} for point in points]
    observations = [
        Observation(method, values, rows)
        for point, values in zip(points, named, strict=True)
        for method in point.experiment.methods
        if len(rows := _rows(point, method))
    ]
    keys = _varied(observations)
    if not keys:
        return {}
    methods = list(dict.fromkeys(observation.line for observation in observations))
    settings = {m: s for point in points for m, s in section(point.experiment.config, "methods").items()}
    draw = partial(_lines, observations, keys, (), looks(methods, {"methods": settings}))
    drawings = {"sweep": described("sweep", "points", draw, keys=keys, **_left_out(observations, keys))}
    pairs = points[0].experiment.pairs
    if pairs and len(keys) == 2:
        gaps = [Observation("", v, _difference(point, *pairs[0])) for point, v in zip(points, named, strict=True)]
        gaps = [gap for gap in gaps if len(gap.rows)]
        if gaps:
            draw = partial(_heat, gaps, keys, True)
            drawings["difference"] = described("difference", "difference", draw, pair=pairs[0])
    return drawings


def _rows(analysis: Analysis, method: str) -> pd.DataFrame:
    return complete_rows(analysis.frames, analysis.frames.results, method)


def _difference(point: Analysis, method: str, baseline: str) -> pd.DataFrame:
    """Return one row per seed that has both methods."""
    mine, theirs = (_rows(point, name).set_index("seed")[list(DRAWN)] for name in (method, baseline))
    return (mine - theirs).loc[mine.index.intersection(theirs.index)]


def _varied(observations: Observations) -> tuple[str, ...]:
    """Return the keys with more than one value."""
    keys = dict.fromkeys(key for observation in observations for key in observation.values)
    return tuple(key for key in keys if len(_levels(observations, key)) > 1)


def _levels(observations: Observations, key: str) -> dict[str, Any]:
    """Return the values of a key by what identifies them, each once, as they come."""
    return {
        observation.level(key): observation.values[key] for observation in observations if key in observation.values
    }


def _safe(name: str) -> str:
    """Return a name that may be part of a file name and of an id."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)


def _known(metrics: Sequence[str], observations: Observations) -> list[str]:
    """Return the metrics that are defined anywhere."""
    return [m for m in metrics if any(not math.isnan(observation.mean(m)) for observation in observations)]


def _title(metric: str, signed: bool = False) -> str:
    entry = metric_named(metric)
    unit = "points" if signed and entry.unit == "%" else entry.unit
    return f"{entry.title} ({unit})" if unit else entry.title


# Lines


def _lines(
    observations: Observations, keys: Sequence[str], controls: Observations, look: Mapping[str, Look]
) -> Figure | None:
    """Draw one line per method against the key with the most values; other keys make columns of panels."""
    across, rest, columns = _columns(observations, keys)
    columns = columns[:MANY]
    metrics = _known(IN_GRID if rest else DRAWN, observations)
    if not metrics:
        return None
    if rest:
        size = (max(1.75, 7.4 / len(columns)), 1.9)
        figure, axes = panels(len(metrics) * len(columns), len(columns), size, sharey="row", sharex=True)
    else:
        figure, axes = panels(len(metrics), 3, (2.75, 2.3), (0.2, 0.5))
    scale = Scale.of(observations, across)
    for number, (ax, (metric, column)) in enumerate(zip(axes, product(metrics, columns), strict=True)):
        here = [o for o in observations if all(o.level(key) == level for key, level in column.items())]
        for control in controls:
            _control(ax, control, metric, look[control.line])
        for line in dict.fromkeys(observation.line for observation in here):
            _line(ax, [observation for observation in here if observation.line == line], scale, metric, look[line])
        scale.set_axis(ax)
        if not rest:
            ax.set_title(_title(metric))
        elif number < len(columns):
            values = (f"{key}={word(json.loads(level))}" for key, level in column.items())
            ax.set_title(", ".join(values), fontsize=9)
        if rest and number % len(columns) == 0:
            ax.set_ylabel(_title(metric))
        ax.tick_params(labelbottom=not rest or number >= len(axes) - len(columns))
    figure.supxlabel(across, color=INK)
    handles, names = axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"ncols": min(6, len(names)), "handlelength": 1.8, "columnspacing": 1.3}
    figure.legend(handles, names, loc="outside upper left", **style)
    return figure


def _columns(observations: Observations, keys: Sequence[str]) -> tuple[str, list[str], list[dict[str, str]]]:
    """Return the key with the most values, the other keys, and all combinations of their values."""
    levels = {key: _levels(observations, key) for key in keys}
    across = max(levels, key=lambda key: len(levels[key]))
    rest = [key for key in keys if key != across]
    return across, rest, [dict(zip(rest, column, strict=True)) for column in product(*(levels[key] for key in rest))]


def _left_out(observations: Observations, keys: Sequence[str]) -> dict[str, Any]:
    """Return what a caption needs to name what is not drawn."""
    _, rest, columns = _columns(observations, keys)
    return {"rest": rest, "combinations": len(columns), "most": MANY}


def _line(axes: Axes, observations: Observations, scale: Scale, metric: str, look: Look) -> None:
    by_level = {observation.level(scale.key): observation for observation in observations}
    marks = [(x, by_level[level]) for level, x in zip(scale.values, scale.x, strict=True) if level in by_level]
    marks = [(x, observation) for x, observation in marks if not math.isnan(observation.mean(metric))]
    if not marks:
        return
    several = any(len(observation.rows) > 1 for observation in observations)
    axes.errorbar(
        [x for x, _ in marks],
        [observation.mean(metric) for _, observation in marks],
        [observation.std(metric) for _, observation in marks] if several else None,
        color=look.color,
        marker=look.marker,
        markersize=7 if look.marker == "*" else 4.5,
        linewidth=1.5,
        elinewidth=1,
        label=short(observations[0].line, 24),
    )


def _control(axes: Axes, control: Observation, metric: str, look: Look) -> None:
    if not math.isnan(mean := control.mean(metric)):
        style = (0, (1, 1.5)) if look.reference else (0, (5, 2))
        axes.axhline(mean, color=look.color, linestyle=style, linewidth=1.3, label=short(control.line, 24))


def _apart(places: Sequence[float], texts: Sequence[str]) -> list[int]:
    """Leave out ticks whose labels would touch those before; the first and the last stay."""
    last = len(places) - 1
    gap = ((places[last] - places[0]) or 1.0) * max(0.08, 0.035 * max(map(len, texts)))
    kept = [0]
    for number in range(1, len(places)):
        if places[number] - places[kept[-1]] >= gap:
            kept.append(number)
    if kept[-1] != last:
        kept = [number for number in kept if not number or places[last] - places[number] >= gap] + [last]
    return kept


# Heat maps


def _heat(observations: Observations, keys: Sequence[str], signed: bool) -> Figure | None:
    """Draw the means over two keys: the first downwards, the second across."""
    down, across = (Scale.of(observations, key) for key in keys)
    rows, columns = list(down.values), list(across.values)
    metrics = _known(IN_HEAT, observations)
    if not metrics:
        return None
    size = (max(3.3, 0.62 * len(columns) + 0.9), max(1.9, 0.42 * len(rows) + 0.9))
    figure, axes = panels(len(metrics), 2, size, (0.3, 0.3))
    for ax, metric in zip(axes, metrics, strict=True):
        values = np.full((len(rows), len(columns)), np.nan)
        for observation in observations:
            place = (rows.index(observation.level(keys[0])), columns.index(observation.level(keys[1])))
            values[place] = observation.mean(metric)
        _heat_panel(ax, values, metric, signed)
        ax.set_title(_title(metric, signed))
        ax.set_xticks(range(len(columns)), across.texts(12))
        ax.set_yticks(range(len(rows)), down.texts(12))
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
