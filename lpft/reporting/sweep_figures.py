"""The pictures of a sweep: figures against the swept value, and heat maps where two keys were swept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lpft.reporting.style import INK, Look, looks, panels, render_svg, short, text_color
from lpft.reporting.sweeps import Point, Values, short_keys, word

METRICS = {
    "local": "Local (%)",
    "global_all": "Global (%)",
    "worst_row": "worst (%)",
    "average3": "Average (%)",
    "distortion_own": "distortion",
}
IN_GRID = ("local", "global_all", "average3")
"""What is drawn where several keys were swept, and every metric has a row of panels."""
IN_HEAT = ("local", "global_all", "average3", "distortion_own")
DECADES = 30.0
"""Positive values are drawn on a logarithmic axis if the largest is so many times the smallest."""
MANY = 6
"""So many panels stand beside each other."""

Drawn = tuple[str, str, str]
"""Title, caption and SVG."""


@dataclass(frozen=True)
class Observation:
    """One mark of a line: a method at swept values.

    Args:
        line: the method.
        values: the swept values by short key.
        rows: one row of results.csv per seed.
    """

    line: str
    values: Values
    rows: Sequence[Mapping[str, Any]]

    def mean_and_std(self, metric: str) -> tuple[float, float]:
        """Return mean and standard deviation over the seeds; NaN if nothing is known."""
        known = [row[metric] for row in self.rows if not math.isnan(row[metric])]
        return (float(np.mean(known)), float(np.std(known))) if known else (math.nan, math.nan)


def draw_variants(point: Point) -> dict[str, Drawn]:
    """Draw every sweep over methods' settings within a run: lines for one key, heat maps for two.

    Methods that were swept over the same key share a figure; the others are horizontal lines in it.
    """
    look = looks(point.methods, point.config)
    families: dict[str, list[Observation]] = {}
    controls = []
    for method in point.methods:
        rows = [row for row in point.rows if row["method"] == method]
        if variant := point.variants.get(method):
            families.setdefault(variant.family, []).append(Observation(variant.family, variant.values, rows))
        else:
            controls.append(Observation(method, {}, rows))
    base = {look[method].family: look[method].plain for method in point.methods}
    by_keys: dict[tuple[str, ...], list[Observation]] = {}
    drawn: dict[str, Drawn] = {}
    for family, observations in families.items():
        keys = tuple(_varied(observations))
        if len(keys) == 2:
            drawn |= _heat_of_family(family, keys, observations)
        elif keys:
            by_keys.setdefault(keys, []).extend(observations)
    for keys, observations in by_keys.items():
        names = list(dict.fromkeys(each.line for each in observations))
        title = f"{' and '.join(names)} by {', '.join(keys)}"
        caption = (
            "Mean over seeds; bars are one standard deviation. Horizontal lines are the methods that were not swept."
            f" Distortion is how far the features moved.{_left_out(observations, keys)}"
        )
        name = f"sweep-{'-'.join(_safe(key) for key in keys)}"
        svg = render_svg(name, partial(_lines, observations, keys, controls, base))
        if svg:
            drawn[name] = (title, caption, svg)
    return drawn


def is_ours(name: str) -> bool:
    """Tell whether a figure's name is one that this module gives."""
    return name in ("sweep", "difference") or name.startswith(("sweep-", "heat-"))


def draw_points(points: Sequence[Point]) -> dict[str, Drawn]:
    """Draw the methods against the swept values of points; for two keys, LP-FT minus FT as heat maps, too."""
    names = short_keys(dict.fromkeys(key for point in points for key in point.values))
    observations = []
    for point in points:
        values = {names[key]: value for key, value in point.values.items()}
        for method in point.methods:
            rows = [row for row in point.rows if row["method"] == method]
            observations.append(Observation(method, values, rows))
    keys = tuple(_varied(observations))
    if not keys:
        return {}
    methods = list(dict.fromkeys(each.line for each in observations))
    look = looks(methods, {"methods": {m: s for p in points for m, s in (p.config.get("methods") or {}).items()}})
    title = f"By {', '.join(keys)}"
    caption = "Mean over seeds; bars are one standard deviation. Accuracies are of test sets."
    caption += _left_out(observations, keys)
    svg = render_svg("sweep", partial(_lines, observations, keys, (), look))
    drawn = {"sweep": (title, caption, svg)} if svg else {}
    differences = _lpft_minus_ft(points, names)
    if len(keys) == 2 and differences:
        svg = render_svg("difference", partial(_heat, differences, keys, True))
        caption = (
            "Mean over seeds of the differences seed by seed. Blue: LP-FT has the higher accuracy, or moves features"
            " less; red: FT does."
        )
        drawn |= {"difference": ("LP-FT minus FT", caption, svg)} if svg else {}
    return drawn


