"""The figure of the trade-off: Local against Global, with every method's curve."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.reporting.analysis import Analysis
from lpft.reporting.drawing import legend_below, one_plot, widen
from lpft.reporting.experiment import measure_word
from lpft.reporting.frames import client_values, complete_rows
from lpft.reporting.references import reference_rows
from lpft.reporting.style import GLOBAL_LEVEL, Look

FEW_VARIANTS = 3
"""With more variants of one method, the trade-off shows neither seeds nor error bars."""


def draw_tradeoff(analysis: Analysis) -> Figure | None:
    """Draw local against global accuracy."""
    experiment, look = analysis.experiment, analysis.looks
    methods = experiment.drawn_methods
    if not methods:
        return None
    drawn, axes = one_plot(4.4)
    points = {m: complete_rows(analysis.frames, analysis.frames.results, m)[["global_all", "local"]] for m in methods}
    references = [method for method in methods if method in reference_rows(experiment.config)]
    compared = [method for method in methods if method not in references]
    for members in experiment.families(compared).values():
        path = pd.DataFrame([points[method].mean(skipna=False) for method in members])
        axes.plot(path["global_all"], path["local"], color=look[members[0]].family_color, linewidth=1.2, alpha=0.6)
        for method in members:
            label = method if method in (members[0], members[-1]) else ""
            if len(members) <= FEW_VARIANTS:
                _draw_curve(analysis, axes, method, look[method])
                _draw_seeds(analysis, axes, method, points[method], look[method])
            _draw_mean(axes, points[method], look[method], label)
    for method in references if not compared else ():
        _draw_seeds(analysis, axes, method, points[method], look[method])
        _draw_mean(axes, points[method], look[method], method)
    before = pd.concat([client_values(analysis.frames, method, "local_before") for method in methods])
    level = before.groupby(level=0).mean().mean(axis=1, skipna=False).mean()  # methods may have different seeds
    axes.axhline(level, **GLOBAL_LEVEL)
    axes.axvline(level, **GLOBAL_LEVEL)
    widen(axes)
    axes.set_xlim(max(axes.get_xlim()[0], -2), min(axes.get_xlim()[1], 102))  # bars may end beyond 0 and 100%
    axes.set_ylim(max(axes.get_ylim()[0], -2), min(axes.get_ylim()[1], 102))
    for method in references if compared else ():
        _draw_reference(analysis, axes, method, points[method], look[method])
    measure = measure_word(experiment.config)
    axes.set_xlabel(f"Global: {measure} on all clients' test sets (%) · forgets less →")
    axes.set_ylabel(f"Local: {measure} on the own test set (%) · better at home →")
    axes.plot([], [], **GLOBAL_LEVEL, label="global model")
    legend_below(drawn)
    return drawn


def _draw_reference(analysis: Analysis, axes: Axes, method: str, points: pd.DataFrame, look: Look) -> None:
    """Draw a reference; one outside the limits stands at the edge, with its values in the legend."""
    limits = axes.get_xlim(), axes.get_ylim()
    center = points.mean().to_list()
    edge = [min(max(value, low), high) for value, (low, high) in zip(center, limits, strict=True)]
    if edge == center:
        _draw_seeds(analysis, axes, method, points, look)
        _draw_mean(axes, points, look, method)
    else:
        label = f"{method}, at {center[0]:.0f}, {center[1]:.0f}"
        axes.plot(*edge, linestyle="none", zorder=4, clip_on=False, **look.points(label, 9))
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _draw_curve(analysis: Analysis, axes: Axes, method: str, look: Look) -> None:
    """Draw the models between the global and the personalized one."""
    means = analysis.tradeoff.mean_curves
    curve = means[means["method"] == method]
    axes.plot(curve["global_all"], curve["local"], color=look.color, linewidth=1.1, alpha=0.7, zorder=2)


def _draw_seeds(analysis: Analysis, axes: Axes, method: str, points: pd.DataFrame, look: Look) -> None:
    """Draw the seeds of a method, and as bars the 95% intervals of its differences from the global model."""
    x, y = points.to_numpy(dtype=float).T
    if len(points) > 1:
        axes.plot(x, y, look.marker, color=look.color, alpha=0.45, markersize=4.5, markeredgewidth=0)
    certainty = analysis.certainty
    gaps = [certainty.comparisons.get((method, certainty.global_model, m)) for m in ("local", "global_all")]
    margins = [gap.estimate.margin for gap in gaps if gap]
    if len(margins) == 2 and not any(map(math.isnan, margins)):
        axes.errorbar(x.mean(), y.mean(), margins[0], margins[1], color=look.color, linewidth=1.0, alpha=0.35, zorder=3)


def _draw_mean(axes: Axes, points: pd.DataFrame, look: Look, label: str) -> None:
    """Draw the mean of a method over its seeds; without a label, it is not in the legend."""
    x, y = points.to_numpy(dtype=float).T
    axes.plot(x.mean(), y.mean(), linestyle="none", zorder=4, **look.points(label, 9))
