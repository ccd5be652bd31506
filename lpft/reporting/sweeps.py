"""Sweeps: what differs between the rows of one run's table, and between the runs of a sweep.

A swept key of a method makes *variants* of it, a *family* of rows in one table. Any other swept key makes *points*,
each a run in a folder of its own. A run that is no sweep is one point without values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from lpft.reporting.results import (
    MethodResult,
    is_reference,
    methods_of,
    read_config,
    read_history,
    read_results,
)
from lpft.reporting.tables import figures_in, result_rows, summary_rows, to_csv
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A row of the table that a sweep over a method's settings made.

    Args:
        family: the method that was swept.
        values: its swept settings, by their name within the method.
    """

    family: str
    values: Values

    @property
    def label(self) -> str:
        """The swept settings in words, as in ``lp_epochs=3``."""
        return label(self.values)


@dataclass(frozen=True)
class Point:
    """The results of one run: a point of a sweep, or a run by itself. This is what verdicts are given.

    Args:
        run: the run.
        config: its resolved experiment.
        results: what was found on disk, for every seed and method.
        values: the swept values of this point, by dotted key; none for a run by itself.
    """

    run: Run
    config: Mapping[str, Any]
    results: Sequence[MethodResult]
    values: Values = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The swept values in words; empty for a run by itself."""
        return label(self.values)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of results.csv: one per seed and method that is complete."""
        return result_rows(self.results)

    @cached_property
    def methods(self) -> list[str]:
        """The methods that are complete for at least one seed, in their order."""
        complete = {row["method"] for row in self.rows}
        return [method for method in methods_of(self.results) if method in complete]

    @property
    def trained(self) -> list[str]:
        """The same without the global model itself."""
        return [method for method in self.methods if not is_reference(method, self.config)]

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The rows that a sweep over a method's settings made, by name."""
        return variants_of(self.config)

    @cached_property
    def histories(self) -> dict[int, list[float | None]]:
        """The global models' validation accuracy after every round, in percent, by seed."""
        seeds = sorted({result.seed for result in self.results})
        histories = {seed: read_history(self.run.global_file(seed, "history.csv")) for seed in seeds}
        return {seed: [row.get("val_accuracy") for row in history] for seed, history in histories.items() if history}

    def family(self, name: str) -> list[str]:
        """Return the complete rows of a method: itself and its variants."""
        return [method for method in self.methods if family_of(method, self.variants) == name]

    def complete(self, method: str) -> list[MethodResult]:
        """Return a method's complete results, one per seed."""
        return [result for result in self.results if result.complete and result.method == method]

    def by_seed(self, method: str, metric: str) -> dict[int, float]:
        """Return a figure of results.csv of one method for every seed where it is known."""
        rows = [row for row in self.rows if row["method"] == method]
        return {row["seed"]: row[metric] for row in rows if not math.isnan(row[metric])}

    def differences(self, method: str, baseline: str, metric: str) -> list[float]:
        """Return how much one method is above another in a figure, for every seed that has both."""
        own, other = self.by_seed(method, metric), self.by_seed(baseline, metric)
        return [own[seed] - other[seed] for seed in own if seed in other]


def variants_of(config: Mapping[str, Any]) -> dict[str, Variant]:
    """Return the variants of a run's methods, as its configuration has them."""
    found: dict[str, Variant] = {}
    for name, variant in _notes(config, "variants").items():
        family = str(variant["method"])
        values = {key.removeprefix(f"methods.{family}."): value for key, value in variant["values"].items()}
        found[str(name)] = Variant(family, values)
    return found


def family_of(method: str, variants: Mapping[str, Variant]) -> str:
    """Return the method that a row belongs to."""
    return variants[method].family if method in variants else method


def tuned_of(config: Mapping[str, Any]) -> dict[str, Values]:
    """Return the tuned methods of a run, each with the settings that were chosen."""
    return {str(name): settings or {} for name, settings in _notes(config, "tuned").items()}


def grouped(methods: Iterable[str], variants: Mapping[str, Variant]) -> list[tuple[str, list[str]]]:
    """Put the rows of a table in groups: variants of one method under its name, runs of all others under none.

    >>> variants = {"ft+lr=1": Variant("ft", {"lr": 1}), "ft+lr=2": Variant("ft", {"lr": 2})}
    >>> grouped(["none", "lp", "ft+lr=1", "ft+lr=2", "lpft"], variants)
    [('', ['none', 'lp']), ('ft', ['ft+lr=1', 'ft+lr=2']), ('', ['lpft'])]
    """
    groups: list[tuple[str, list[str]]] = []
    for method in methods:
        family = variants[method].family if method in variants else ""
        if not groups or groups[-1][0] != family:
            groups.append((family, []))
        groups[-1][1].append(method)
    return groups


