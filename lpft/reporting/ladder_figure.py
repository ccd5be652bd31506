"""The figure of the ladder: a waterfall of gain at home and loss elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.evaluation.certainty import Estimate
from lpft.reporting.analysis import Analysis
from lpft.reporting.drawing import panels
from lpft.reporting.ladder import Rung, ladder
from lpft.reporting.style import GRID, MUTED, Look, looks, short

ROW = 0.3
"""Inches per rung."""


def draw_ladder(analysis: Analysis) -> Figure | None:
    """Draw the rungs from top to bottom: a bar from the rung before to this one, and its interval."""
    rungs = ladder(analysis)
    if not rungs:
        return None
    look = looks(analysis.experiment.methods, analysis.experiment.config)
    drawn, axes = panels(2, 2, (2.6, 0.5 + ROW * len(rungs)), sharey=True)
    _waterfall(axes[0], rungs, [rung.home for rung in rungs], look)
    _waterfall(axes[1], rungs, [rung.elsewhere for rung in rungs], look)
    axes[0].set_title("at home (Local)")
    axes[1].set_title("elsewhere (others)")
    axes[0].set_yticks(np.arange(len(rungs)), [short(rung.method) for rung in rungs])
    axes[0].set_ylim(len(rungs) - 0.4, -0.6)
    drawn.supxlabel("difference to the global model (points)")
    return drawn


def _waterfall(axes: Axes, rungs: list[Rung], levels: list[Estimate], look: Mapping[str, Look]) -> None:
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
    axes.axvline(0, color=MUTED, linewidth=1.2)
    axes.grid(False, axis="y")
