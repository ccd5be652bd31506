"""Lists of entries - the epochs of clients, say - in columns: a tenth of the memory of dictionaries."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]


class EntryTable:
    """Several lists of entries, one after the other. Keys whose value is None are as good as absent.

    Args:
        lengths: number of entries of each list.
        columns: by key the values of all entries, ``(E,)``: numbers, with NaN for None, or objects.
    """

    def __init__(self, lengths: Sequence[int], columns: Mapping[str, Column]) -> None:
        self.lengths = list(lengths)
        self.columns = dict(columns)

    @classmethod
    def of(cls, lists: Sequence[Sequence[Mapping[str, Any]]]) -> EntryTable:
        """Put lists of entries into columns."""
        table = _of_one_table(lists)
        if table is not None:
            return table
        entries = [entry for entries in lists for entry in entries]
        keys = dict.fromkeys(key for entry in entries for key in entry)
        columns = {key: as_column([entry.get(key) for entry in entries]) for key in keys}
        return cls([len(entries) for entries in lists], columns)

    def column(self, key: str) -> Column:
        """Return the values of a key, ``(E,)``; NaN everywhere if no entry has it."""
        return self.columns[key] if key in self.columns else np.full(sum(self.lengths), np.nan)

    def lists(self) -> list[Entries]:
        """Return the lists."""
        ends = np.cumsum(self.lengths, dtype=int).tolist()
        return [Entries(self, end - length, end) for end, length in zip(ends, self.lengths, strict=True)]


class Entries(Sequence[dict[str, Any]]):
    """A list of entries of an `EntryTable`: dictionaries, made when they are asked for.

    Args:
        table: where the entries are.
        start: place of the first one.
        stop: place after the last one.
    """

    __slots__ = ("start", "stop", "table")

    def __init__(self, table: EntryTable, start: int, stop: int) -> None:
        self.table, self.start, self.stop = table, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, place: Any) -> Any:
        return list(self)[place]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        keys = self.table.columns.keys()
        columns = [column[self.start : self.stop].tolist() for column in self.table.columns.values()]
        for values in zip(*columns, strict=True):
            yield {key: value for key, value in zip(keys, values, strict=True) if not _is_nothing(value)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == [
            {key: value for key, value in entry.items() if value is not None} for entry in other
        ]

    __hash__ = None  # type: ignore[assignment]  # as a list


def column_of(entries: Sequence[Mapping[str, Any]], key: str) -> Column:
    """Return the numbers that a list of entries has for a key, NaN where there is none."""
    if isinstance(entries, Entries):
        if key not in entries.table.columns:
            return np.full(len(entries), np.nan)
        return entries.table.columns[key][entries.start : entries.stop]
    return np.array([entry.get(key) for entry in entries], dtype=np.float64)


def as_column(values: list[Any]) -> Column:
    """Return values as an array: integers, or numbers with NaN for None, or objects if there are any others."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)}:
        return np.array(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = [sys.intern(value) if isinstance(value, str) else value for value in values]
    return column


def _of_one_table(lists: Sequence[Sequence[Any]]) -> EntryTable | None:
    """Return the entries of lists that all come from the same table; None if they do not."""
    found = [entries for entries in lists if isinstance(entries, Entries)]
    if not found or len(found) < len(lists) or any(entries.table is not found[0].table for entries in found):
        return None
    places = np.concatenate([np.arange(entries.start, entries.stop) for entries in found])
    columns = {key: column[places] for key, column in found[0].table.columns.items()}
    return EntryTable([len(entries) for entries in found], columns)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