def read_point(run: Run, results: Sequence[MethodResult] | None = None) -> Point:
    """Read the results of one run."""
    config = read_config(run)
    found = read_results(run) if results is None else results
    return Point(run, config, found, dict(_notes(config, "point")))


def points_in_order(run: Run) -> list[Run]:
    """Return the points of a sweep that are on disk, in the order of the swept values; none if it is no sweep."""
    order = [list(values) for values in product(*swept(read_config(run)).values())]
    known = {json.dumps(values): number for number, values in enumerate(order)}

    def place(point: Run) -> int:
        values = list(_notes(read_config(point), "point").values())
        return known.get(json.dumps(values), len(known))

    return sorted(run.points(), key=place)


def swept(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the swept keys that make points, with their values; none if the run is no sweep."""
    sweep = config.get("sweep")
    return dict(sweep) if isinstance(sweep, Mapping) else {}


def num_planned(config: Mapping[str, Any]) -> int:
    """Return how many points a sweep has; 0 if the run is no sweep."""
    keys = swept(config)
    return math.prod(len(values) for values in keys.values()) if keys else 0


def label(values: Values) -> str:
    """Write swept values in short.

    >>> label({"data.shift": 0.5, "federation.rounds": 100})
    'shift=0.5, rounds=100'
    """
    names = short_keys(values)
    return ", ".join(f"{names[key]}={word(value)}" for key, value in values.items())


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Cut dotted keys to the last word that tells them apart.

    >>> short_keys(["data.shift", "a.lr", "b.lr"])
    {'data.shift': 'shift', 'a.lr': 'a.lr', 'b.lr': 'b.lr'}
    """
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}


def word(value: object) -> str:
    """Write a swept value in short.

    >>> word(0.0001), word(None), word({"class_path": "my.data.Shifted", "init_args": {"by": 0.5, "n": 3}})
    ('0.0001', 'null', 'Shifted(by=0.5, n=3)')
    """
    if isinstance(value, Mapping) and "class_path" in value:
        name, settings = str(value["class_path"]).rpartition(".")[2], value.get("init_args") or {}
        return f"{name}({', '.join(f'{key}={word(own)}' for key, own in settings.items())})" if settings else name
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def sweep_csv(points: Sequence[Point]) -> str:
    """Return sweep.csv: one row per point and method, with mean and standard deviation of every figure.

    Columns are the swept keys, ``method``, ``n`` (seeds), then for each figure of results.csv its mean, and its
    standard deviation (ddof 0) under the same name with ``_std``. A swept key of a method is blank in the rows of other
    methods.
    """
    own = [f"methods.{v.family}.{key}" for point in points for v in point.variants.values() for key in v.values]
    keys = list(dict.fromkeys([*(key for point in points for key in point.values), *own]))
    names = figures_in(row for point in points for row in point.rows)
    columns = [*keys, "method", "n", *(name + end for name in names for end in ("", "_std"))]
    return to_csv(columns, [row for point in points for row in _sweep_rows(point)])


def write_sweep_csv(run: Run, points: Sequence[Point]) -> None:
    """Write sweep.csv of a run that sweeps over anything; take it away from one that does not."""
    if any(point.values or point.variants for point in points):
        write_atomically(run.root / "sweep.csv", sweep_csv(points))
    else:
        (run.root / "sweep.csv").unlink(missing_ok=True)


def _sweep_rows(point: Point) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for summary in summary_rows(point.rows, point.methods):
        method = summary["method"]
        if method not in rows:
            variant = point.variants.get(method)
            own = {f"methods.{variant.family}.{key}": v for key, v in variant.values.items()} if variant else {}
            plain = {key: _plain(value) for key, value in {**point.values, **own}.items()}
            seeds = len([row for row in point.rows if row["method"] == method])
            rows[method] = {**plain, "method": method, "n": seeds}
        rows[method] |= {summary["metric"]: summary["mean"], f"{summary['metric']}_std": summary["std"]}
    return list(rows.values())


def _plain(value: object) -> object:
    """Return a value as a CSV field has it: what is not a plain number or word as JSON, as in the configuration."""
    return json.dumps(value) if value is None or isinstance(value, (bool, Mapping, list)) else value


def _notes(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    program = config.get("provenance")
    notes = program.get(name) if isinstance(program, Mapping) else None
    return notes if isinstance(notes, Mapping) else {}
