"""The figures of a run. To add one, write a function of the analysis, decorate it with `@figure`, and describe it.

Titles and captions are in sentences.yaml under the names of the functions. Tables, status and the console never
import this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lpft.evaluation.certainty import Estimate
from lpft.evaluation.metric import Matrix
from lpft.reporting.analysis import Analysis
from lpft.reporting.drawing import FIGURES, Drawing, described, figure, legend_below, one_plot, panels
from lpft.reporting.experiment import is_chosen_afterwards, measure_word
from lpft.reporting.frames import client_values, complete_rows, distortion_points
from lpft.reporting.heatmap import NAMED_CLIENTS, bin_size, color_scale, draw_matrix
from lpft.reporting.ladder import Rung
from lpft.reporting.style import GLOBAL_LEVEL, GRID, INK, MUTED, PAPER, RC, Look, short
from lpft.reporting.tradeoff_figure import draw_tradeoff

FAR = 3
"""The axis is compressed if a method moves features this many times as far as all others."""
MANY_LAYERS = 12
"""With more layers, their names are set smaller."""
LONG_NAMES = 60
"""The names of layers are tilted if they have more characters in total."""
MANY_PATHS = 120
"""With more pairs of client and method, the epochs of a client are not joined by a line."""
RUNG_HEIGHT = 0.3
"""Inches per rung of the ladder."""

ZERO: Mapping[str, Any] = {"color": MUTED, "linewidth": 1.2}
LOCAL_LINE: Any = (0, (4, 2))
GLOBAL_LINE: Any = "-"


def drawings(analysis: Analysis) -> dict[str, Drawing]:
    """Return the figures of a run by name: those of swept settings, then `FIGURES`."""
    from lpft.reporting.sweep_figures import variant_drawings

    swept = bool(analysis.experiment.variants)
    number = len(analysis.experiment.client_names)
    values = {"swept": swept, "clients": number, "every": bin_size(number)}
    config = analysis.experiment.config
    always = {name: described(name, name, partial(draw, analysis), config, **values) for name, draw in FIGURES.items()}
    return variant_drawings(analysis) | always


def make_figure(analysis: Analysis, name: str) -> Figure:
    """Draw one figure of a run.

    Raises:
        ValueError: if there is no figure of this name, or this run has nothing to show in it.
    """
    available = drawings(analysis)
    if name not in available:
        raise ValueError(f"There is no figure `{name}`. HINT: the figures of this run are {', '.join(available)}.")
    with mpl.rc_context(RC):
        drawn = available[name].draw()
    if drawn is None:
        raise ValueError(
            f"The figure `{name}` has nothing to show in this run. HINT: it needs complete methods;"
            " `curves` also needs `personalization.eval_every`, and `ladder` the methods of configs/ladder.yaml."
        )
    return drawn


def _trained(analysis: Analysis) -> list[str]:
    return [method for method in analysis.experiment.drawn_methods if method != analysis.experiment.reference]


def _mean(table: pd.DataFrame) -> pd.Series:
    """Return the mean over seeds; NaN where one of them has no value."""
    return table.mean(axis=1, skipna=False)


# The figures


@figure
def tradeoff(analysis: Analysis) -> Figure | None:
    """Draw local against global accuracy, with the models between the global and the personalized one."""
    return draw_tradeoff(analysis)


@figure
def ladder(analysis: Analysis) -> Figure | None:
    """Draw the rungs from top to bottom: a bar from the rung before to this one, and its interval.

    `lpft.reporting.ladder` computes them.
    """
    rungs = analysis.ladder
    if not rungs:
        return None
    drawn, axes = panels(2, 2, (2.6, 0.5 + RUNG_HEIGHT * len(rungs)), sharey=True)
    _waterfall(axes[0], rungs, [rung.home for rung in rungs], analysis.looks)
    _waterfall(axes[1], rungs, [rung.elsewhere for rung in rungs], analysis.looks)
    axes[0].set_title("at home (Local)")
    axes[1].set_title("elsewhere (others)")
    axes[0].set_yticks(np.arange(len(rungs)), [short(rung.method) for rung in rungs])
    axes[0].set_ylim(len(rungs) - 0.4, -0.6)
    drawn.supxlabel("difference to the global model (points)")
    return drawn


def _waterfall(axes: Axes, rungs: Sequence[Rung], levels: Sequence[Estimate], look: Mapping[str, Look]) -> None:
    before = 0.0
    for row, (rung, level) in enumerate(zip(rungs, levels, strict=True)):
        color = look[rung.method].color
        if rung.is_step:
            if not math.isnan(level.mean):
                axes.barh(row, level.mean - before, left=before, height=0.5, color=color, alpha=0.3, linewidth=0)
                before = level.mean
        else:
            axes.axhline(row - 0.5, color=GRID, linewidth=1)
        axes.hlines(row, level.low, level.high, color=color, linewidth=1.4)
        axes.plot(level.mean, row, linestyle="none", **look[rung.method].points("", 6.5))
    axes.axvline(0, **ZERO)
    axes.grid(False, axis="y")


@figure
def curves(analysis: Analysis) -> Figure | None:
    """Draw local (dashed) and global (solid) accuracy over the epochs, one panel per method and its variants."""
    look, frames, config = analysis.looks, analysis.frames, analysis.experiment.config
    epochs = {m: complete_rows(frames, frames.mean_curves, m) for m in analysis.experiment.drawn_methods}
    epochs = {method: rows for method, rows in epochs.items() if len(_evaluated(rows, "local")) > 1}
    if not epochs:
        return None
    groups = analysis.experiment.families(epochs)
    columns = 2 if len(groups) in (2, 4) else min(3, len(groups))
    drawn, axes = panels(len(groups), columns, (2.9, 2.2), sharex=True, sharey=True)
    for ax, (family, members) in zip(axes, groups.items(), strict=True):
        for method in members:
            chosen = is_chosen_afterwards(method, config)
            _curve(ax, epochs[method], look[method], alone=len(members) == 1, chosen=chosen)
        ax.set_title(short(members[0] if len(members) == 1 else family, 24))
        ax.tick_params(labelbottom=True)
        if len(members) > 1:
            lines = [
                Line2D([], [], color=look[m].color, linewidth=1.6, label=short(look[m].label, 20)) for m in members
            ]
            box = {"frameon": True, "facecolor": PAPER, "edgecolor": "none", "framealpha": 0.75, "borderpad": 0.2}
            ax.legend(handles=lines, fontsize=7, handlelength=1.1, labelspacing=0.25, loc="best", **box)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    drawn.supxlabel("epoch of fine-tuning", color=INK)
    drawn.supylabel(f"{measure_word(config)} (%)", color=INK)
    lines = [
        Line2D([], [], color=INK, linestyle=LOCAL_LINE, linewidth=1.6, label="Local (own test set)"),
        Line2D([], [], color=INK, linestyle=GLOBAL_LINE, linewidth=1.6, label="Global (all test sets)"),
        Line2D([], [], color=MUTED, linestyle=GLOBAL_LEVEL["linestyle"], linewidth=1.6, label="global model"),
    ]
    if any(is_chosen_afterwards(method, config) for method in epochs):
        lines.append(
            Line2D([], [], color=INK, marker="D", linestyle="none", markersize=5.5, label="model that is kept")
        )
    fits = len(lines) == 3 or columns == 3
    drawn.legend(handles=lines, loc="outside upper left", ncols=len(lines) if fits else 2, handlelength=2.6)
    return drawn


def _evaluated(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a quantity by epoch and seed, of the epochs that were evaluated with every seed."""
    return rows.pivot(index="epoch", columns="seed", values=name).astype(float).dropna()


