"""A parser of client results that makes the checks of `ClientResult.from_json` in less time and memory.

With C clients, a run has one client result per client, method and seed, each with C names and C accuracies, which make
up nearly all of a large run. A `ResultParser` stores the list of names once for all client results, and two bytes per
accuracy. The module imports only the standard library, so that `lpft status` answers at once; functions that need NumPy
import it.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any

from lpft.storage.client_result import ClientResult

CLIENTS, ACCURACY, END = '\n "clients": [\n  ', '\n "accuracy": [\n  ', "\n ],"
"""Delimiters of the two long lists; strings in JSON contain no line break, so these are unambiguous."""
EPOCHS, NEXT_EPOCH, END_OF_EPOCHS = '\n "epochs": [\n  {\n   ', "\n  },\n  {\n   ", "\n  }\n ]"
"""Start, separator and end of the entries of the epochs."""
MOST_LEVELS = 2**16
"""Number of levels that an index of two bytes can address."""
NEEDED = {field.name for field in fields(ClientResult) if field.default is MISSING}
KNOWN = {field.name for field in fields(ClientResult)}


class Levels:
    """The distinct accuracies of a run. They are few, since an accuracy is a share of a client's test samples."""

    def __init__(self) -> None:
        self.values = array("d")
        self._numbers: dict[str, int] = {}

    def numbered(self, texts: Sequence[str]) -> array[int] | None:
        """Return the indices of accuracies, given as JSON texts; None if there are too many distinct ones."""
        try:
            return array("H", list(map(self._numbers.__getitem__, texts)))
        except KeyError:
            new = dict.fromkeys(texts).keys() - self._numbers.keys()
        if len(self.values) + len(new) > MOST_LEVELS:
            return None
        for text in sorted(new):
            value = _number(text)
            self._numbers[text] = len(self.values)
            self.values.append(value)
        return array("H", list(map(self._numbers.__getitem__, texts)))


class Names(list[str]):
    """The names of all clients, with a constant-time `index`."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        self._positions = {name: position for position, name in reversed(list(enumerate(self)))}

    def index(self, name: str, *limits: Any) -> int:
        """Return the position of a name; see `list.index`."""
        if not limits and name in self._positions:
            return self._positions[name]
        return super().index(name, *limits)


class Accuracies(Sequence[float | None]):
    """A row of the accuracy matrix, in percent; None where a client has no test samples.

    ``np.array`` converts it to float64, with NaN for None.

    Args:
        levels: distinct accuracies, NaN for None; an array of the standard library or of NumPy.
        numbers: index of each client's accuracy in `levels`, two bytes each, ``(C,)``; None if `levels` is the row.
    """

    __slots__ = ("_levels", "_numbers")

    def __init__(self, levels: Any, numbers: Any = None) -> None:
        self._levels = levels
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._levels if self._numbers is None else self._numbers)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        value = float(self._levels[position if self._numbers is None else self._numbers[position]])
        return None if math.isnan(value) else value

    def __iter__(self) -> Iterator[float | None]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return float64, ``(C,)``."""
        import numpy as np

        levels = np.frombuffer(self._levels)
        values = levels.copy() if self._numbers is None else levels[np.frombuffer(self._numbers, dtype=np.uint16)]
        return values if dtype is None else values.astype(dtype, copy=False)


