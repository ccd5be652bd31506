"""Reading a run's folder: for every seed and method the client results that exist, are missing or damaged.

`lpft.reporting.analysis` and `lpft.reporting.status` start from `read_results`. This module imports the standard
library and yaml only, so that `lpft status` answers at once.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from lpft.storage import config_file
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.fingerprint import fingerprint
from lpft.storage.run import Run, file_name

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("lpft")


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
        cells: usable cells, in the order of `clients`.
        missing: clients without a cell.
        damaged: cells that cannot be used.
        outdated: whether it was made with other settings than those in config.yaml, as after ``--overwrite`` for some
            seeds or methods only.
    """

    seed: int
    method: str
    clients: list[str]
    cells: list[ClientResult]
    missing: list[str]
    damaged: list[Damage]
    outdated: bool = False

    @property
    def mixed(self) -> bool:
        """Whether the cells were computed with different settings."""
        return len({cell.fingerprint for cell in self.cells}) > 1

    @property
    def complete(self) -> bool:
        """Whether every client's cell is there and all belong to the same settings; only then a mean is comparable."""
        return bool(self.cells) and not (self.missing or self.damaged or self.mixed or self.outdated)

    @property
    def problem(self) -> str:
        """What keeps the result from being complete, in words; empty if nothing does."""
        parts = []
        if self.missing or not self.cells:
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
        return sum(cell.status == status for cell in self.cells)


def read_results(run: Run) -> list[MethodResult]:
    """Read every cell of a run.

    Seeds and methods are those of config.yaml, and those that have cells on disk.

    Returns:
        One result per seed and method, sorted by seed, then in the order of `method_order`.
    """
    config = read_config(run)
    seeds = sorted({*run.seeds(), *_planned_seeds(config)})
    on_disk = {seed: run.methods(seed) for seed in seeds}
    order = method_order(config, {method for methods in on_disk.values() for method in methods})
    found = {
        (seed, method): list(run.cells(seed, method)) if method in on_disk[seed] else []
        for seed in seeds
        for method in order
    }
    clients = _clients(
        config, (cell for cells in found.values() for _, cell in cells if isinstance(cell, ClientResult))
    )
    planned = {
        (seed, method) for seed in _planned_seeds(config) or seeds for method in _planned_methods(config) or order
    }
    results = [_sorted_out(*key, clients, cells) for key, cells in found.items() if cells or key in planned]
    outdated = set(_outdated(run, config))
    return [replace(result, outdated=(result.seed, result.method) in outdated) for result in results]


def read_method(run: Run, seed: int, method: str) -> MethodResult:
    """Read the results of one method with one seed; whether they are outdated is not checked."""
    config, cells = read_config(run), list(run.cells(seed, method))
    clients = _clients(config, (cell for _, cell in cells if isinstance(cell, ClientResult)))
    return _sorted_out(seed, method, clients, cells)


def _outdated(run: Run, config: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield seeds and methods that were made with other settings than those in config.yaml."""
    shared = provenance(config).get("settings")
    for seed, part, settings in run.settings():
        rest = {key: value for key, value in settings.items() if key != "method"}
        method = (config.get("methods") or {}).get(part, settings.get("method"))
        if part != "global" and shared is not None and (fingerprint(rest), settings.get("method")) != (shared, method):
            yield seed, part


def read_config(run: Run) -> dict[str, Any]:
    """Return the resolved experiment of a run; empty, with a warning, if it is not there or cannot be read."""
    try:
        return config_file.read_config(run)
    except ValueError as error:
        log.warning("%s cannot be read: %s", run.config, error)
        return {}


def provenance(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what config.yaml records beside the settings; see `lpft.storage.provenance`."""
    record = config.get("provenance")
    return record if isinstance(record, Mapping) else {}


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


def methods_of(results: Iterable[MethodResult]) -> list[str]:
    """Return the methods of some results in their order, each once."""
    return list(dict.fromkeys(result.method for result in results))


def is_reference(method: str, config: Mapping[str, Any]) -> bool:
    """Tell whether a method is the global model itself."""
    settings = (config.get("methods") or {}).get(method)
    path = settings.get("class_path", "") if isinstance(settings, Mapping) else ""
    return str(path).endswith(".NoFineTuning") or (not path and method == "none")


def read_history(path: Path) -> list[dict[str, float | None]]:
    """Read a global model's history.csv, one dictionary per round; empty if there is none.

    A value that is blank, NaN, or no number since the file was cut off, is None.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: _number(value) for key, value in row.items() if key} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _sorted_out(
    seed: int, method: str, clients: list[str], found: list[tuple[Path, ClientResult | DamagedFileError]]
) -> MethodResult:
    names = {file_name(client): client for client in clients}
    cells: dict[str, ClientResult] = {}
    damaged = []
    for path, cell in found:
        reason = str(cell) if isinstance(cell, DamagedFileError) else _of_others(cell, clients)
        if reason:
            damaged.append(Damage(path, names.get(path.stem, unquote(path.stem)), reason))
        elif isinstance(cell, ClientResult):
            cells[cell.client] = cell
    absent = set(clients) - cells.keys() - {damage.client for damage in damaged}
    return MethodResult(
        seed=seed,
        method=method,
        clients=clients,
        cells=[cells[client] for client in clients if client in cells],
        missing=[client for client in clients if client in absent],
        damaged=damaged,
    )


def _of_others(cell: ClientResult, clients: list[str]) -> str:
    if sorted(cell.clients) != sorted(clients) or len(cell.accuracy) != len(cell.clients):
        return "it was computed for other clients"
    return ""


def _clients(config: Mapping[str, Any], cells: Iterator[ClientResult]) -> list[str]:
    named = provenance(config).get("clients")
    return [str(name) for name in named] if named else next((cell.clients for cell in cells), [])


def _planned_seeds(config: Mapping[str, Any]) -> list[int]:
    return [seed for seed in config.get("seeds") or [] if isinstance(seed, int)]


def _planned_methods(config: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in config.get("methods") or {}]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f" ({shown})" if names else ""
