"""Reading all cells of a run: with the same checks as `ClientResult.from_json`, in less time and memory.

With C clients a run has one cell per client, method and seed, each with C names and C accuracies: nearly all of a large
run. A `CellReader` keeps one list of names for all cells, and two bytes for each accuracy. This module imports the
standard library only, so that `lpft status` answers at once; NumPy, where it is used, is there already.
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
"""What stands before and after the two long lists; no text inside a JSON file contains a line break."""
EPOCHS, NEXT_EPOCH, END_OF_EPOCHS = '\n "epochs": [\n  {\n   ', "\n  },\n  {\n   ", "\n  }\n ]"
"""What stands before, between and after the entries of the epochs."""
MOST_LEVELS = 2**16
"""So many different accuracies have a number of two bytes."""
NEEDED = {field.name for field in fields(ClientResult) if field.default is MISSING}
KNOWN = {field.name for field in fields(ClientResult)}


class Levels:
    """The different accuracies of a run, numbered: few, since an accuracy is a share of a client's test samples."""

    def __init__(self) -> None:
        self.values = array("d")
        self._numbers: dict[str, int] = {}

    def numbered(self, texts: Sequence[str]) -> array[int] | None:
        """Return the numbers of accuracies, given as JSON has them; None if there are too many different ones."""
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
    """The names of all clients, which knows where each of them stands."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        self._places = {name: place for place, name in reversed(list(enumerate(self)))}

    def index(self, name: str, *limits: Any) -> int:
        """Return the place of a name; see `list.index`."""
        if not limits and name in self._places:
            return self._places[name]
        return super().index(name, *limits)


class Accuracies(Sequence[float | None]):
    """A row of the accuracy matrix, in percent; None where a client has no test samples.

    NumPy takes it as an array of float64, with NaN for None.

    Args:
        levels: different accuracies, NaN for None; an array of the standard library or of NumPy.
        numbers: which of them each client has, two bytes each, ``(C,)``; None: the levels are the row itself.
    """

    __slots__ = ("_levels", "_numbers")

    def __init__(self, levels: Any, numbers: Any = None) -> None:
        self._levels = levels
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._levels if self._numbers is None else self._numbers)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        value = float(self._levels[place if self._numbers is None else self._numbers[place]])
        return None if math.isnan(value) else value

    def __iter__(self) -> Iterator[float | None]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return float64, ``(C,)``."""
        import numpy as np

        levels = np.frombuffer(self._levels)
        values = levels.copy() if self._numbers is None else levels[np.frombuffer(self._numbers, dtype=np.uint16)]
        return values if dtype is None else values.astype(dtype, copy=False)


class CellReader:
    """Turns the texts of a run's cells into client results."""

    def __init__(self) -> None:
        self._levels = Levels()
        self._names_text = ""
        self._names = Names([])
        self._names_canonical = ""

    def __call__(self, text: str) -> ClientResult:
        """Read a cell.

        Raises:
            DamagedFileError: if the text is not what `ClientResult.to_json` wrote.
        """
        result = self._read_as_written(text)
        if result is not None:
            return result
        return ClientResult.from_json(text)  # which says what is wrong with it, or knows it otherwise

    def _read_as_written(self, text: str) -> ClientResult | None:
        """Return the client result if every byte of the text is as `to_json` writes it; None otherwise.

        The checksum is that of the fields in alphabetical order. The long lists and the epochs are part of it as they
        stand in the file, without their line breaks, so that they need not be written again.
        """
        names = text.find(CLIENTS)
        end_of_names = text.find(END, names)
        start_of_row = end_of_names + len(END)
        end_of_row = text.find(END, start_of_row)
        if min(names, end_of_names, end_of_row) < 0 or not text.startswith(ACCURACY, start_of_row):
            return None
        names_text = text[names + len(CLIENTS) : end_of_names]
        accuracies = text[start_of_row + len(ACCURACY) : end_of_row].split(",\n  ")
        try:
            rest = json.loads(text[:names] + text[end_of_row + len(END) :])
            if names_text != self._names_text:
                self._keep_names(names_text)
            checksum, client = rest.pop("checksum"), rest.pop("client")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        row, others = ", ".join(accuracies), _canonical(rest, text[end_of_row:])
        start = f'{{"accuracy": [{row}], "client": {json.dumps(client)}, "clients": [{self._names_canonical}]'
        content = f"{start}, {others[1:]}"
        present = {"accuracy", "client", "clients", *rest}
        if checksum != hashlib.sha256(content.encode()).hexdigest() or not NEEDED <= present <= KNOWN:
            return None
        accuracy = self._accuracies(accuracies)
        if accuracy is None:
            return None
        return ClientResult(client=client, clients=self._names, accuracy=accuracy, **_shared(rest))

    def _keep_names(self, names_text: str) -> None:
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


def _canonical(rest: dict[str, Any], text: str) -> str:
    """Return fields in alphabetical order, as their checksum is computed from.

    Args:
        rest: the fields.
        text: as they stand in the file. If the epochs are not as `ClientResult.to_json` writes them, what is made of
            them here does not fit the checksum.
    """
    start = text.find(EPOCHS)
    if start < 0:
        return json.dumps(rest, sort_keys=True)
    entries = text[start + len(EPOCHS) : text.find(END_OF_EPOCHS, start)].split(NEXT_EPOCH)
    epochs = "}, {".join([", ".join(sorted(entry.split(",\n   "))) for entry in entries])
    return json.dumps({**rest, "epochs": None}, sort_keys=True).replace('"epochs": null', f'"epochs": [{{{epochs}}}]')


def _shared(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields whose texts are the same objects in all cells."""
    return {sys.intern(key): sys.intern(value) if isinstance(value, str) else value for key, value in fields.items()}


@lru_cache(maxsize=8)
def nothing_known(length: int) -> list[float | None]:
    """Return a row of accuracies that are all None, which is shared: nobody may change it."""
    return [None] * length


def common_levels(rows: Sequence[Any]) -> tuple[Any, Any]:
    """Return the different values of rows of accuracies, and which of them each has, ``(L,)`` and ``(n, C)``.

    None and None if there are too many different values.
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
    """Tell whether rows of accuracies are numbers of the same levels."""
    first = rows[0]
    if not isinstance(first, Accuracies) or first._numbers is None:
        return False
    return all(isinstance(row, Accuracies) and row._levels is first._levels for row in rows)


def _number(text: str) -> float:
    return math.nan if text == "null" else float(text)
