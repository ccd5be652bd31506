"""Lists of entries, such as the epochs of clients, stored as columns: a tenth of the memory of dictionaries."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]


class EntryTable:
    """Several concatenated lists of entries. A value of None is the same as a missing key.

    Args:
        lengths: number of entries of each list.
        columns: values of all entries by key, ``(E,)``: numbers, with NaN for None, or objects.
    """

    def __init__(self, lengths: Sequence[int], columns: Mapping[str, Column]) -> None:
        self.lengths = list(lengths)
        self.columns = dict(columns)

    @classmethod
    def of(cls, lists: Sequence[Sequence[Mapping[str, Any]]]) -> EntryTable:
        """Make a table of lists of entries."""
        table = _from_shared_table(lists)
        if table is not None:
            return table
        entries = [entry for entries in lists for entry in entries]
        keys = dict.fromkeys(key for entry in entries for key in entry)
        columns = {key: as_column([entry.get(key) for entry in entries]) for key in keys}
        return cls([len(entries) for entries in lists], columns)

    def column(self, key: str) -> Column:
        """Return the values of a key, ``(E,)``; all NaN if no entry has the key."""
        return self.columns[key] if key in self.columns else np.full(sum(self.lengths), np.nan)

    def lists(self) -> list[Entries]:
        """Return the lists."""
        ends = np.cumsum(self.lengths, dtype=int).tolist()
        return [Entries(self, end - length, end) for end, length in zip(ends, self.lengths, strict=True)]


class Entries(Sequence[dict[str, Any]]):
    """A list of entries in an `EntryTable`; the dictionaries are created on access.

    Args:
        table: the table.
        start: position of the first entry in the table.
        stop: position after the last entry.
    """

    __slots__ = ("start", "stop", "table")

    def __init__(self, table: EntryTable, start: int, stop: int) -> None:
        self.table, self.start, self.stop = table, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: Any) -> Any:
        return list(self)[position]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        keys = self.table.columns.keys()
        columns = [column[self.start : self.stop].tolist() for column in self.table.columns.values()]
        for values in zip(*columns, strict=True):
            yield {key: value for key, value in zip(keys, values, strict=True) if not _is_missing(value)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == [
            {key: value for key, value in entry.items() if value is not None} for entry in other
        ]

    __hash__ = None  # type: ignore[assignment]  # as a list


def column_of(entries: Sequence[Mapping[str, Any]], key: str) -> Column:
    """Return the values of a key in a list of entries as numbers, NaN where the key is missing."""
    if isinstance(entries, Entries):
        if key not in entries.table.columns:
            return np.full(len(entries), np.nan)
        return entries.table.columns[key][entries.start : entries.stop]
    return np.array([entry.get(key) for entry in entries], dtype=np.float64)


def as_column(values: list[Any]) -> Column:
    """Return values as an array: of int64, of float64 with NaN for None, or of objects for all other types."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)}:
        return np.array(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = [sys.intern(value) if isinstance(value, str) else value for value in values]
    return column


def _from_shared_table(lists: Sequence[Sequence[Any]]) -> EntryTable | None:
    """Make a table of lists that are all in one table; return None if they are not."""
    slices = [entries for entries in lists if isinstance(entries, Entries)]
    if not slices or len(slices) < len(lists) or any(entries.table is not slices[0].table for entries in slices):
        return None
    positions = np.concatenate([np.arange(entries.start, entries.stop) for entries in slices])
    columns = {key: column[positions] for key, column in slices[0].table.columns.items()}
    return EntryTable([len(entries) for entries in slices], columns)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
