"""The index of a method: all of its client results in one file, which is read much faster than thousands of files.

The index is a cache; the cells (the files of single client results) are authoritative. It stores size and modification
time of every cell that it was built from. Only cells in which both are unchanged are taken from the index; the others
are read one by one. You may delete it at any time. A method with few cells has no index. The file is a zip archive with
JSON, which `lpft status` reads without importing NumPy, and NumPy arrays, which reports read in addition.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lpft.storage.atomic import replacing
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.result_parser import Accuracies, Names, ResultParser, common_levels, row_of_none
from lpft.storage.run import Run, read_client_result

if TYPE_CHECKING:
    from lpft.storage.columnar import EntryTable

VERSION = 1
WORTHWHILE = 100
"""Minimum number of cells missing from the index for which it is rewritten."""
SETTLED = 2.0
"""Minimum age of an indexed cell in seconds; a younger one may still change within the same modification time."""

ENTRIES = ("epochs", "line")
"""Fields with a list of entries per client."""
NESTED = ("groups", "depth", "scores", "head_norms")
"""Other fields that only reports read."""
SAME = ("seed", "method", "clients")
"""Fields that are the same in all client results of an index."""
BRIEF = tuple(f.name for f in fields(ClientResult) if f.name not in (*SAME, *ENTRIES, *NESTED, "accuracy"))
"""Fields that both status and reports read."""

ResultsByFile = dict[str, ClientResult | DamagedFileError]
"""Client results by file name; for a damaged file, the error."""


class Stamp(NamedTuple):
    """Size in bytes and modification time in nanoseconds, by which a changed file is recognized."""

    size: int
    mtime: int


def read_client_results(run: Run, seed: int, method: str, brief: bool = False) -> ResultsByFile:
    """Read all client results of a method; rewrite its index if it lacks many of them.

    Args:
        run: the run.
        seed: the seed.
        method: name of the method.
        brief: whether to omit what only reports show: accuracies (all None), entries and nested fields.

    Returns:
        All client results, sorted by file name.
    """
    now = time.time()
    folder = run.method_file(seed, method, "cells")
    stamps = dict(sorted(_stamps(folder)))
    index = ResultIndex(run, seed, method)
    indexed = index.read(stamps, brief)
    lacks_many = len(stamps) - len(indexed) >= WORTHWHILE
    if brief and lacks_many:
        return {name: _briefly(result) for name, result in read_client_results(run, seed, method).items()}
    parse = ResultParser()
    results: ResultsByFile = {name: indexed.get(name) or _read(folder / name, parse) for name in stamps}
    if not brief and len(indexed) < len(results):
        _compact([result for result in results.values() if isinstance(result, ClientResult)])
    if lacks_many:
        settled = [name for name, stamp in stamps.items() if stamp.mtime < 1e9 * (now - SETTLED)]
        index.write({name: (stamps[name], results[name]) for name in settled})
    return {name: _briefly(result) for name, result in results.items()} if brief else results


def _stamps(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield file name and stamp of every cell in a folder; nothing if the folder does not exist."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(".json"):
                status = file.stat()
                yield file.name, Stamp(status.st_size, status.st_mtime_ns)


def _read(path: Path, parse: ResultParser) -> ClientResult | DamagedFileError:
    try:
        return read_client_result(path, parse)
    except DamagedFileError as error:
        return error


def _briefly(result: ClientResult | DamagedFileError) -> ClientResult | DamagedFileError:
    if isinstance(result, DamagedFileError):
        return result
    empty_fields: dict[str, Any] = dict.fromkeys(NESTED)
    return replace(result, accuracy=row_of_none(len(result.clients)), epochs=[], line=[], **empty_fields)


def _compact(results: Sequence[ClientResult]) -> None:
    """Move the entries of client results into shared tables."""
    from lpft.storage.columnar import EntryTable

    for field in ENTRIES:
        table = EntryTable.of([getattr(result, field) for result in results])
        for result, entries in zip(results, table.lists(), strict=True):
            setattr(result, field, entries)


class ResultIndex:
    """The index of one method and seed; the file need not exist.

    Args:
        run: the run.
        seed: the seed.
        method: name of the method.
    """

    def __init__(self, run: Run, seed: int, method: str) -> None:
        self.path = run.method_file(seed, method, "index.npz")
        self._identity = {"version": VERSION, "seed": seed, "method": method, "brief": BRIEF, "nested": NESTED}

    def read(self, stamps: Mapping[str, Stamp], brief: bool = False) -> dict[str, ClientResult]:
        """Return the client results of unchanged cells by file name; none if the index is missing or unusable.

        Args:
            stamps: current stamps of the cells, by file name.
            brief: see `read_client_results`.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return self._read(archive, stamps, brief)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return {}

    def _read(self, archive: zipfile.ZipFile, stamps: Mapping[str, Stamp], brief: bool) -> dict[str, ClientResult]:
        head = json.loads(archive.read("head.json"))
        if head["of"] != json.loads(json.dumps(self._identity)):
            return {}
        is_current = [stamps.get(name) == Stamp(*stamp) for name, stamp in head["stamps"].items()]
        shared = {"seed": head["of"]["seed"], "method": head["of"]["method"], "clients": Names(head["clients"])}
        columns = dict(zip(BRIEF, map(_interned, head["columns"]), strict=True))
        if brief:
            shared["accuracy"] = row_of_none(len(head["clients"]))
        else:
            columns |= dict(zip(NESTED, json.loads(archive.read("nested.json")), strict=True))
            columns |= {field: _load_table(archive, field).lists() for field in ENTRIES}
            columns["accuracy"] = _load_rows(archive)
        rows = zip(head["stamps"], is_current, zip(*columns.values(), strict=True), strict=True)
        return {
            name: ClientResult(**dict(zip(columns, row, strict=True)), **shared)
            for name, current, row in rows
            if current
        }

    def write(self, cells: Mapping[str, tuple[Stamp, ClientResult | DamagedFileError]]) -> None:
        """Write the index of all undamaged cells with the same list of clients; do nothing if writing fails.

        Args:
            cells: by file name, the stamp of the cell before it was read, and its client result.
        """
        clients = next((result.clients for _, result in cells.values() if isinstance(result, ClientResult)), [])
        indexed = {
            name: (stamp, result)
            for name, (stamp, result) in cells.items()
            if isinstance(result, ClientResult) and (result.clients is clients or result.clients == clients)
        }
        if not indexed:
            return
        results = [result for _, result in indexed.values()]
        head = {
            "of": self._identity,
            "stamps": {name: stamp for name, (stamp, _) in indexed.items()},
            "clients": clients,
            "columns": [[getattr(result, field) for result in results] for field in BRIEF],
        }
        nested = [[getattr(result, field) for result in results] for field in NESTED]
        with (
            contextlib.suppress(OSError),
            replacing(self.path) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
        ):
            archive.writestr("head.json", json.dumps(head))
            archive.writestr("nested.json", json.dumps(nested))
            _save_rows(archive, [result.accuracy for result in results])
            for field in ENTRIES:
                _save_table(archive, field, [getattr(result, field) for result in results])


