"""The paper's Table 2 beside one's own: named under ``verdicts`` as ``lpft.reporting.paper.table2``."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from lpft.reporting.phrases import at, spread
from lpft.reporting.sweeps import Point

METHODS = {
    "ft": "FT",
    "prox": "Proximal FT",
    "sparse": "Sparse FT",
    "soup": "Soup FT",
    "lss": "LSS FT",
    "lpft": "LP-FT",
}
"""The paper's name of every method, by its name in an experiment."""
METRICS = {
    "local": "Local",
    "global_all": "Global",
    "cstd_row": "C-Std",
    "worst_row": "Worst",
    "average3": "Average",
}
"""The paper's name of every metric, by the column of results.csv that follows the paper's numbers."""


def table2(points: Sequence[Point]) -> list[str]:
    """T2: how far are the results from those of the paper?

    The dataset is known by the experiment's name: it has to begin with one of the table's, as ``digit5_kd3a`` does.

    References:
        Chen et al., arXiv:2511.12695, Table 2: mean and standard deviation over three runs.
    """
    rule = (
        "Rule: mean over seeds minus the mean in the paper's Table 2, in points. Its split, networks and rates are not"
        " in the text that we have, so these settings differ from its: this is a comparison, no reproduction."
    )
    lines = []
    for point in points:
        dataset = dataset_of(str(point.config.get("name") or ""))
        methods = [method for method in METHODS if method in point.methods and point.by_seed(method, "local")]
        if dataset and methods:
            told = f"Against the paper's {dataset}, whose settings differ"
            if {"ft", "lpft"} <= {*methods}:
                gains = [_gain(point, dataset, metric) for metric in ("global_all", "average3")]
                told += f": LP-FT minus FT is {' and '.join(gains)}"
        else:
            why = "none of the table's methods has results" if dataset else _unknown(point)
            told = f"Cannot be compared with the paper's Table 2: {why}"
        lines.append(at(point, f"{told}. {rule}" if point is points[0] else f"{told}."))
        if dataset:
            lines += [at(point, f"{method}: {_against(point, dataset, method)}.") for method in methods]
    return lines


def dataset_of(name: str) -> str | None:
    """Return the table's dataset that an experiment's name begins with.

    >>> dataset_of("digit5_kd3a"), dataset_of("cifar100_c"), dataset_of("cifar10_clients")
    ('Digit5', 'CIFAR100-C', None)
    """
    for dataset in dict.fromkeys(dataset for dataset, _, _ in published()):
        if re.match("[-_ ]?".join(dataset.lower().split("-")) + "(?![a-z0-9])", name.lower()):
            return dataset
    return None


@cache
def published() -> Mapping[tuple[str, str, str], float]:
    """Return the means of the paper's Table 2, in percent, by dataset, method and metric."""
    with (Path(__file__).parent / "paper_table2.csv").open(encoding="utf-8", newline="") as file:
        return {(row["dataset"], row["method"], row["metric"]): float(row["mean"]) for row in csv.DictReader(file)}


def _against(point: Point, dataset: str, method: str) -> str:
    parts = []
    for metric, name in METRICS.items():
        here = list(point.by_seed(method, metric).values())
        if here:
            there = published()[dataset, METHODS[method], name]
            parts.append(f"{name} {fmean(here):.1f} ({fmean(here) - there:+.1f} to {there:.1f})")
    return ", ".join(parts)


def _gain(point: Point, dataset: str, metric: str) -> str:
    name = METRICS[metric]
    gaps = point.differences("lpft", "ft", metric)
    there = published()[dataset, "LP-FT", name] - published()[dataset, "FT", name]
    return f"{spread(gaps, '+.1f')} in {name} ({there:+.1f} there)"


def _unknown(point: Point) -> str:
    names = ", ".join(dict.fromkeys(dataset for dataset, _, _ in published()))
    return f"the experiment's name `{point.config.get('name')}` does not begin with one of its datasets ({names})"