def _curve(axes: Axes, rows: pd.DataFrame, look: Look, alone: bool, chosen: bool = False) -> None:
    """Draw the curves of one method; with spread over seeds and phase changes only if it is alone in the panel.

    Args:
        axes: the panel.
        rows: of the frame of mean curves.
        look: of the method.
        alone: whether no other method is drawn there.
        chosen: whether the last epoch's values are of a model that was chosen or averaged after it: it is a marker
            apart from the line, which ends at the epoch evaluated before.
    """
    for name, style in (("local", LOCAL_LINE), ("global_all", GLOBAL_LINE)):
        values = _evaluated(rows, name)
        mean, std = values.mean(axis=1), values.std(axis=1, ddof=0)
        if len(mean) and mean.index[0] == 0:
            axes.axhline(mean.iloc[0], **GLOBAL_LEVEL)
        if chosen and len(mean) > 1:
            face = "none" if name == "local" else look.color
            axes.plot(mean.index[-1], mean.iloc[-1], "D", color=look.color, markerfacecolor=face, markersize=5.5)
            mean, std = mean.iloc[:-1], std.iloc[:-1]
        if alone:
            axes.fill_between(mean.index, mean - std, mean + std, color=look.color, alpha=0.18, linewidth=0)
        axes.plot(mean.index, mean, color=look.color, linestyle=style, linewidth=1.8 if alone else 1.4)
    for epoch, names in _phase_changes(rows) if alone else ():
        axes.axvline(epoch, color=MUTED, linewidth=0.9)
        at = ("data", "axes fraction")
        axes.annotate(names, (epoch, 1), (3, -2), at, "offset points", va="top", fontsize=8, color=MUTED)


