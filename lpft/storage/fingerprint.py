"""Hashes of settings, and which settings differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash settings (JSON-serialisable) to 16 hex digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def compare_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError if the results in a folder were made with other settings; it names what differs."""
    there, here = dict(_flat(before)), dict(_flat(now))
    keys = ", ".join(
        f"`{key}` ({_short(there, key)} there, {_short(here, key)} here)" for key in changed_keys(before, now)
    )
    if keys:
        raise ValueError(
            f"{folder} was made with other settings; different are: {keys}."
            " HINT: choose another folder with `--out`, or replace these results with `--overwrite`."
        )


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ, sorted.

    >>> changed_keys({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    ['a.c', 'd']
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _short(settings: Mapping[str, Any], key: str) -> str:
    """Write a value as JSON in few characters."""
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "none"
    return text if len(text) <= 40 else f"{text[:30]}..."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
