"""The pictures of a run, each a function of the results of complete methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lpft.evaluation.metrics import Matrix
from lpft.reporting.labels import Box, place_labels
from lpft.reporting.results import MethodResult, methods_of
from lpft.reporting.style import (
    GRID,
    INK,
    MUTED,
    NAMED_CLIENTS,
    NUMBERED_CLIENTS,
    PAPER,
    Look,
    looks,
    panels,
    render_svg,
    room_for_legend,
    short,
    text_color,
)
from lpft.reporting.tables import accuracy_matrix, curve_rows, depth_rows, distortion_points, figures

ByMethod = Mapping[str, Sequence[MethodResult]]
Values = NDArray[np.float64]

MIN_SPAN = 3.0
"""Points that the axes of the trade-off span at least."""
NAME_SIZE = 9.5
CROWDED = 30.0
"""Points of the trade-off that are nearer to each other (in points of type) have their names on a line."""

FEW_VARIANTS = 3
"""Of more variants of one method the trade-off shows no seeds and no spread."""
MANY_LAYERS = 12
"""Of more layers the names are small."""
NAMED_LAYERS = 60
"""Characters that the names of the layers may have together before they are tilted."""
MANY_PATHS = 120
"""Up to so many clients and methods, the epochs of one client are joined by a line."""

REFERENCE: Mapping[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (1, 2))}
"""How the global model's level is drawn."""


def draw_figures(results: Sequence[MethodResult], config: Mapping[str, Any]) -> dict[str, str]:
    """Draw everything there is to see.

    Args:
        results: of all seeds and methods; the incomplete ones are left out.
        config: the resolved experiment.

    Returns:
        SVG by name: ``tradeoff``, ``curves`` (if epochs were evaluated), ``clients``, ``distortion``, ``depth``
        (if bodies were trained), ``matrices``.
    """
    methods = methods_of(results)
    complete = {method: [r for r in results if r.complete and r.method == method] for method in methods}
    by_method = {method: seeds for method, seeds in complete.items() if seeds}
    look = looks(methods, config)
    draw = {
        "tradeoff": tradeoff,
        "curves": curves,
        "clients": clients,
        "distortion": distortion,
        "depth": depth,
        "matrices": matrices,
    }
    svgs = {name: render_svg(name, partial(function, by_method, look)) for name, function in draw.items()}
    return {name: svg for name, svg in svgs.items() if svg is not None}


def tradeoff(by_method: ByMethod, look: Mapping[str, Look]) -> Figure | None:
    """Draw local against global accuracy: one large point per method, one small point per seed."""
    if not by_method:
        return None
    figure = Figure(figsize=(7.4, 4.5), layout="constrained")
    axes = figure.subplots()
    _cross(axes, by_method)
    for members in _families(by_method, look).values():
        path = np.array([np.mean(_places(by_method[method]), axis=0) for method in members])
        axes.plot(*path.T, color=look[members[0]].family_color, linewidth=1.2, alpha=0.6)
    for members in _families(by_method, look).values():
        for method in members:
            _tradeoff_point(axes, method, by_method[method], look[method], spread=len(members) <= FEW_VARIANTS)
    _widen(axes, MIN_SPAN)
    axes.set_xlabel("Global: accuracy on all clients' test sets (%), remembers more →")
    axes.set_ylabel("Local: accuracy on the own test set (%), better at home →")
    _name_points(figure, axes, by_method, look)
    return figure


def _widen(axes: Axes, span: float) -> None:
    """Leave room around the points, and do not blow up differences of a fraction of a point."""
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        middle, half = sum(limits) / 2, max(1.12 * (limits[1] - limits[0]), span) / 2
        set_limits(middle - half, middle + half)