def _phase_changes(rows: pd.DataFrame) -> list[tuple[int, str]]:
    """Return the epochs after which another phase begins, with the names of both."""
    first_seed = rows[(rows["seed"] == rows["seed"].min()) & (rows["epoch"] > 0)]
    steps = pairwise(zip(first_seed["epoch"], first_seed["phase"], strict=True))
    return [(epoch, f"{phase} → {following}") for (epoch, phase), (_, following) in steps if phase != following]


@figure
def clients(analysis: Analysis) -> Figure | None:
    """Draw the change of every client's local accuracy, in percentage points."""
    look, names = analysis.looks, analysis.experiment.client_names
    groups = analysis.experiment.families(_trained(analysis))
    if not groups:
        return None
    values = partial(client_values, analysis.frames)
    change = {
        family: pd.DataFrame([_mean(values(m, "local") - values(m, "local_before")) for m in members])
        for family, members in groups.items()
    }
    plain = {family: look[members[0]].plain for family, members in groups.items()}
    named = len(names) <= NAMED_CLIENTS
    drawn, axes = one_plot(max(2.2, 1.1 + 0.3 * len(names)) if named else 4.2)
    (_change_by_name if named else _change_by_rank)(axes, change, names, plain)
    legend_below(drawn)
    return drawn


Changes = Mapping[str, pd.DataFrame]
"""By method: one row per variant, one column per client."""


