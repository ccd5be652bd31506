"""The figures of a run. To add one, write a function of the analysis and decorate it with `@figure`.

This is the only module that `lpft.reporting` draws with; tables, status and the console never import it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lpft.reporting.analysis import Analysis
from lpft.reporting.drawing import FIGURES, Drawing, Entry, figure, svgs
from lpft.reporting.figure_data import client_values, complete, distortion_points, trained
from lpft.reporting.heatmap import color_scale, draw_matrix
from lpft.reporting.style import (
    GRID,
    INK,
    MUTED,
    NAMED_CLIENTS,
    PAPER,
    Look,
    families,
    legend_beside,
    looks,
    marker_style,
    panels,
    render,
    room_for_legend,
    short,
    to_svg,
    widen,
)

Values = np.ndarray[Any, np.dtype[np.float64]]

FEW_VARIANTS = 3
"""With more variants of one method, the trade-off shows neither seeds nor error bars."""
MANY_LAYERS = 12
"""With more layers, their names are set smaller."""
LONG_NAMES = 60
"""If the layers' names have more characters together, they are tilted."""
MANY_PATHS = 120
"""With more clients and methods, the epochs of a client are not joined by a line."""

REFERENCE: Mapping[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (1, 2))}
"""How the level of the global model is drawn."""
LOCAL_LINE: Any = (0, (4, 2))
GLOBAL_LINE: Any = "-"


def drawings(analysis: Analysis) -> dict[str, Drawing]:
    """Return the figures of a run by name: those of swept settings, then `FIGURES`."""
    from lpft.reporting.sweep_figures import variant_drawings

    def drawing(name: str, entry: Entry) -> Drawing:
        caption = entry.caption + (f" {entry.swept}" if entry.swept and analysis.variants else "")
        return Drawing(name, entry.title, caption, lambda: entry.draw(analysis))

    return variant_drawings(analysis) | {name: drawing(name, entry) for name, entry in FIGURES.items()}


def make_figure(analysis: Analysis, name: str) -> Figure:
    """Draw one figure of a run.

    Raises:
        ValueError: if there is no figure of this name, or this run has nothing to show in it.
    """
    available = drawings(analysis)
    if name not in available:
        raise ValueError(f"There is no figure `{name}`. HINT: the figures of this run are {', '.join(available)}.")
    drawn = render(available[name].draw)
    if drawn is None:
        raise ValueError(
            f"The figure `{name}` has nothing to show: no method is complete, or what it needs was not recorded."
            " HINT: curves need `personalization.eval_every`."
        )
    return drawn


def draw(analysis: Analysis, name: str) -> str | None:
    """Return one figure as SVG; None if there is nothing to show."""
    return to_svg(name, drawings(analysis)[name].draw)


def draw_all(analysis: Analysis) -> dict[str, str]:
    """Return all figures that have something to show as SVG by name: the same bytes for the same results."""
    return svgs(drawings(analysis))


def _mean(table: pd.DataFrame) -> Values:
    """Return the mean over seeds; NaN where one of them has no value."""
    return table.to_numpy().mean(axis=1)


def _places(analysis: Analysis, method: str) -> Values:
    """Return global and local accuracy of every seed, ``(n, 2)``."""
    rows = analysis.results[(analysis.results["method"] == method) & analysis.results["complete"]]
    return rows[["global_all", "local"]].to_numpy(dtype=float)


# The figures


@figure(
    "tradeoff",
    "Local against global accuracy",
    "One large marker per method, one small marker per seed; bars show one standard deviation. Dotted: the global"
    " model, which has the same accuracy at home as everywhere. Up is better at home; right forgets less of the other"
    " clients. A method up and to the left pays for its local gain by forgetting.",
    swept="A line joins the settings of a sweep from the first (light) to the last (dark).",
)
def tradeoff(analysis: Analysis) -> Figure | None:
    """Draw local against global accuracy."""
    methods, look = complete(analysis), looks(analysis.methods, analysis.config)
    if not methods:
        return None
    groups = families(methods, look)
    figure = Figure(figsize=(7.4, room_for_legend(4.5, len(groups))), layout="constrained")
    axes = figure.subplots()
    for members in groups.values():
        path = np.array([_places(analysis, method).mean(axis=0) for method in members])
        axes.plot(*path.T, color=look[members[0]].family_color, linewidth=1.2, alpha=0.6)
        for method in members:
            named = method in (members[0], members[-1])
            _tradeoff_point(axes, method if named else "", _places(analysis, method), look[method], len(members))
    levels = [_mean(client_values(analysis, method, "local_before")) for method in methods]
    level = float(np.nanmean(np.concatenate(levels))) if not np.isnan(np.concatenate(levels)).all() else math.nan
    axes.axhline(level, **REFERENCE)
    axes.axvline(level, **REFERENCE)
    widen(axes)
    axes.set_xlabel("Global: accuracy on all clients' test sets (%) · forgets less →")
    axes.set_ylabel("Local: accuracy on the own test set (%) · better at home →")
    axes.plot([], [], **REFERENCE, label="global model")
    legend_beside(axes)
    return figure