class ResultParser:
    """Parses the JSON texts of a run's client results."""

    def __init__(self) -> None:
        self._levels = Levels()
        self._names_text = ""
        self._names = Names([])
        self._names_canonical = ""

    def __call__(self, text: str) -> ClientResult:
        """Parse the text of a client result.

        Raises:
            DamagedFileError: if `ClientResult.to_json` did not write the text.
        """
        result = self._parse_canonical(text)
        if result is not None:
            return result
        return ClientResult.from_json(text)  # another version's format, or damaged: the error explains how

    def _parse_canonical(self, text: str) -> ClientResult | None:
        """Return the client result if every byte of the text is as `to_json` writes it; None otherwise.

        The checksum covers the fields in alphabetical order. The long lists and the epochs enter it as they are in the
        file, without their line breaks, so that they need not be serialized again.
        """
        start_of_names = text.find(CLIENTS)
        end_of_names = text.find(END, start_of_names)
        start_of_row = end_of_names + len(END)
        end_of_row = text.find(END, start_of_row)
        if min(start_of_names, end_of_names, end_of_row) < 0 or not text.startswith(ACCURACY, start_of_row):
            return None
        names_text = text[start_of_names + len(CLIENTS) : end_of_names]
        accuracies = text[start_of_row + len(ACCURACY) : end_of_row].split(",\n  ")
        try:
            other_fields = json.loads(text[:start_of_names] + text[end_of_row + len(END) :])
            if names_text != self._names_text:
                self._store_names(names_text)
            checksum, client = other_fields.pop("checksum"), other_fields.pop("client")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        row, others_text = ", ".join(accuracies), _canonical(other_fields, text[end_of_row:])
        start = f'{{"accuracy": [{row}], "client": {json.dumps(client)}, "clients": [{self._names_canonical}]'
        content = f"{start}, {others_text[1:]}"
        present = {"accuracy", "client", "clients", *other_fields}
        if checksum != hashlib.sha256(content.encode()).hexdigest() or not NEEDED <= present <= KNOWN:
            return None
        accuracy = self._accuracies(accuracies)
        if accuracy is None:
            return None
        return ClientResult(client=client, clients=self._names, accuracy=accuracy, **_interned(other_fields))

    def _store_names(self, names_text: str) -> None:
        self._names = Names(json.loads(f"[{names_text}]"))
        self._names_canonical = names_text.replace(",\n  ", ", ")
        self._names_text = names_text

    def _accuracies(self, texts: Sequence[str]) -> Sequence[float | None] | None:
        try:
            numbers = self._levels.numbered(texts)
            if numbers is not None:
                return Accuracies(self._levels.values, numbers)
            return Accuracies(array("d", map(_number, texts)))
        except ValueError:
            return None


def _canonical(fields: dict[str, Any], text: str) -> str:
    """Return the JSON of fields in alphabetical order, from which their checksum is computed.

    Args:
        fields: the fields.
        text: the part of the file with the epochs. If `ClientResult.to_json` did not write them, the returned text does
            not match the checksum.
    """
    start = text.find(EPOCHS)
    if start < 0:
        return json.dumps(fields, sort_keys=True)
    entries = text[start + len(EPOCHS) : text.find(END_OF_EPOCHS, start)].split(NEXT_EPOCH)
    epochs = "}, {".join([", ".join(sorted(entry.split(",\n   "))) for entry in entries])
    return json.dumps({**fields, "epochs": None}, sort_keys=True).replace('"epochs": null', f'"epochs": [{{{epochs}}}]')


def _interned(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with all strings interned, so that all client results share them."""
    return {sys.intern(key): sys.intern(value) if isinstance(value, str) else value for key, value in fields.items()}


@lru_cache(maxsize=8)
def row_of_none(length: int) -> list[float | None]:
    """Return a list of None; calls share the list, so do not modify it."""
    return [None] * length


def common_levels(rows: Sequence[Any]) -> tuple[Any, Any]:
    """Return the distinct values of rows of accuracies, ``(L,)``, and the index of each accuracy in them, ``(n, C)``.

    Both are None if there are too many distinct values.
    """
    import numpy as np

    if share_levels(rows):
        return np.array(rows[0]._levels), np.array([row._numbers for row in rows], dtype=np.uint16)
    levels, numbers = np.unique([np.array(row, dtype=np.float64) for row in rows], return_inverse=True)
    if len(levels) > MOST_LEVELS:
        return None, None
    return levels, numbers.reshape(len(rows), -1).astype(np.uint16)


def stacked(rows: Sequence[Any]) -> Any:
    """Return rows of accuracies as a matrix, ``(n, C)`` float64, with NaN for None."""
    import numpy as np

    if share_levels(rows):
        levels, numbers = common_levels(rows)
        return levels[numbers]
    return np.array([np.array(row, dtype=np.float64) for row in rows])


def share_levels(rows: Sequence[Any]) -> bool:
    """Return whether all rows of accuracies are indices of the same levels."""
    first = rows[0]
    if not isinstance(first, Accuracies) or first._numbers is None:
        return False
    return all(isinstance(row, Accuracies) and row._levels is first._levels for row in rows)


def _number(text: str) -> float:
    return math.nan if text == "null" else float(text)
