"""Methods as curves: the models between the global model and the personalized ones, and methods at equal Local.

The statistics are `lpft.evaluation.tradeoff`; this module makes their input from the client results, and frames of
their output. Only methods whose clients were tested on the line (`evaluation.curve`) have a curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pandas import DataFrame, factorize

from lpft.evaluation.certainty import estimate, holm, verdict
from lpft.evaluation.metric import Evaluation, Vector
from lpft.evaluation.metrics import compute_client_metrics
from lpft.evaluation.tradeoff import Curve, Matched, area, best_point, matched
from lpft.reporting.experiment import Experiment
from lpft.reporting.frames import Frames
from lpft.reporting.intervals import Certainty, Comparison
from lpft.reporting.results import MethodResult

VALUES = ("local", "global_all", "global_others", "worst", "distortion", "val")
LINE_COLUMNS = ("client", "a", *VALUES)
TRADEOFF_COLUMNS = (
    *("method", "area", "area_low", "area_high", "best_a", "best_local", "best_global_all"),
    *("num_seeds", "num_clients"),
)
MATCHED_COLUMNS = (
    *("method", "reference", "local_from", "local_to", "mean", "low", "high", "p", "p_holm", "verdict"),
    *("num_seeds", "num_clients"),
)

Row = dict[str, Any]


@dataclass(frozen=True)
class MatchedComparison(Comparison):
    """The difference of two methods in Global at equal Local, with its verdict; none without a common range of Local.

    Args:
        matched: shares and the range of Local.
    """

    matched: Matched


@dataclass(frozen=True)
class Tradeoff:
    """The trade-off curves of a run.

    Args:
        experiment: methods, seeds and clients of the run.
        frames: its results.
        certainty: its references and its region of equivalence.
    """

    experiment: Experiment
    frames: Frames
    certainty: Certainty

    @cached_property
    def lines(self) -> DataFrame:
        """One row per seed, method, client and tested model: the columns of curve.csv. Percent.

        ``a`` is 0 for the global model and 1 for the personalized one.
        """
        return DataFrame(self._rows(), columns=["seed", "method", *LINE_COLUMNS])

    @cached_property
    def methods(self) -> list[str]:
        """The complete methods that have a curve."""
        known = set(self.lines["method"])
        return [method for method in self.experiment.complete_methods if method in known]

    def values(self, method: str, column: str) -> np.ndarray:
        """Return a column of a method's lines by point, seed and client, ``(P, S, C)``; complete results only."""
        lines = self.lines[self.lines["method"] == method]
        places = [factorize(lines[key], sort=key == "a") for key in ("a", "seed", "client")]
        values = np.full([len(found) for _, found in places], np.nan)
        values[tuple(place for place, _ in places)] = lines[column]
        return values

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Local and Global of every method with a curve."""
        return {m: Curve(self.values(m, "local"), self.values(m, "global_all")) for m in self.methods}

    @cached_property
    def mean_curves(self) -> DataFrame:
        """One row per method and point: means over seeds and clients."""
        means = self.lines[self.lines["method"].isin(self.methods)].groupby(["method", "a"], sort=False)
        return means[list(VALUES)].mean().reset_index()

    @cached_property
    def comparisons(self) -> dict[tuple[str, str], MatchedComparison]:
        """The comparison at equal Local of every method and reference that have a curve."""
        comparisons = {}
        for reference in self.certainty.references:
            others = [m for m in self.methods if m != reference] if reference in self.methods else []
            found = {m: self._matched(m, reference) for m in others}
            estimates = {m: estimate(one.shares) for m, one in found.items()}
            adjusted = holm([one.p for one in estimates.values()])
            for (method, one), p in zip(estimates.items(), adjusted, strict=True):
                word = verdict(one, p, "higher", self.certainty.equivalence) if found[method].overlaps else ""
                comparisons[method, reference] = MatchedComparison(one, p, word, found[method])
        return comparisons

    def _matched(self, method: str, reference: str) -> Matched:
        """Compare two methods on the seeds that both have."""
        seeds = [list(self.lines.loc[self.lines["method"] == m, "seed"].unique()) for m in (method, reference)]
        both = [np.isin(own, seeds[1 - place]) for place, own in enumerate(seeds)]
        every = np.ones(len(self.experiment.client_names), dtype=bool)
        return matched(self.curves[method].of(both[0], every), self.curves[reference].of(both[1], every))

    @cached_property
    def matched(self) -> DataFrame:
        """The columns of matched.csv: one row per method and reference."""
        rows = []
        for (method, reference), found in self.comparisons.items():
            rows.append((method, reference, found.matched.low, found.matched.high, *found.row))
        return DataFrame(rows, columns=list(MATCHED_COLUMNS))

    @cached_property
    def summary(self) -> DataFrame:
        """The columns of tradeoff.csv: one row per method with a curve.

        ``area`` is that between curve and global model, squared percentage points. ``best_a`` is chosen for every
        client by its own validation data; ``best_local`` and ``best_global_all`` are on test data.
        """
        rows = []
        for method in self.methods:
            under = estimate(area(self.curves[method]))
            best = best_point(self.values(method, "val"))[None]
            points = np.sort(self.lines.loc[self.lines["method"] == method, "a"].unique())
            chosen = [np.take_along_axis(self.values(method, name), best, axis=0) for name in ("local", "global_all")]
            means = (float(points[best].mean()), *(float(np.nanmean(values)) for values in chosen))
            rows.append((method, under.mean, under.low, under.high, *means, under.num_seeds, under.num_clients))
        return DataFrame(rows, columns=list(TRADEOFF_COLUMNS))

    def _rows(self) -> Iterator[Row]:
        for result, measured in zip(self.frames.method_results, self.frames.measured, strict=True):
            lengths = {len(cell.line) for cell in result.client_results if cell.line}
            if result.complete and len(lengths) == 1:
                yield from _lines_of(result, measured.of_clients)


def _lines_of(result: MethodResult, end: Mapping[str, Vector]) -> Iterator[Row]:
    """Yield the rows of a method and seed.

    Args:
        result: which it is.
        end: the metrics of the personalized models, ``(C,)`` each.
    """
    start = _global_model(result)
    between: Sequence[Mapping[str, Any]] = next(cell.line for cell in result.client_results if cell.line)
    for place, cell in enumerate(result.client_results):
        same: Row = {"seed": result.seed, "method": result.method, "client": cell.client}
        ends = [
            {name: values[name][place] for name in VALUES[:4]} | {"distortion": distortion, "val": val}
            for values, distortion, val in ((start, 0.0, cell.val_before), (end, cell.distortion_own, cell.val_after))
        ]
        yield {**same, "a": 0.0, **ends[0]}
        # a client without training data stays at the global model
        for point in cell.line or [{"a": point["a"], **ends[1]} for point in between]:
            yield {**same, **point}
        yield {**same, "a": 1.0, **ends[1]}


def _global_model(result: MethodResult) -> Mapping[str, Any]:
    """Return the clients' metrics of the global model, ``(C,)`` each."""
    row = np.array([cell.local_before for cell in result.client_results], dtype=np.float64)
    return compute_client_metrics(Evaluation(np.tile(row, (len(row), 1))))