def _name_points(figure: Figure, axes: Axes, by_method: ByMethod, look: Mapping[str, Look]) -> None:
    """Write the methods' names beside their points, with a line where one had to move away."""
    FigureCanvasAgg(figure).draw()  # fixes the layout, in pixels
    named = {m for members in _families(by_method, look).values() for m in (members[0], members[-1])}
    means = {method: np.mean(_places(by_method[method]), axis=0) for method in by_method if method in named}
    known = {
        method: tuple(axes.transData.transform(mean)) for method, mean in means.items() if not np.isnan(mean).any()
    }
    pixel = figure.dpi / 72
    sizes = [_text_size(short(method, 24), NAME_SIZE, pixel) for method in known]
    seeds = [axes.transData.transform(place) for own in by_method.values() for place in _places(own)]
    obstacles: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in seeds]
    obstacles += [text.get_window_extent().extents for text in axes.texts]
    for method in known:
        spread = np.std(_places(by_method[method]), axis=0)
        (left, low), (right, high) = axes.transData.transform([means[method] - spread, means[method] + spread])
        x, y = known[method]
        obstacles += [(left, y - 1, right, y + 1), (x - 1, low, x + 1, high)]
    bounds = axes.get_window_extent().extents
    near = [sum(math.dist(p, q) < CROWDED * pixel for q in known.values()) > 1 for p in known.values()]
    boxes = place_labels(list(known.values()), sizes, bounds, 9 * pixel, obstacles, near)
    for (method, point), box, crowded in zip(known.items(), boxes, near, strict=True):
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        offset = (middle[0] - point[0]) / pixel, (middle[1] - point[1]) / pixel
        line = {"arrowstyle": "-", "color": look[method].color, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            short(method, 24),
            means[method],
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=NAME_SIZE,
            fontweight="bold",
            arrowprops=line if crowded else None,
            zorder=5,
        )


def _text_size(text: str, size: float, pixel: float) -> tuple[float, float]:
    """Return width and height of a bold name in pixels, with room for the fonts of other viewers."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    return (float(path.get_extents().width) * pixel * 1.05 + 4, size * pixel * 1.25)


def _places(seeds: Sequence[MethodResult]) -> Values:
    """Return global and local accuracy of every seed, ``(n, 2)``."""
    rows = [figures(result) for result in seeds]
    return np.array([[row["global_all"], row["local"]] for row in rows])


def _tradeoff_point(axes: Axes, method: str, seeds: Sequence[MethodResult], look: Look, spread: bool) -> None:
    x, y = _places(seeds).T
    if len(seeds) > 1 and spread:
        axes.plot(x, y, look.marker, color=look.color, alpha=0.45, markersize=4.5, markeredgewidth=0)
        axes.errorbar(x.mean(), y.mean(), y.std(), x.std(), color=look.color, linewidth=1.1, alpha=0.55, zorder=3)
    axes.plot(x.mean(), y.mean(), linestyle="none", zorder=4, **_marker(look, method, 9))


def _cross(axes: Axes, by_method: ByMethod) -> None:
    """Mark the global model: at home and everywhere it has the same accuracy."""
    levels = {result.seed: _mean(_before(result)) for seeds in by_method.values() for result in seeds}
    level = _mean(list(levels.values()))
    for line in (axes.axhline, axes.axvline):
        line(level, **REFERENCE)
    if not math.isnan(level):
        place = axes.get_yaxis_transform()
        axes.text(0.008, level, "global model", va="bottom", fontsize=8.5, color=MUTED, transform=place)


def curves(by_method: ByMethod, look: Mapping[str, Look]) -> Figure | None:
    """Draw local (dashed) and global (solid) accuracy over the epochs, one panel per method and its variants."""
    drawn = {method: [curve_rows(result) for result in seeds] for method, seeds in by_method.items()}
    drawn = {method: seeds for method, seeds in drawn.items() if len(_evaluated(seeds)) > 1}
    if not drawn:
        return None
    families = _families(drawn, look)
    columns = 2 if len(families) in (2, 4) else 3
    figure, axes = panels(len(families), columns, (2.9, 2.2), sharex=True, sharey=True)
    for ax, (family, members) in zip(axes, families.items(), strict=True):
        for method in members:
            _curve_panel(ax, drawn[method], look[method], len(members) == 1)
        ax.set_title(short(members[0] if len(members) == 1 else family, 24))
        ax.tick_params(labelbottom=True)
        if len(members) > 1:
            handles = [
                Line2D([], [], color=look[m].color, linewidth=1.6, label=short(look[m].label, 20)) for m in members
            ]
            box = {"frameon": True, "facecolor": PAPER, "edgecolor": "none", "framealpha": 0.75, "borderpad": 0.2}
            ax.legend(handles=handles, fontsize=7, handlelength=1.1, labelspacing=0.25, loc="best", **box)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    figure.supxlabel("epoch of fine-tuning", fontsize=9.5, color=INK)
    figure.supylabel("accuracy (%)", fontsize=9.5, color=INK)
    styles = {"local (at home)": (0, (4, 2)), "global (all test sets)": "-", "global model": REFERENCE["linestyle"]}
    handles = [
        Line2D([], [], color=MUTED if name == "global model" else INK, linestyle=style, linewidth=1.6, label=name)
        for name, style in styles.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=2.6)
    return figure


def _curve_panel(axes: Axes, seeds: Sequence[Sequence[Mapping[str, Any]]], look: Look, alone: bool) -> None:
    """Draw one method; its spread over seeds, and where its phases change, only if it is alone in the panel."""
    epochs = _evaluated(seeds)
    for name, style in (("local", (0, (4, 2))), ("global_all", "-")):
        rows = [{row["epoch"]: row[name] for row in curve} for curve in seeds]
        values = np.array([[row[epoch] for epoch in epochs] for row in rows])
        mean, std = values.mean(axis=0), values.std(axis=0)
        if epochs[0] == 0:
            axes.axhline(mean[0], **REFERENCE)
        if alone:
            axes.fill_between(epochs, mean - std, mean + std, color=look.color, alpha=0.18, linewidth=0)
        axes.plot(epochs, mean, color=look.color, linestyle=style, linewidth=1.8 if alone else 1.4)
    for epoch, names in _switches(seeds[0]) if alone else ():
        axes.axvline(epoch, color=MUTED, linewidth=0.9)
        axes.annotate(
            names, (epoch, 1), (3, -2), ("data", "axes fraction"), "offset points", va="top", fontsize=8, color=MUTED
        )


def _evaluated(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[int]:
    """Return the epochs that were evaluated in every seed."""
    known = [{row["epoch"] for row in curve if row["local"] is not None} for curve in seeds]
    return sorted(set.intersection(*known))


def _switches(curve: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return the epochs after which another phase begins, with the names of both."""
    rows = [row for row in curve if row["epoch"] > 0]
    pairs = pairwise(rows)
    return [(a["epoch"], f"{a['phase']} → {b['phase']}") for a, b in pairs if a["phase"] != b["phase"]]