def _tradeoff_point(axes: Axes, name: str, places: Values, look: Look, num_variants: int) -> None:
    x, y = places.T
    if len(places) > 1 and num_variants <= FEW_VARIANTS:
        axes.plot(x, y, look.marker, color=look.color, alpha=0.45, markersize=4.5, markeredgewidth=0)
        axes.errorbar(x.mean(), y.mean(), y.std(), x.std(), color=look.color, linewidth=1.1, alpha=0.55, zorder=3)
    axes.plot(x.mean(), y.mean(), linestyle="none", zorder=4, **marker_style(look, name, 9))


@figure(
    "curves",
    "Learning curves",
    "Test accuracy over the epochs of fine-tuning, mean over clients: dashed on the client's own test set, solid on all"
    " test sets. Where the solid line falls while the dashed one rises or stays, clients overfit to their own data. A"
    " vertical line marks a change of phase. The curves are never used to choose an epoch.",
)
def curves(analysis: Analysis) -> Figure | None:
    """Draw local (dashed) and global (solid) accuracy over the epochs, one panel per method and its variants."""
    look, frame = looks(analysis.methods, analysis.config), analysis.mean_curves
    drawn = {
        method: frame[(frame["method"] == method) & frame["seed"].isin(seeds)]
        for method, seeds in complete(analysis).items()
    }
    drawn = {method: rows for method, rows in drawn.items() if len(_evaluated(rows, "local").dropna()) > 1}
    if not drawn:
        return None
    groups = families(drawn, look)
    figure, axes = panels(len(groups), 2 if len(groups) in (2, 4) else 3, (2.9, 2.2), sharex=True, sharey=True)
    for ax, (family, members) in zip(axes, groups.items(), strict=True):
        for method in members:
            _curve_panel(ax, drawn[method], look[method], len(members) == 1)
        ax.set_title(short(members[0] if len(members) == 1 else family, 24))
        ax.tick_params(labelbottom=True)
        if len(members) > 1:
            lines = [
                Line2D([], [], color=look[m].color, linewidth=1.6, label=short(look[m].label, 20)) for m in members
            ]
            box = {"frameon": True, "facecolor": PAPER, "edgecolor": "none", "framealpha": 0.75, "borderpad": 0.2}
            ax.legend(handles=lines, fontsize=7, handlelength=1.1, labelspacing=0.25, loc="best", **box)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    figure.supxlabel("epoch of fine-tuning", fontsize=9.5, color=INK)
    figure.supylabel("accuracy (%)", fontsize=9.5, color=INK)
    lines = [
        Line2D([], [], color=color, linestyle=style, linewidth=1.6, label=name)
        for name, color, style in (
            ("Local (own test set)", INK, LOCAL_LINE),
            ("Global (all test sets)", INK, GLOBAL_LINE),
            ("global model", MUTED, REFERENCE["linestyle"]),
        )
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=3, handlelength=2.6)
    return figure


