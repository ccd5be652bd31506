"""Reads a run's folder: for every seed and method the client results that exist, are missing or damaged.

`lpft.reporting.analysis` and `lpft.reporting.status` start from `read_results`. This module imports the standard
library and yaml only, so that `lpft status` answers at once.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lpft.reporting.experiment import Experiment, section
from lpft.reporting.formatting import listed
from lpft.runtime.once import log_once
from lpft.storage import config_file
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.fingerprint import fingerprint
from lpft.storage.result_index import ResultsByFile, read_client_results
from lpft.storage.run import Run, file_name

log = logging.getLogger("lpft")

History = list[dict[str, float | None]]
"""The rows of a global model's history.csv."""


@dataclass(frozen=True)
class Damage:
    """A cell that is on disk and cannot be used.

    Args:
        path: its file.
        client: whose cell it should be.
        reason: what is wrong with it, as in "it is not complete".
    """

    path: Path
    client: str
    reason: str


@dataclass(frozen=True)
class MethodResult:
    """The results of one method with one seed.

    Args:
        seed: seed of the run.
        method: the method's name in the configuration.
        clients: names of all expected clients; the order of rows and columns everywhere.
        client_results: usable client results, in the order of `clients`.
        missing: clients without a cell, or with one of the settings before ``--overwrite``.
        damaged: cells that cannot be used.
        outdated: whether it was made with other settings than those in config.yaml, as after ``--overwrite`` for some
            seeds or methods only.
    """

    seed: int
    method: str
    clients: list[str]
    client_results: list[ClientResult]
    missing: list[str]
    damaged: list[Damage]
    outdated: bool = False

    @property
    def mixed(self) -> bool:
        """Whether the results were computed with different settings."""
        return len({cell.fingerprint for cell in self.client_results}) > 1

    @property
    def complete(self) -> bool:
        """Whether all clients have results of the same settings; only then means are comparable."""
        return bool(self.client_results) and not (self.missing or self.damaged or self.mixed or self.outdated)

    @property
    def problem(self) -> str:
        """Description of why the result is not complete; empty if it is."""
        parts = []
        if self.missing or not self.client_results:
            parts.append(f"{len(self.missing)} of {len(self.clients)} clients missing{_in_brackets(self.missing)}")
        if self.damaged:
            parts.append(f"{len(self.damaged)} damaged{_in_brackets([damage.client for damage in self.damaged])}")
        if self.mixed:
            parts.append("results of different settings")
        if self.outdated:
            parts.append("computed with other settings than those in config.yaml")
        return ", ".join(parts)

    def count(self, status: str) -> int:
        """Return the number of results with a status, one of `lpft.storage.client_result.STATUSES`."""
        return sum(result.status == status for result in self.client_results)


def read_results(run: Run, brief: bool = False) -> list[MethodResult]:
    """Read every cell of a run.

    Seeds and methods are those of config.yaml, and those that have cells on disk.

    Args:
        run: the run.
        brief: leave out what only reports show, which takes most of the time and memory.

    Returns:
        One result per seed and method, sorted by seed, then in the order of `method_order`.
    """
    config = read_config(run)
    on_disk = {seed: run.methods(seed) for seed in seeds_of(run, config)}
    methods = method_order(config, {method for methods in on_disk.values() for method in methods})
    cells_of = {
        (seed, method): read_client_results(run, seed, method, brief) if method in on_disk[seed] else {}
        for seed in on_disk
        for method in methods
    }
    clients = _clients(config, [cell for cells in cells_of.values() for cell in cells.values()])
    outdated = _outdated(run, config)
    expected_seeds, expected_methods = _planned_seeds(config) or on_disk, _planned_methods(config) or methods
    return [
        replace(_sorted_out(run, seed, method, clients, cells), outdated=(seed, method) in outdated)
        for (seed, method), cells in cells_of.items()
        if cells or (seed in expected_seeds and method in expected_methods)
    ]


def read_method(run: Run, seed: int, method: str) -> MethodResult:
    """Read the results of one method with one seed; whether they are outdated is not checked."""
    cells = read_client_results(run, seed, method)
    return _sorted_out(run, seed, method, _clients(read_config(run), cells.values()), cells)


def read_config(run: Run) -> dict[str, Any]:
    """Return the resolved experiment of a run; empty, with a warning, if it is missing or cannot be read."""
    try:
        return config_file.read_config(run)
    except ValueError as error:
        log_once(logging.WARNING, str(error), run.config.stat().st_mtime_ns)  # several parts of a report read it
        return {}