def _change_by_name(axes: Axes, change: Changes, names: Sequence[str], look: Mapping[str, Look]) -> None:
    rows = np.arange(len(names))
    for number, (method, variants) in enumerate(change.items()):
        nudge = 0.56 * (number / (len(change) - 1) - 0.5) if len(change) > 1 else 0.0
        if len(variants) > 1:
            style: dict[str, Any] = {"color": look[method].color, "linewidth": 3, "alpha": 0.55}
            axes.hlines(rows + nudge, variants.min(), variants.max(), **style)
        axes.plot(variants.median(), rows + nudge, linestyle="none", **look[method].points(method, 6.5))
    axes.axvline(0, **ZERO)
    axes.set_yticks(rows, [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    for row in rows[::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0, zorder=0)
    axes.set_xlabel("change of Local against the global model (points)\n← worse · better →")


def _change_by_rank(axes: Axes, change: Changes, names: Sequence[str], look: Mapping[str, Look]) -> None:
    for method, variants in change.items():
        ranked = variants.median().dropna().sort_values()
        axes.plot(np.arange(1, len(ranked) + 1), ranked, color=look[method].color, label=short(method, 24))
    axes.axhline(0, **ZERO)
    axes.set_xlabel(f"the {len(names)} clients, from the largest loss to the largest gain")
    axes.set_ylabel("change of Local (points)")


@figure
def distortion(analysis: Analysis) -> Figure | None:
    """Draw feature distortion against the loss of global accuracy, for every client."""
    look, methods = analysis.looks, _trained(analysis)
    ends = {method: _mean_points(analysis, method, ends=True) for method in methods}
    if not any(len(points) for points in ends.values()):
        return None
    drawn, axes = one_plot(4.2)
    joined = len(analysis.experiment.client_names) * len(methods) <= MANY_PATHS
    style: dict[str, Any] = {"marker": ".", "markersize": 4.5, "markeredgewidth": 0, "alpha": 0.4}
    for method in methods:
        points = _mean_points(analysis, method, ends=False)
        for path in (of_client for _, of_client in points.groupby("client")) if joined else [points]:
            width = 0.7 if joined else 0
            axes.plot(path["distortion"], path["loss"], color=look[method].color, linewidth=width, **style)
    for family, members in analysis.experiment.families(methods).items():
        for method in members:
            marker = look[method].points(family if method == members[-1] else "", 6.5)
            points = ends[method]
            axes.plot(points["distortion"], points["loss"], linestyle="none", alpha=0.8, clip_on=False, **marker)
    axes.axhline(0, **ZERO)
    _compress(axes, [points["distortion"].max() for points in ends.values() if len(points)])
    axes.set_xlabel("feature distortion (l2 distance from the global model's features)")
    axes.set_ylabel("loss of Global (points)")
    legend_below(drawn)
    return drawn


def _compress(axes: Axes, farthest: Iterable[float]) -> None:
    """If one method moved features much farther than all others, make the axis logarithmic beyond the others."""
    *_, others, largest = sorted([0.0, 0.0, *farthest])
    if largest > FAR * others > 0:
        axes.set_xscale("symlog", linthresh=others, linscale=1.5)
        beyond = [tick for tick in (10.0**k * n for k in range(-3, 6) for n in (1, 2, 5)) if others < tick <= largest]
        near = [tick for tick in MaxNLocator(5).tick_values(0, others) if 0 <= tick <= others]
        axes.set_xticks([*near, *beyond], [f"{tick:g}" for tick in (*near, *beyond)])
        axes.axvline(others, **GLOBAL_LEVEL)


def _mean_points(analysis: Analysis, method: str, ends: bool) -> pd.DataFrame:
    """Return distortion and loss of Global by client (and epoch), mean over seeds; see `distortion_points`.

    Of very many clients only every `bin_size`-th is returned.
    """
    points = distortion_points(analysis.frames, method, ends=ends)
    names = analysis.experiment.client_names
    points = points[points["client"].isin(names[:: bin_size(len(names))])]
    return points.groupby(["client", "epoch"], as_index=False)[["distortion", "loss"]].mean()


@figure
def depth(analysis: Analysis) -> Figure | None:
    """Draw the distortion of every layer; a method without variants with its spread over seeds."""
    look, tables = analysis.looks, {}
    for method in analysis.experiment.drawn_methods:
        rows = complete_rows(analysis.frames, analysis.frames.depth, method)
        table = rows.pivot(index="layer", columns="seed", values="distortion_relative").astype(float)
        if len(table) and table.notna().all(axis=None):
            tables[method] = table.reindex(rows["layer"].unique())
    if not tables:
        return None
    names = list(next(iter(tables.values())).index)
    tables = {method: table for method, table in tables.items() if list(table.index) == names}
    drawn, axes = one_plot(3.7)
    positions = np.arange(1, len(names) + 1)
    for family, members in analysis.experiment.families(tables).items():
        for method in members:
            mean, std = tables[method].mean(axis=1), tables[method].std(axis=1, ddof=0)
            if len(members) == 1:
                axes.fill_between(positions, mean - std, mean + std, color=look[method].color, alpha=0.15, linewidth=0)
            label = family if method == members[-1] else ""
            axes.plot(positions, mean, linewidth=1.4, **look[method].points(label, 5))
    tilted = sum(map(len, names)) > LONG_NAMES
    ticks: dict[str, Any] = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    size = 9 if len(names) <= MANY_LAYERS else 6.5
    labels = [name if len(name) <= 26 else "…" + name[-25:] for name in names]
    axes.set_xticks(positions, labels, fontsize=size, **ticks)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer, from the input (left) to the features that the head sees (right)")
    axes.set_ylabel("relative distortion of its output")
    legend_below(drawn)
    return drawn


@figure
def matrices(analysis: Analysis) -> Figure | None:
    """Draw the mean accuracy matrix of every method; for a swept method, of its best variant."""
    methods, names = analysis.experiment.drawn_methods, analysis.experiment.client_names
    if not methods:
        return None
    results = analysis.frames.results[analysis.frames.results["complete"]]
    average = results.groupby("method")["average2"].mean().fillna(-math.inf)
    shown = [max(members, key=lambda m: average[m]) for members in analysis.experiment.families(methods).values()]
    by_method: dict[str, list[Matrix]] = {}
    for result, matrix in zip(analysis.method_results, analysis.drawn_matrices, strict=True):
        if result.complete:
            by_method.setdefault(result.method, []).append(matrix)
    means = {method: np.mean(by_method[method], axis=0) for method in shown}
    columns = 2 if len(means) in (2, 4) else 3
    side = max(1.9, min(3.0, 0.28 * len(names)))
    drawn, axes = panels(len(means), columns, (side + 0.15, side + 0.3), (1.0, 1.7))
    scale = color_scale(list(means.values()))
    for number, (ax, (method, matrix)) in enumerate(zip(axes, means.items(), strict=True)):
        draw_matrix(ax, matrix, names, scale)
        ax.set_title(short(method, 24))
        ax.tick_params(labelleft=number % columns == 0, labelbottom=number + columns >= len(axes))
    bar = drawn.colorbar(axes[0].images[0], ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label(f"{measure_word(analysis.experiment.config)} (%)")
    return drawn