def _evaluated(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a quantity by epoch and seed, of the epochs that were evaluated with every seed."""
    return rows.pivot(index="epoch", columns="seed", values=name).astype(float).dropna()


def _curve_panel(axes: Axes, rows: pd.DataFrame, look: Look, alone: bool) -> None:
    """Draw one method; its spread over seeds, and where its phases change, only if it is alone in the panel."""
    for name, style in (("local", LOCAL_LINE), ("global_all", GLOBAL_LINE)):
        values = _evaluated(rows, name)
        mean, std = values.mean(axis=1).to_numpy(), values.std(axis=1, ddof=0).to_numpy()
        epochs = values.index.to_numpy()
        if len(epochs) and epochs[0] == 0:
            axes.axhline(mean[0], **REFERENCE)
        if alone:
            axes.fill_between(epochs, mean - std, mean + std, color=look.color, alpha=0.18, linewidth=0)
        axes.plot(epochs, mean, color=look.color, linestyle=style, linewidth=1.8 if alone else 1.4)
    for epoch, names in _phase_changes(rows) if alone else ():
        axes.axvline(epoch, color=MUTED, linewidth=0.9)
        place = ("data", "axes fraction")
        axes.annotate(names, (epoch, 1), (3, -2), place, "offset points", va="top", fontsize=8, color=MUTED)


def _phase_changes(rows: pd.DataFrame) -> list[tuple[int, str]]:
    """Return the epochs after which another phase begins, with the names of both."""
    first = rows[(rows["seed"] == rows["seed"].min()) & (rows["epoch"] > 0)]
    steps = pairwise(zip(first["epoch"], first["phase"], strict=True))
    return [(epoch, f"{phase} → {following}") for (epoch, phase), (_, following) in steps if phase != following]


@figure(
    "clients",
    "Who gains, who loses",
    "Local accuracy of every client's personalized model minus the global model's, mean over seeds. Where it is"
    " negative, the client should have kept the global model.",
    swept="A bar spans the settings of a sweep; its marker is their median.",
)
def clients(analysis: Analysis) -> Figure | None:
    """Draw the change of every client's local accuracy, in percentage points."""
    look, names = looks(analysis.methods, analysis.config), analysis.client_names
    groups = families(trained(analysis), look)
    if not groups:
        return None
    change = {
        family: np.array(
            [_mean(client_values(analysis, m, "local") - client_values(analysis, m, "local_before")) for m in members]
        )
        for family, members in groups.items()
    }
    plain = {family: look[members[0]].plain for family, members in groups.items()}
    named = len(names) <= NAMED_CLIENTS
    height = max(2.2, 1.1 + 0.3 * len(names)) if named else 4.2
    figure = Figure(figsize=(7.4, room_for_legend(height, len(groups))), layout="constrained")
    axes = figure.subplots()
    (_change_by_name if named else _change_by_rank)(axes, change, names, plain)
    legend_beside(axes)
    return figure


def _change_by_name(axes: Axes, change: Mapping[str, Values], names: Sequence[str], look: Mapping[str, Look]) -> None:
    rows = np.arange(len(names))
    for number, (method, variants) in enumerate(change.items()):
        nudge = 0.56 * (number / (len(change) - 1) - 0.5) if len(change) > 1 else 0.0
        if len(variants) > 1:
            style: dict[str, Any] = {"color": look[method].color, "linewidth": 3, "alpha": 0.55}
            axes.hlines(rows + nudge, variants.min(axis=0), variants.max(axis=0), **style)
        middle = np.median(variants, axis=0)
        axes.plot(middle, rows + nudge, linestyle="none", **marker_style(look[method], method, 6.5))
    axes.axvline(0, color=MUTED, linewidth=1.2)
    axes.set_yticks(rows, [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    for row in rows[::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0, zorder=0)
    axes.set_xlabel("← worse · change of Local against the global model (points) · better →")


def _change_by_rank(axes: Axes, change: Mapping[str, Values], names: Sequence[str], look: Mapping[str, Look]) -> None:
    for method, variants in change.items():
        values = np.median(variants, axis=0)
        ranked = np.sort(values[~np.isnan(values)])
        axes.plot(np.arange(1, len(ranked) + 1), ranked, color=look[method].color, label=short(method, 24))
    axes.axhline(0, color=MUTED, linewidth=1.2)
    axes.set_xlabel(f"the {len(names)} clients, from the largest loss to the largest gain")
    axes.set_ylabel("change of Local (points)")


@figure(
    "distortion",
    "Feature distortion and forgetting",
    "One large marker per client and method, mean over seeds: how far its features moved from the global model's, and"
    " how much global accuracy it lost. Small markers are evaluated epochs on the way there.",
)
def distortion(analysis: Analysis) -> Figure | None:
    """Draw feature distortion against the loss of global accuracy, for every client."""
    look = looks(analysis.methods, analysis.config)
    methods = trained(analysis)
    ends = {m: _mean_points(analysis, m, ends=True) for m in methods}
    if not any(len(points) for points in ends.values()):
        return None
    groups = families(methods, look)
    figure = Figure(figsize=(7.4, room_for_legend(4.4, len(groups))), layout="constrained")
    axes = figure.subplots()
    joined = len(analysis.client_names) * len(methods) <= MANY_PATHS
    for method in methods:
        style: dict[str, Any] = {"color": look[method].color, "marker": ".", "markersize": 4.5}
        style |= {"markeredgewidth": 0, "alpha": 0.4, "linewidth": 0.7 if joined else 0}
        for _, path in _mean_points(analysis, method, ends=False).groupby("client"):
            axes.plot(path["distortion"], path["loss"], **style)
    for family, members in groups.items():
        for method in members:
            style = marker_style(look[method], family if method == members[-1] else "", 6.5)
            points = ends[method]
            axes.plot(points["distortion"], points["loss"], linestyle="none", alpha=0.8, clip_on=False, **style)
    axes.axhline(0, color=MUTED, linewidth=1.2)
    axes.set_xlabel("feature distortion (l2 distance from the global model's features)")
    axes.set_ylabel("loss of Global (points)")
    legend_beside(axes)
    return figure


def _mean_points(analysis: Analysis, method: str, ends: bool) -> pd.DataFrame:
    """Return distortion and loss of Global by client (and epoch), mean over seeds; see `distortion_points`."""
    points = distortion_points(analysis, method, ends=ends).dropna()
    return points.groupby(["client", "epoch"], as_index=False)[["distortion", "loss"]].mean()


@figure(
    "depth",
    "Distortion by layer",
    "How far the output of each layer moved from the global model's on the client's own test images, divided by the"
    " norm of the global model's output; mean over clients and seeds, shaded: one standard deviation over seeds."
    " Methods that train only the head are not shown: no layer moved.",
)
def depth(analysis: Analysis) -> Figure | None:
    """Draw the distortion of every layer; a method without variants with its spread over seeds."""
    look, drawn = looks(analysis.methods, analysis.config), {}
    for method, seeds in complete(analysis).items():
        rows = analysis.depth[(analysis.depth["method"] == method) & analysis.depth["seed"].isin(seeds)]
        table = rows.pivot(index="layer", columns="seed", values="distortion_relative").astype(float)
        table = table.reindex(list(dict.fromkeys(rows["layer"])))
        if len(table) and not table.isna().to_numpy().any():
            drawn[method] = table
    if not drawn:
        return None
    names = list(next(iter(drawn.values())).index)
    drawn = {method: table for method, table in drawn.items() if list(table.index) == names}
    groups = families(drawn, look)
    figure = Figure(figsize=(7.4, room_for_legend(3.9, len(groups))), layout="constrained")
    axes = figure.subplots()
    places = np.arange(1, len(names) + 1)
    for family, members in groups.items():
        for method in members:
            mean, std = _mean(drawn[method]), drawn[method].to_numpy().std(axis=1)
            if len(members) == 1:
                axes.fill_between(places, mean - std, mean + std, color=look[method].color, alpha=0.15, linewidth=0)
            style = marker_style(look[method], family if method == members[-1] else "", 5)
            axes.plot(places, mean, linewidth=1.4, **style)
    tilted = sum(map(len, names)) > LONG_NAMES
    ticks: dict[str, Any] = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    size = 9 if len(names) <= MANY_LAYERS else 6.5
    axes.set_xticks(places, [name if len(name) <= 26 else "…" + name[-25:] for name in names], fontsize=size, **ticks)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer, from the input (left) to the features that the head sees (right)")
    axes.set_ylabel("relative distortion of its output")
    legend_beside(axes)
    return figure


@figure(
    "matrices",
    "Accuracy matrices",
    "Row: whose model. Column: whose test set. Framed: the client's own test set. Mean over seeds, one colour scale."
    " All accuracies in this report are means over parts of these matrices; see seed_*/METHOD/accuracy.csv.",
    swept="For a method with swept settings, the one with the highest mean of Local and Global is shown.",
)
def matrices(analysis: Analysis) -> Figure | None:
    """Draw the mean accuracy matrix of every method; for a swept method, of its best variant."""
    methods, names = complete(analysis), analysis.client_names
    if not methods:
        return None
    look = looks(analysis.methods, analysis.config)
    average = analysis.results[analysis.results["complete"]].groupby("method")["average2"].mean().fillna(-math.inf)
    shown = [max(members, key=lambda method: average[method]) for members in families(methods, look).values()]
    means = {m: np.mean([analysis.matrix(m, seed).to_numpy() for seed in methods[m]], axis=0) for m in shown}
    columns = 2 if len(means) in (2, 4) else 3
    side = max(1.9, min(3.0, 0.28 * len(names)))
    figure, axes = panels(len(means), columns, (side + 0.15, side + 0.3), (1.0, 1.7))
    scale = color_scale(list(means.values()))
    for number, (ax, (method, matrix)) in enumerate(zip(axes, means.items(), strict=True)):
        draw_matrix(ax, matrix, names, scale)
        ax.set_title(short(method, 24))
        ax.tick_params(labelleft=number % columns == 0, labelbottom=number + columns >= len(axes))
    bar = figure.colorbar(axes[0].images[0], ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("accuracy (%)")
    return figure