def read_history(path: Path) -> History:
    """Read a global model's history.csv, one dictionary per round; empty if there is none.

    A value is None if it is blank, NaN, or cut off. Rows without a number of the round are damaged and left out.
    """
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = [{key: _number(value) for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (FileNotFoundError, csv.Error):
        return []
    return [row for row in rows if row.get("round") is not None]


def check_is_run(run: Run) -> None:
    """Raise FileNotFoundError if the folder of a run does not exist or is something else."""
    if not run.config.is_file() and not run.seeds():
        raise FileNotFoundError(
            f"`{run.root}` is not the folder of a run: it has neither config.yaml nor seed_0."
            " HINT: give the folder named by `out` in the experiment's YAML."
        )


def method_order(config: Mapping[str, Any], methods: Iterable[str]) -> list[str]:
    """Return the methods as in config.yaml, then the others in alphabetical order.

    >>> method_order({"methods": {"none": {}, "ft": {}}}, {"ft", "zebra", "ape"})
    ['none', 'ft', 'ape', 'zebra']
    """
    planned = _planned_methods(config)
    return [*planned, *sorted(set(methods) - set(planned))]


def seeds_of(run: Run, config: Mapping[str, Any]) -> list[int]:
    """Return the seeds that are planned or on disk, sorted."""
    return sorted({*run.seeds(), *_planned_seeds(config)})


def experiment_of(config: Mapping[str, Any], results: Sequence[MethodResult]) -> Experiment:
    """Return the seeds, methods and clients of a run, as its results have them."""
    return Experiment(
        config=config,
        seeds=sorted({result.seed for result in results}),
        methods=list(dict.fromkeys(result.method for result in results)),
        complete_methods=list(dict.fromkeys(result.method for result in results if result.complete)),
        client_names=results[0].clients if results else [],
    )


def _planned_seeds(config: Mapping[str, Any]) -> list[int]:
    return [seed for seed in config.get("seeds") or [] if isinstance(seed, int)]


def _planned_methods(config: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in section(config, "methods")]


def _clients(config: Mapping[str, Any], cells: Iterable[ClientResult | DamagedFileError]) -> list[str]:
    if names := section(config, "provenance").get("clients"):
        return [str(name) for name in names]
    return next((cell.clients for cell in cells if isinstance(cell, ClientResult)), [])


def _outdated(run: Run, config: Mapping[str, Any]) -> set[tuple[int, str]]:
    """Return seeds and methods that were made with other settings than those in config.yaml."""
    provenance = section(config, "provenance")
    outdated = set()
    for seed, part, settings in run.settings():
        method = settings.get("method")
        shared = {key: value for key, value in settings.items() if key != "method"}
        expected = provenance.get("settings" if "personalization" in shared else "reference_settings")
        expected_method = section(config, "methods").get(part, method)
        same = (fingerprint(shared), method) == (expected, expected_method)
        if part != "global" and expected is not None and not same and run.has_results(seed, part):
            outdated.add((seed, part))
    return outdated


def _sorted_out(run: Run, seed: int, method: str, clients: list[str], files: ResultsByFile) -> MethodResult:
    """Separate the usable results of a method and seed from damaged and missing ones."""
    settings = run.settings_of(seed, method)
    current = None if settings is None else fingerprint(settings)
    names = {file_name(client): client for client in clients}
    cells: dict[str, ClientResult] = {}
    damaged: list[Damage] = []
    same_clients: dict[int, bool] = {}  # by list of clients, which cells share

    for name, cell in files.items():
        if isinstance(cell, ClientResult):
            if name.removesuffix(".json") not in names:  # a client that the settings no longer have
                continue
            if current not in (None, cell.fingerprint):  # `--overwrite` has not replaced it yet
                continue
            if id(cell.clients) not in same_clients:
                same_clients[id(cell.clients)] = sorted(cell.clients) == sorted(clients)
            if same_clients[id(cell.clients)] and len(cell.accuracy) == len(cell.clients):
                cells[cell.client] = cell
                continue
        reason = str(cell) if isinstance(cell, DamagedFileError) else "it was computed for other clients"
        path = run.method_file(seed, method, "cells") / name
        damaged.append(Damage(path, names.get(path.stem, unquote(path.stem)), reason))
    not_missing = {*cells, *(damage.client for damage in damaged)}
    usable = [cells[client] for client in clients if client in cells]
    return MethodResult(seed, method, clients, usable, [c for c in clients if c not in not_missing], damaged)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _in_brackets(names: list[str]) -> str:
    return f" ({listed(names, 3)})" if names else ""