def _heat_of_family(family: str, keys: Sequence[str], observations: Sequence[Observation]) -> dict[str, Drawn]:
    name = f"heat-{_safe(family)}"
    caption = "Mean over seeds, every panel on its own scale. Framed: the highest accuracy, the least distortion."
    svg = render_svg(name, partial(_heat, observations, keys, False))
    return {name: (f"{family} by {' and '.join(keys)}", caption, svg)} if svg else {}


def _lpft_minus_ft(points: Sequence[Point], names: Mapping[str, str]) -> list[Observation]:
    """Return one observation per point whose rows are differences."""
    found = []
    for point in points:
        rows = {name: {row["seed"]: row for row in point.rows if row["method"] == name} for name in ("lpft", "ft")}
        shared = rows["lpft"].keys() & rows["ft"].keys()
        gaps = [{m: rows["lpft"][seed][m] - rows["ft"][seed][m] for m in METRICS} for seed in sorted(shared)]
        if gaps:
            found.append(Observation("", {names[key]: value for key, value in point.values.items()}, gaps))
    return found


# Lines


def _lines(
    observations: Sequence[Observation], keys: Sequence[str], controls: Sequence[Observation], look: Mapping[str, Look]
) -> Figure | None:
    """Draw one line per method against the key with the most values; other keys make columns of panels."""
    across, rest, columns = _columns(observations, keys)
    columns = columns[:MANY]
    metrics = [
        m for m in (IN_GRID if rest else METRICS) if any(not math.isnan(o.mean_and_std(m)[0]) for o in observations)
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
            ax.set_ylabel(METRICS[metric])
        if not rest:
            ax.set_title(METRICS[metric])
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
    """Say what is not drawn; empty if everything is."""
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
    own = look[control.line]
    if not math.isnan(mean):
        style = (0, (1, 1.5)) if own.marker == "*" else (0, (5, 2))
        axes.axhline(mean, color=own.color, linestyle=style, linewidth=1.3, label=short(control.line, 24))


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
    """Leave out ticks whose words would touch those before; the first and the last stay."""
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
    """Return where on the axis every swept value stands, and how it is written, from left to right.

    Numbers stand where they belong; on a logarithmic axis 0 stands one step left of the smallest. Words, and numbers
    mixed with words, stand side by side.
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
        for each in observations:
            row = next(i for i, value in enumerate(down) if _same(value, each.values[keys[0]]))
            column = next(i for i, value in enumerate(across) if _same(value, each.values[keys[1]]))
            values[row, column] = each.mean_and_std(metric)[0]
        _heat_panel(ax, values, metric, signed)
        ax.set_title(METRICS[metric].replace("(%)", "(points)") if signed else METRICS[metric])
        ax.set_xticks(range(len(across)), [text for _, text in _texts(across, 12)])
        ax.set_yticks(range(len(down)), [text for _, text in _texts(down, 12)])
        ax.set_xlabel(keys[1])
        ax.set_ylabel(keys[0])
    return figure


def _heat_panel(axes: Axes, values: np.ndarray, metric: str, signed: bool) -> None:
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    reach = max(abs(low), abs(high)) or 1.0
    better = -1 if metric == "distortion_own" else 1
    scale = TwoSlopeNorm(0, -reach, reach) if signed else Normalize(low, high if high > low else low + 1)
    colors = ("RdBu_r" if better < 0 else "RdBu") if signed else ("viridis_r" if better < 0 else "viridis")
    image = axes.imshow(values, norm=scale, cmap=colors, aspect="auto", interpolation="none")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    form = (
        ("{:+.2f}" if signed else "{:.2f}")
        if metric == "distortion_own" or reach < 1
        else "{:+.1f}"
        if signed
        else "{:.1f}"
    )
    best = float(np.nanmax(better * values)) if known.size else math.nan
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            ink = text_color(*image.cmap(float(scale(value)))[:3])
            bold = "bold" if not signed and better * value == best else "normal"
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=8, color=ink, fontweight=bold)
            if bold == "bold":
                axes.plot(
                    [column - 0.46, column + 0.46, column + 0.46, column - 0.46, column - 0.46],
                    [row - 0.44, row - 0.44, row + 0.44, row + 0.44, row - 0.44],
                    color=ink,
                    linewidth=1.2,
                )


# Swept values


def _varied(observations: Sequence[Observation]) -> list[str]:
    """Return the keys with more than one value."""
    keys = dict.fromkeys(key for each in observations for key in each.values)
    return [key for key in keys if len(_levels(observations, key)) > 1]


def _levels(observations: Sequence[Observation], key: str) -> list[Any]:
    """Return the values of a key, each once, as they come."""
    found = {json.dumps(each.values[key]): each.values[key] for each in observations if key in each.values}
    return list(found.values())


def _same(one: object, other: object) -> bool:
    return json.dumps(one) == json.dumps(other)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _safe(name: str) -> str:
    """Return a name that may be part of a file name and of an id."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