def clients(by_method: ByMethod, look: Mapping[str, Look]) -> Figure | None:
    """Draw how far every client's local accuracy moved from the global model's, in points."""
    change = {method: _over_seeds(seeds, _local_change) for method, seeds in _trained(by_method, look).items()}
    if not change:
        return None
    names = next(iter(by_method.values()))[0].clients
    named = len(names) <= NAMED_CLIENTS
    height = max(2.2, 1.1 + 0.3 * len(names)) if named else 4.2
    size = (7.4, room_for_legend(height, len(_families(change, look))))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    groups = [[change[method] for method in members] for members in _families(change, look).values()]
    plain = {family: look[members[0]].plain for family, members in _families(change, look).items()}
    (_change_by_name if named else _change_by_rank)(axes, dict(zip(plain, groups, strict=True)), names, plain)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handletextpad=0.4)
    return figure


def _change_by_name(
    axes: Axes, change: Mapping[str, Sequence[Values]], names: Sequence[str], look: Mapping[str, Look]
) -> None:
    rows = np.arange(len(names))
    for number, (method, members) in enumerate(change.items()):
        nudge = 0.56 * (number / (len(change) - 1) - 0.5) if len(change) > 1 else 0.0
        if len(members) > 1:  # from the lowest to the highest variant
            style: dict[str, Any] = {"color": look[method].color, "linewidth": 3, "alpha": 0.55}
            axes.hlines(rows + nudge, np.min(members, axis=0), np.max(members, axis=0), **style)
        middle = np.median(members, axis=0)
        axes.plot(middle, rows + nudge, linestyle="none", **_marker(look[method], method, 6.5))
    axes.axvline(0, color=MUTED, linewidth=1.2)
    axes.set_yticks(rows, [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    for row in rows[::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0, zorder=0)
    axes.set_xlabel("← hurt · change of local accuracy against the global model (points) · helped →")


def _change_by_rank(
    axes: Axes, change: Mapping[str, Sequence[Values]], names: Sequence[str], look: Mapping[str, Look]
) -> None:
    for method, members in change.items():
        values = np.median(members, axis=0)
        ranked = np.sort(values[~np.isnan(values)])
        axes.plot(np.arange(1, len(ranked) + 1), ranked, color=look[method].color, label=short(method, 24))
    axes.axhline(0, color=MUTED, linewidth=1.2)
    axes.set_xlabel(f"the {len(names)} clients, from the largest loss to the largest gain")
    axes.set_ylabel("change of local accuracy (points)")


def distortion(by_method: ByMethod, look: Mapping[str, Look]) -> Figure | None:
    """Draw how far the features of every client moved against how much global accuracy it lost.

    A large point is the end; small points are the evaluated epochs, joined by a line if there are not too many.
    """
    trained = _trained(by_method, look)
    ends = {
        method: (_over_seeds(seeds, _distortion), _over_seeds(seeds, _global_drop)) for method, seeds in trained.items()
    }
    if not any((~np.isnan(x + y)).any() for x, y in ends.values()):
        return None
    size = (7.4, room_for_legend(4.4, len(_families(trained, look))))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for method, seeds in trained.items():
        paths = _distortion_paths(seeds)
        joined = len(paths) * len(trained) <= MANY_PATHS
        style: dict[str, Any] = {
            "color": look[method].color,
            "marker": ".",
            "markersize": 4.5,
            "markeredgewidth": 0,
            "alpha": 0.4,
        }
        for path in paths:
            axes.plot(*path.T, **style, linewidth=0.7 if joined else 0)
    for family, members in _families(trained, look).items():
        for method in members:
            mark: dict[str, Any] = _marker(look[method], family, 6.5) | {"alpha": 0.8, "clip_on": False}
            mark["label"] = mark["label"] if method == members[-1] else None
            axes.plot(*ends[method], linestyle="none", **mark)
    axes.axhline(0, color=MUTED, linewidth=1.2)
    axes.set_xlabel("feature distortion: how far the client's features moved (l2)")
    axes.set_ylabel("loss of global accuracy (points)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handletextpad=0.4)
    return figure


def depth(by_method: ByMethod, look: Mapping[str, Look]) -> Figure | None:
    """Draw how far the output of every layer moved; a method alone in its family with its spread over seeds."""
    drawn: dict[str, tuple[list[str], Values]] = {}
    for method, seeds in by_method.items():
        rows = [found for result in seeds if (found := depth_rows(result))]
        layers = [row["layer"] for row in rows[0]] if rows else []
        if layers and all([row["layer"] for row in own] == layers for own in rows):
            drawn[method] = layers, np.array([_array(row["distortion_relative"] for row in own) for own in rows])
    if not drawn:
        return None
    names = next(iter(drawn.values()))[0]
    drawn = {method: found for method, found in drawn.items() if found[0] == names}
    families = _families(drawn, look)
    figure = Figure(figsize=(7.4, room_for_legend(3.9, len(families))), layout="constrained")
    axes = figure.subplots()
    places = np.arange(1, len(names) + 1)
    for family, members in families.items():
        for method in members:
            values = drawn[method][1]
            mean, std = values.mean(axis=0), values.std(axis=0)
            if len(members) == 1:
                axes.fill_between(places, mean - std, mean + std, color=look[method].color, alpha=0.15, linewidth=0)
            mark = _marker(look[method], family, 5) | {"label": short(family, 24) if method == members[-1] else None}
            axes.plot(places, mean, **mark, linewidth=1.4)
    tilted = sum(map(len, names)) > NAMED_LAYERS
    size = 9 if len(names) <= MANY_LAYERS else 6.5
    ticks: dict[str, Any] = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    axes.set_xticks(places, [_short_layer(name) for name in names], fontsize=size, **ticks)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer, from the image (left) to the features that the head sees (right)")
    axes.set_ylabel("relative distortion: how far its output moved")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handletextpad=0.4)
    return figure


def _short_layer(name: str, limit: int = 26) -> str:
    """Keep the end of a long name, which says most."""
    return name if len(name) <= limit else "…" + name[1 - limit :]


def _distortion_paths(seeds: Sequence[MethodResult]) -> list[Values]:
    """Return distortion and loss of every client over the evaluated epochs, mean over seeds, ``(epochs, 2)`` each."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for result in seeds:
        for client, epoch, moved, lost in distortion_points(result):
            found.setdefault((client, epoch), []).append((moved, lost))
    clients = dict.fromkeys(client for client, _ in found)
    return [
        np.array([np.mean(found[client, epoch], axis=0) for name, epoch in sorted(found) if name == client])
        for client in clients
    ]


def matrices(by_method: ByMethod, look: Mapping[str, Look]) -> Figure | None:
    """Draw the accuracy matrix of every method, the mean over its seeds, on one scale; of variants the best one's."""
    if not by_method:
        return None
    families = _families(by_method, look).values()
    shown = [max(members, key=lambda method: _average(by_method[method])) for members in families]
    means = {method: _over_seeds(by_method[method], accuracy_matrix) for method in shown}
    names = next(iter(by_method.values()))[0].clients
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
    bar.set_label("accuracy (%); row = whose model, column = whose test set")
    return figure


def draw_matrix(axes: Axes, matrix: Matrix, names: Sequence[str], scale: Normalize) -> None:
    """Draw one accuracy matrix as a heat map: framed diagonal, and numbers if there is room for them."""
    image = axes.imshow(matrix, norm=scale, interpolation="none")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    ticks = range(len(names)) if len(names) <= NAMED_CLIENTS else []
    size = 8.5 if len(names) <= NUMBERED_CLIENTS else 5.5
    labels = [short(name, 12) for name in names] if ticks else []
    axes.set_xticks(ticks, labels, rotation=90, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
    axes.tick_params(length=0)
    if len(names) <= NUMBERED_CLIENTS:
        _write_numbers(axes, matrix, scale, image.cmap)
    if len(names) <= NAMED_CLIENTS:
        for place in range(len(names)):
            axes.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2))


def color_scale(matrices: Sequence[Matrix]) -> Normalize:
    """Return the range of colours that all these matrices fit in."""
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 100.0)
    return Normalize(low, high if high > low else low + 1)


