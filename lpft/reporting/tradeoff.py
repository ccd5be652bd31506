"""Methods as curves: the models between the global model and the personalized ones, and methods at equal Local.

The statistics are `lpft.evaluation.tradeoff`; this module makes their input from the client results, and frames and a
table of their output. Only methods whose clients were tested on the line (`evaluation.curve`) have a curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pandas import DataFrame, factorize

from lpft.evaluation.certainty import estimate, holm, verdict
from lpft.evaluation.tradeoff import Curve, Matched, area, best_point, matched
from lpft.reporting.experiment import Experiment
from lpft.reporting.formatting import estimate_text
from lpft.reporting.frames import Frames, Measured
from lpft.reporting.intervals import Certainty, Comparison, of_global_model

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
HEADER = ("method", "reference", "Local (%)", "Global minus the reference's", "a by validation data", "Local", "Global")

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
        with_lines = set(self.lines["method"])
        return [method for method in self.experiment.complete_methods if method in with_lines]

    def values(self, method: str, column: str) -> np.ndarray:
        """Return a column of a method's lines by point, seed and client, ``(P, S, C)``; complete results only."""
        lines = self.lines[self.lines["method"] == method]
        codes, levels = zip(*(factorize(lines[key], sort=key == "a") for key in ("a", "seed", "client")), strict=True)
        values = np.full(list(map(len, levels)), np.nan)
        values[codes] = lines[column]
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
            matches = {m: self._matched(m, reference) for m in others}
            estimates = {m: estimate(match.shares) for m, match in matches.items()}
            adjusted = holm([e.p for e in estimates.values()])
            for (method, e), p in zip(estimates.items(), adjusted, strict=True):
                word = verdict(e, p, "higher", self.certainty.equivalence) if matches[method].overlaps else ""
                comparisons[method, reference] = MatchedComparison(e, p, word, matches[method])
        return comparisons

    def _matched(self, method: str, reference: str) -> Matched:
        """Compare two methods on the seeds that both have."""
        of_method, of_reference = (
            self.lines.loc[self.lines["method"] == name, "seed"].unique() for name in (method, reference)
        )
        clients = np.ones(len(self.experiment.client_names), dtype=bool)
        return matched(
            self.curves[method].of(np.isin(of_method, of_reference), clients),
            self.curves[reference].of(np.isin(of_reference, of_method), clients),
        )

    @cached_property
    def matched(self) -> DataFrame:
        """The columns of matched.csv: one row per method and reference."""
        rows = [
            (method, reference, comparison.matched.low, comparison.matched.high, *comparison.row)
            for (method, reference), comparison in self.comparisons.items()
        ]
        return DataFrame(rows, columns=list(MATCHED_COLUMNS))

    @cached_property
    def summary(self) -> DataFrame:
        """The columns of tradeoff.csv: one row per method with a curve.

        ``area`` is that between curve and global model, squared percentage points. ``best_a`` is chosen for every
        client by its own validation data; ``best_local`` and ``best_global_all`` are on test data.
        """
        rows = []
        for method in self.methods:
            between = estimate(area(self.curves[method]))
            best = best_point(self.values(method, "val"))[None]
            points = np.sort(self.lines.loc[self.lines["method"] == method, "a"].unique())
            chosen = [np.take_along_axis(self.values(method, name), best, axis=0) for name in ("local", "global_all")]
            means = (float(points[best].mean()), *(float(np.nanmean(values)) for values in chosen))
            counts = (between.num_seeds, between.num_clients)
            rows.append((method, between.mean, between.low, between.high, *means, *counts))
        return DataFrame(rows, columns=list(TRADEOFF_COLUMNS))

    def _rows(self) -> Iterator[Row]:
        for measured in self.frames.measured:
            lengths = {len(cell.line) for cell in measured.result.client_results if cell.line}
            if measured.result.complete and len(lengths) == 1:
                yield from _lines_of(measured)


def _lines_of(measured: Measured) -> Iterator[Row]:
    """Yield the rows of a complete method and seed."""
    result, personalized, global_model = measured.result, measured.of_clients, of_global_model(measured.result)
    between: Sequence[Mapping[str, Any]] = next(cell.line for cell in result.client_results if cell.line)
    for index, cell in enumerate(result.client_results):
        key: Row = {"seed": result.seed, "method": result.method, "client": cell.client}
        start = {name: global_model[name][index] for name in VALUES[:4]}
        start |= {"distortion": 0.0, "val": cell.val_before}
        end = {name: personalized[name][index] for name in VALUES[:4]}
        end |= {"distortion": cell.distortion_own, "val": cell.val_after}
        yield {**key, "a": 0.0, **start}
        # a client without training data stays at the global model
        for point in cell.line or [{"a": point["a"], **end} for point in between]:
            yield {**key, **point}
        yield {**key, "a": 1.0, **end}


def equal_local_rows(tradeoff: Tradeoff) -> list[tuple[str, list[str]]]:
    """Return method and the entries of `HEADER` for people; empty if no methods are compared.

    There is one row for every method with a curve and every reference; a method that is compared with no reference has
    one row with its best model on the line. The last two entries are Local and Global of the models at the ``a`` that
    validation data chose, mean over clients and seeds.
    """
    rows = []
    for best in tradeoff.summary.itertuples() if tradeoff.comparisons else ():
        chosen = [f"{best.best_a:.2f}", f"{best.best_local:.1f}", f"{best.best_global_all:.1f}"]
        compared = [
            [reference, *_entries(comparison)]
            for (method, reference), comparison in tradeoff.comparisons.items()
            if method == best.method
        ]
        rows += [(str(best.method), [*entries, *chosen]) for entries in compared or [["-", "-", "-"]]]
    return rows


def _entries(comparison: MatchedComparison) -> list[str]:
    """Return the range of Local, and the difference with its interval and verdict."""
    if not comparison.matched.overlaps:
        return ["-", "no Local in common"]
    local = f"{comparison.matched.low:.1f} - {comparison.matched.high:.1f}"
    return [local, f"{estimate_text(comparison.estimate, '+.1f')} {comparison.verdict}"]
