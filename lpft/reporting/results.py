"""Reading a run's folder: for every seed and method the client results that exist, are missing or damaged.

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
    """All that is known of one method for one seed.

    Args:
        seed: seed of the run.
        method: the method's name in the configuration.
        clients: names of all clients that should be there; the order of rows and columns everywhere.
        client_results: usable client results, in the order of `clients`.
        missing: clients without a cell.
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
        """Whether the cells were computed with different settings."""
        return len({cell.fingerprint for cell in self.client_results}) > 1

    @property
    def complete(self) -> bool:
        """Whether every client's cell is there and all belong to the same settings; only then a mean is comparable."""
        return bool(self.client_results) and not (self.missing or self.damaged or self.mixed or self.outdated)

    @property
    def problem(self) -> str:
        """What keeps the result from being complete, in words; empty if nothing does."""
        parts = []
        if self.missing or not self.client_results:
            parts.append(f"{len(self.missing)} of {len(self.clients)} cells missing{_some(self.missing)}")
        if self.damaged:
            parts.append(f"{len(self.damaged)} damaged{_some([damage.client for damage in self.damaged])}")
        if self.mixed:
            parts.append("cells of different settings")
        if self.outdated:
            parts.append("made with other settings than config.yaml has")
        return ", ".join(parts)

    def count(self, status: str) -> int:
        """Return how many cells have this status (one of `lpft.storage.client_result.STATUSES`)."""
        return sum(cell.status == status for cell in self.client_results)


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
    planned_seeds, planned_methods = _planned(config)
    on_disk = {seed: run.methods(seed) for seed in sorted({*run.seeds(), *planned_seeds})}
    order = method_order(config, {method for methods in on_disk.values() for method in methods})
    found = {
        (seed, method): read_client_results(run, seed, method, brief) if method in methods else {}
        for seed, methods in on_disk.items()
        for method in order
    }
    clients = _clients(config, [cell for cells in found.values() for cell in cells.values()])
    outdated = _outdated(run, config)
    return [
        replace(_sorted_out(run, seed, method, clients, cells), outdated=(seed, method) in outdated)
        for (seed, method), cells in found.items()
        if cells or (seed in (planned_seeds or on_disk) and method in (planned_methods or order))
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
        log.warning("%s cannot be read: %s", run.config, error)
        return {}


def read_history(path: Path) -> History:
    """Read a global model's history.csv, one dictionary per round; empty if there is none.

    A value that is blank, NaN, or no number since the file was cut off, is None.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: _number(value) for key, value in row.items() if key} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


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
    _, planned = _planned(config)
    return [*planned, *sorted(set(methods) - set(planned))]


def experiment_of(config: Mapping[str, Any], results: Sequence[MethodResult]) -> Experiment:
    """Return what a run consists of, as its results tell."""
    return Experiment(
        config=config,
        seeds=sorted({result.seed for result in results}),
        methods=list(dict.fromkeys(result.method for result in results)),
        complete_methods=list(dict.fromkeys(result.method for result in results if result.complete)),
        client_names=results[0].clients if results else [],
    )


def _planned(config: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    seeds = [seed for seed in config.get("seeds") or [] if isinstance(seed, int)]
    return seeds, [str(name) for name in section(config, "methods")]


def _clients(config: Mapping[str, Any], cells: Iterable[ClientResult | DamagedFileError]) -> list[str]:
    if names := section(config, "provenance").get("clients"):
        return [str(name) for name in names]
    return next((cell.clients for cell in cells if isinstance(cell, ClientResult)), [])


def _outdated(run: Run, config: Mapping[str, Any]) -> set[tuple[int, str]]:
    """Return seeds and methods that were made with other settings than those in config.yaml."""
    provenance = section(config, "provenance")
    outdated = set()
    for seed, part, settings in run.settings():
        own = settings.get("method")
        rest = {key: value for key, value in settings.items() if key != "method"}
        shared = provenance.get("settings" if "personalization" in rest else "reference_settings")
        expected = (shared, section(config, "methods").get(part, own))
        if part != "global" and shared is not None and (fingerprint(rest), own) != expected:
            outdated.add((seed, part))
    return outdated


def _sorted_out(run: Run, seed: int, method: str, clients: list[str], found: ResultsByFile) -> MethodResult:
    names = {file_name(client): client for client in clients}
    cells: dict[str, ClientResult] = {}
    damaged: list[Damage] = []
    expected = sorted(clients)
    fits: dict[int, bool] = {}  # cells share their lists of clients

    def note_damage(name: str, reason: str) -> None:
        path = run.method_file(seed, method, "cells") / name
        damaged.append(Damage(path, names.get(path.stem, unquote(path.stem)), reason))

    for name, cell in found.items():
        if isinstance(cell, DamagedFileError):
            note_damage(name, str(cell))
            continue
        if id(cell.clients) not in fits:
            fits[id(cell.clients)] = sorted(cell.clients) == expected
        if not fits[id(cell.clients)] or len(cell.accuracy) != len(cell.clients):
            note_damage(name, "it was computed for other clients")
        else:
            cells[cell.client] = cell
    absent = set(clients) - cells.keys() - {damage.client for damage in damaged}
    usable = [cells[client] for client in clients if client in cells]
    return MethodResult(seed, method, clients, usable, [c for c in clients if c in absent], damaged)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f" ({shown})" if names else ""
