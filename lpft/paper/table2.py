"""Table 2 of arXiv:2511.12695 beside the results of a run: the verdict ``lpft.paper.table2.table2``."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lpft.paper.evidence import all_or_none, compare_pairs, first_pair, is_better, mean_by_method
from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import class_name, probes_first, section
from lpft.reporting.verdicts import Verdict

METHODS = {
    "FT": "FT",
    "ProximalFT": "Proximal FT",
    "SparseFT": "Sparse FT",
    "SoupFT": "Soup FT",
    "LSSFT": "LSS FT",
    "LPFT": "LP-FT",
}
"""The paper's name of every method, by its class here."""
METRICS = {
    "local": "Local",
    "global_all": "Global",
    "cstd_row": "C-Std",
    "worst_row": "Worst",
    "average3": "Average",
}
"""The paper's name of every metric, by the column of results.csv that follows the paper's numbers."""
GAINS = ("global_all", "average3")
"""The metrics in which LP-FT is compared with FT."""


def table2(points: Sequence[Analysis]) -> Verdict:
    """T2: how far are the results from those of the paper?

    The dataset is recognized by the experiment's name, which has to begin with one of the table's, as ``digit5_kd3a``.

    References:
        Chen et al., arXiv:2511.12695, Table 2: mean and standard deviation over three runs.
    """
    rows = [_compare(point) for point in points]
    pairs = {
        number: (points[number], (row["method"], row["baseline"])) for number, row in enumerate(rows) if row["method"]
    }
    for metric, comparisons in compare_pairs(pairs, GAINS, points).items():
        for number, comparison in comparisons.items():
            gain = {"metric": METRICS[metric], "here": comparison, "paper": _gain_in_paper(rows[number], metric)}
            rows[number]["gains"].append(gain)
    outcome = all_or_none([is_better(gain["here"]) for row in rows for gain in row["gains"]])
    if outcome == "not judged" and any(row["methods"] for row in rows):
        outcome = "unclear"
    return Verdict(outcome, {}, rows, Path(__file__).parent / "templates" / "table2.txt")


def _compare(point: Analysis) -> dict[str, Any]:
    """Return the means of a point beside those of the paper, or the problem that prevents the comparison."""
    name = str(point.experiment.config.get("name") or "")
    dataset, methods = dataset_of(name), paper_methods(point)
    row: dict[str, Any] = {
        "point": point.experiment.label,
        "dataset": dataset,
        "problem": "",
        "gains": [],
        "method": "",
        "methods": {},
    }
    if dataset is None:
        datasets = ", ".join(dict.fromkeys(key[0] for key in published()))
        return row | {"problem": f"the experiment's name `{name}` does not begin with one of its datasets ({datasets})"}
    metric_of_tables = section(point.experiment.config, "evaluation").get("metric", "accuracy")
    if metric_of_tables != "accuracy":
        return row | {"problem": f"the table has accuracies, the experiment `evaluation.metric: {metric_of_tables}`"}
    if not methods:
        return row | {"problem": "none of the table's methods has results"}
    for method, title in methods.items():
        row["methods"][method] = {
            METRICS[metric]: (mean, published()[dataset, title, METRICS[metric]])
            for metric in METRICS
            for mean in mean_by_method(point, [method], metric).values()
        }
    method, baseline = first_pair(point)
    if methods.get(method) == "LP-FT" and methods.get(baseline) == "FT":
        row |= {"method": method, "baseline": baseline}
    return row


def _gain_in_paper(row: Mapping[str, Any], metric: str) -> float:
    """Return LP-FT minus FT in the paper."""
    of_lpft, of_ft = (published()[row["dataset"], title, METRICS[metric]] for title in ("LP-FT", "FT"))
    return of_lpft - of_ft


def paper_methods(point: Analysis) -> dict[str, str]:
    """Return the complete methods that are in the table, with the paper's name: of every class the first one.

    A method needs the whole budget of epochs; an `LPFT` that only probes is not LP-FT.
    """
    config = point.experiment.config
    budget = section(config, "personalization").get("epochs")
    methods: dict[str, str] = {}
    for method in point.experiment.complete_methods:
        settings = section(config, "methods", method)
        title = METHODS.get(class_name(settings))
        full_budget = section(settings, "init_args").get("epochs") in (None, budget)
        if title and full_budget and title not in methods.values() and (title != "LP-FT" or probes_first(settings)):
            methods[method] = title
    return methods


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
    with (Path(__file__).parent / "table2.csv").open(encoding="utf-8", newline="") as file:
        return {(row["dataset"], row["method"], row["metric"]): float(row["mean"]) for row in csv.DictReader(file)}