def _interned(column: list[Any]) -> list[Any]:
    """Return values with all strings interned, so that equal strings share memory."""
    return [sys.intern(value) if isinstance(value, str) else value for value in column]


# Arrays


def _save(archive: zipfile.ZipFile, name: str, values: Any) -> None:
    import numpy as np

    with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def _load(archive: zipfile.ZipFile, name: str) -> Any:
    """Read an array; raise BadZipFile if its checksum does not match."""
    import numpy as np

    return np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)


def _save_rows(archive: zipfile.ZipFile, rows: Sequence[Any]) -> None:
    """Save rows of accuracies as indices of levels, two bytes each, or as float64 if there are too many levels."""
    import numpy as np

    levels, numbers = common_levels(rows)
    if levels is None:
        _save(archive, "accuracy", np.array([np.array(row, dtype=np.float64) for row in rows]))
    else:
        _save(archive, "levels", levels)
        _save(archive, "numbers", numbers)


def _load_rows(archive: zipfile.ZipFile) -> list[Accuracies]:
    if "accuracy.npy" in archive.namelist():
        return [Accuracies(row) for row in _load(archive, "accuracy")]
    levels = _load(archive, "levels")
    return [Accuracies(levels, row) for row in _load(archive, "numbers")]


def _save_table(archive: zipfile.ZipFile, field: str, lists: Sequence[Any]) -> None:
    from lpft.storage.columnar import EntryTable

    table = EntryTable.of(lists)
    objects = {}
    for key, column in table.columns.items():
        if column.dtype == object:
            objects[key] = column.tolist()
        else:
            _save(archive, f"{field}/{key}", column)
    head = {"lengths": table.lengths, "keys": list(table.columns), "objects": objects}
    archive.writestr(f"{field}.json", json.dumps(head))


def _load_table(archive: zipfile.ZipFile, field: str) -> EntryTable:
    from lpft.storage.columnar import EntryTable, as_column

    head = json.loads(archive.read(f"{field}.json"))
    objects = {key: as_column(values) for key, values in head["objects"].items()}
    columns = {key: objects[key] if key in objects else _load(archive, f"{field}/{key}") for key in head["keys"]}
    return EntryTable(head["lengths"], columns)
