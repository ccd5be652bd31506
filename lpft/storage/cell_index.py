"""The index of a method: what all its cells say, in one file that is read far faster than thousands.

The cells remain the truth. The index knows size and modification time of every cell that it was made from, and speaks
for those alone that still have them; the others are read one by one. It may be deleted at any time. A method with few
cells has none. It is a zip archive of JSON, for `lpft status`, which imports no numpy, and NumPy's arrays, for reports.
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
from lpft.storage.cell_reader import Accuracies, CellReader, Names, common_levels, nothing_known
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.run import Run, read_cell

if TYPE_CHECKING:
    from lpft.storage.entries import EntryTable

VERSION = 1
WORTHWHILE = 100
"""An index is written when so many cells had to be read one by one."""
SETTLED = 2.0
"""A cell that is younger, in seconds, may still change without getting another modification time."""

ENTRIES = ("epochs", "line")
"""Fields with a list of entries for every client."""
NESTED = ("groups", "depth", "scores", "head_norms")
"""Other fields that only reports read."""
SAME = ("seed", "method", "clients")
"""Fields that are the same in all cells of an index."""
BRIEF = tuple(f.name for f in fields(ClientResult) if f.name not in (*SAME, *ENTRIES, *NESTED, "accuracy"))
"""Fields that status reads, too."""

Cells = dict[str, ClientResult | DamagedFileError]
"""Cells, or the error where the file is damaged, by the name of the file."""


class Stamp(NamedTuple):
    """What tells whether a file is still the same: its size in bytes, and its modification time in nanoseconds."""

    size: int
    mtime: int


def read_cells(run: Run, seed: int, method: str, brief: bool = False) -> Cells:
    """Read all cells of a method, and renew its index if many of them are not in it.

    Args:
        run: the run.
        seed: the seed.
        method: the method's name.
        brief: leave out what only reports show: accuracies, which are all None then, entries and nested fields.

    Returns:
        Every cell, in the order of the names.
    """
    now = time.time()
    folder = run.method_file(seed, method, "cells")
    stamps = dict(sorted(_stamps(folder)))
    index = CellIndex(run, seed, method)
    indexed = index.read(stamps, brief)
    is_short = len(stamps) - len(indexed) >= WORTHWHILE
    if brief and is_short:
        return {name: _briefly(cell) for name, cell in read_cells(run, seed, method).items()}
    parse = CellReader()
    cells: Cells = {name: indexed.get(name) or _read(folder / name, parse) for name in stamps}
    if not brief and len(indexed) < len(cells):
        _compact([cell for cell in cells.values() if isinstance(cell, ClientResult)])
    if is_short:
        settled = [name for name, stamp in stamps.items() if stamp.mtime < 1e9 * (now - SETTLED)]
        index.write({name: (stamps[name], cells[name]) for name in settled})
    return {name: _briefly(cell) for name, cell in cells.items()} if brief else cells


def _stamps(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield name and stamp of every cell of a folder, which need not exist."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(".json"):
                status = file.stat()
                yield file.name, Stamp(status.st_size, status.st_mtime_ns)


def _read(path: Path, parse: CellReader) -> ClientResult | DamagedFileError:
    try:
        return read_cell(path, parse)
    except DamagedFileError as error:
        return error


def _briefly(cell: ClientResult | DamagedFileError) -> ClientResult | DamagedFileError:
    if isinstance(cell, DamagedFileError):
        return cell
    nothing: dict[str, Any] = dict.fromkeys(NESTED)
    return replace(cell, accuracy=nothing_known(len(cell.clients)), epochs=[], line=[], **nothing)


def _compact(cells: Sequence[ClientResult]) -> None:
    """Put the entries of cells into tables that they share."""
    from lpft.storage.entries import EntryTable

    for field in ENTRIES:
        table = EntryTable.of([getattr(cell, field) for cell in cells])
        for cell, entries in zip(cells, table.lists(), strict=True):
            setattr(cell, field, entries)


class CellIndex:
    """The index of one method and seed; it need not exist.

    Args:
        run: the run.
        seed: the seed.
        method: the method's name.
    """

    def __init__(self, run: Run, seed: int, method: str) -> None:
        self.path = run.method_file(seed, method, "index.npz")
        self._of = {"version": VERSION, "seed": seed, "method": method, "brief": BRIEF, "nested": NESTED}

    def read(self, stamps: Mapping[str, Stamp], brief: bool = False) -> dict[str, ClientResult]:
        """Return the cells that have not changed since, by the name of their file; none if the index is unusable.

        Args:
            stamps: of the files that are there now, by name.
            brief: see `read_cells`.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return self._read(archive, stamps, brief)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return {}

    def _read(self, archive: zipfile.ZipFile, stamps: Mapping[str, Stamp], brief: bool) -> dict[str, ClientResult]:
        head = json.loads(archive.read("head.json"))
        if head["of"] != json.loads(json.dumps(self._of)):
            return {}
        known = [stamps.get(name) == Stamp(*stamp) for name, stamp in head["stamps"].items()]
        same = {"seed": head["of"]["seed"], "method": head["of"]["method"], "clients": Names(head["clients"])}
        columns = dict(zip(BRIEF, map(_interned, head["columns"]), strict=True))
        if brief:
            same["accuracy"] = nothing_known(len(head["clients"]))
        else:
            columns |= dict(zip(NESTED, json.loads(archive.read("nested.json")), strict=True))
            columns |= {field: _load_table(archive, field).lists() for field in ENTRIES}
            columns["accuracy"] = _load_rows(archive)
        rows = zip(head["stamps"], known, zip(*columns.values(), strict=True), strict=True)
        return {
            name: ClientResult(**dict(zip(columns, row, strict=True)), **same)
            for name, is_known, row in rows
            if is_known
        }

    def write(self, cells: Mapping[str, tuple[Stamp, ClientResult | DamagedFileError]]) -> None:
        """Write the index of the usable cells with the same clients; do nothing where no file can be written.

        Args:
            cells: each with the stamp that its file had before it was read, by the name of the file.
        """
        names = next((cell.clients for _, cell in cells.values() if isinstance(cell, ClientResult)), [])
        chosen = {
            name: (stamp, cell)
            for name, (stamp, cell) in cells.items()
            if isinstance(cell, ClientResult) and (cell.clients is names or cell.clients == names)
        }
        if not chosen:
            return
        rows = [cell for _, cell in chosen.values()]
        head = {
            "of": self._of,
            "stamps": {name: stamp for name, (stamp, _) in chosen.items()},
            "clients": names,
            "columns": [[getattr(cell, field) for cell in rows] for field in BRIEF],
        }
        nested = [[getattr(cell, field) for cell in rows] for field in NESTED]
        with (
            contextlib.suppress(OSError),
            replacing(self.path) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
        ):
            archive.writestr("head.json", json.dumps(head))
            archive.writestr("nested.json", json.dumps(nested))
            _save_rows(archive, [cell.accuracy for cell in rows])
            for field in ENTRIES:
                _save_table(archive, field, [getattr(cell, field) for cell in rows])


def _interned(column: list[Any]) -> list[Any]:
    """Return values of which equal texts are the same object."""
    return [sys.intern(value) if isinstance(value, str) else value for value in column]


# Arrays


def _save(archive: zipfile.ZipFile, name: str, values: Any) -> None:
    import numpy as np

    with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def _load(archive: zipfile.ZipFile, name: str) -> Any:
    """Read an array; the archive raises BadZipFile if its checksum does not fit."""
    import numpy as np

    return np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)


def _save_rows(archive: zipfile.ZipFile, rows: Sequence[Any]) -> None:
    """Save rows of accuracies as the numbers of levels, if they are few enough to have two bytes, or as they are."""
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
    from lpft.storage.entries import EntryTable

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
    from lpft.storage.entries import EntryTable, as_column

    head = json.loads(archive.read(f"{field}.json"))
    objects = {key: as_column(values) for key, values in head["objects"].items()}
    columns = {key: objects[key] if key in objects else _load(archive, f"{field}/{key}") for key in head["keys"]}
    return EntryTable(head["lengths"], columns)
