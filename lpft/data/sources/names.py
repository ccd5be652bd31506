"""Reads, checks and sorts names of classes and domains."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from lpft.data.messages import shortened
from lpft.data.sources.tables import read_text

NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
"""A number without leading zeros, which are part of a name."""


def check_choice(setting: str, chosen: Sequence[object], possible: Collection[object]) -> None:
    """Raise ValueError unless a setting names at least one possible value, and none twice."""
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(possible):
        raise ValueError(
            f"`{setting}: {list(chosen)}` must name at least one, none of them twice, of"
            f" {', '.join(map(str, possible))}."
        )


def read_classes(path: Path) -> tuple[str, ...]:
    """Read names of classes from a text file, one per line."""
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no file {path} with the names of the `classes`, one per line. HINT: create it, or give a list."
        ) from error
    return checked_classes([line.strip() for line in lines if line.strip()], str(path))


def checked_classes(names: list[str], setting: str) -> tuple[str, ...]:
    """Return the names in Unicode's composed form; raise ValueError if there are none or one is repeated."""
    classes = tuple(map(composed, names))
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"{setting}: {names} must be at least one name, and none of them twice.")
    return classes


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names, as numbers if all of them are.

    >>> in_order({"10", "9"}), in_order({"b10", "b9"})
    (('9', '10'), ('b10', 'b9'))
    """
    names = sorted(set(names))
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def check_first_label(lowest: int, first_label: int) -> None:
    """Raise ValueError if the lowest label is below that of the first class."""
    if lowest < first_label:
        raise ValueError(
            f"`first_label: {first_label}`, but there is the label {lowest}. HINT: set `first_label: {lowest}`."
        )


def check_known(subject: str, names: Iterable[str], classes: Sequence[str], others_hint: str) -> None:
    """Raise ValueError if a subject's names are not all in `classes`."""
    unknown = [repr(name) for name in names if name not in classes]
    if unknown:
        raise ValueError(
            f"{subject} {shortened(unknown)}, which are not in `classes`: {shortened(classes, 20)}."
            f" HINT: add them, or {others_hint}."
        )


def check_spellings(descriptions: Mapping[str, str]) -> None:
    """Raise ValueError if two classes, given with their descriptions, differ only in case or are the same number."""
    spellings: dict[str | Decimal, str] = {}
    for name, description in descriptions.items():
        number = Decimal(name) if NUMBER.fullmatch(name) else None
        other = spellings.setdefault(name.casefold() if number is None else number, name)
        if other != name:
            likeness = "differ in case only" if number is None else "are the same number"
            raise ValueError(
                f"The classes {descriptions[other]} and {description} {likeness}. HINT: rename one of them, or list"
                " both in `classes`."
            )


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), since file systems store different forms.

    Raises:
        ValueError: if it is not valid Unicode.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The folder name {os.fsencode(name)!r} is not encoded in UTF-8. HINT: rename the folder."
        ) from error
    return unicodedata.normalize("NFC", name)