def _write_numbers(axes: Axes, matrix: Matrix, scale: Normalize, colormap: Callable[[float], Any]) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        if not math.isnan(value):
            ink = text_color(*colormap(float(scale(value)))[:3])
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)


def _marker(look: Look, label: str, size: float) -> dict[str, Any]:
    return {
        "marker": look.marker,
        "color": look.color,
        "markersize": size * 1.4 if look.marker == "*" else size,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.6,
        "label": short(label, 24),
    }


def _trained(by_method: ByMethod, look: Mapping[str, Look]) -> ByMethod:
    """Leave out the global model itself, which is what the others are compared with."""
    return {method: seeds for method, seeds in by_method.items() if look[method].marker != "*"}


def _families(methods: Iterable[str], look: Mapping[str, Look]) -> dict[str, list[str]]:
    """Put the variants of one method together; every other method is by itself."""
    families: dict[str, list[str]] = {}
    for method in methods:
        families.setdefault(look[method].family, []).append(method)
    return families


def _average(seeds: Sequence[MethodResult]) -> float:
    """Return the mean of Local and Global over the seeds; of variants the highest one is shown where one must do."""
    value = _mean([row["average2"] for row in map(figures, seeds)])
    return -math.inf if math.isnan(value) else value


def _over_seeds(seeds: Sequence[MethodResult], figure: Callable[[MethodResult], Values]) -> Values:
    return np.mean([figure(result) for result in seeds], axis=0)


def _before(result: MethodResult) -> Values:
    """Return the global model's accuracy on every client's test set."""
    return _array(cell.local_before for cell in result.cells)


def _local_change(result: MethodResult) -> Values:
    return np.diagonal(accuracy_matrix(result)) - _before(result)


def _global_drop(result: MethodResult) -> Values:
    rows = accuracy_matrix(result)
    return _mean(_before(result)) - np.array([_mean(row) for row in rows])


def _distortion(result: MethodResult) -> Values:
    return _array(cell.distortion_own for cell in result.cells)


def _array(values: Iterable[float | None]) -> Values:
    return np.array([math.nan if value is None else value for value in values])


def _mean(values: Values | Sequence[float]) -> float:
    """Return the mean of what is known, NaN if nothing is."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
