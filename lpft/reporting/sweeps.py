"""Sweeps: what differs between the rows of one run's table, and between the runs of a sweep.

A swept key of a method makes *variants* of it, a *family* of rows in one table. Any other swept key makes *points*,
each a run in a folder of its own. A run that is not part of a sweep is one point without values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpft.reporting.results import provenance

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A row of the comparison that a sweep over a method's settings made.

    Args:
        family: the method that was swept.
        values: its swept settings, by their name within the method.
    """

    family: str
    values: Values

    @property
    def label(self) -> str:
        """The swept settings, as in ``lp_epochs=3``."""
        return label(self.values)


def swept(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the swept keys that make points, with their values; none if the run is not a sweep."""
    sweep = config.get("sweep")
    return dict(sweep) if isinstance(sweep, Mapping) else {}


def variants_of(config: Mapping[str, Any]) -> dict[str, Variant]:
    """Return the variants of a run's methods, as its configuration has them."""
    variants: dict[str, Variant] = {}
    for name, variant in (provenance(config).get("variants") or {}).items():
        family = str(variant["method"])
        values = {key.removeprefix(f"methods.{family}."): value for key, value in variant["values"].items()}
        variants[str(name)] = Variant(family, values)
    return variants


def tuned_of(config: Mapping[str, Any]) -> dict[str, Values]:
    """Return the tuned methods of a run, each with the settings that tuning chose."""
    return {str(name): values or {} for name, values in (provenance(config).get("tuned") or {}).items()}


def family_of(method: str, variants: Mapping[str, Variant]) -> str:
    """Return the method that a row belongs to."""
    return variants[method].family if method in variants else method


def grouped(methods: Sequence[str], variants: Mapping[str, Variant]) -> list[tuple[str, list[str]]]:
    """Group the rows of a table: variants of one method under its name, runs of all others under none.

    >>> variants = {"ft+lr=1": Variant("ft", {"lr": 1}), "ft+lr=2": Variant("ft", {"lr": 2})}
    >>> grouped(["none", "lp", "ft+lr=1", "ft+lr=2", "lpft"], variants)
    [('', ['none', 'lp']), ('ft', ['ft+lr=1', 'ft+lr=2']), ('', ['lpft'])]
    """
    groups: list[tuple[str, list[str]]] = []
    for method in methods:
        family = variants[method].family if method in variants else ""
        if not groups or groups[-1][0] != family:
            groups.append((family, []))
        groups[-1][1].append(method)
    return groups


def label(values: Values) -> str:
    """Write swept values in short.

    >>> label({"data.shift": 0.5, "federation.rounds": 100})
    'shift=0.5, rounds=100'
    """
    names = short_keys(list(values))
    return ", ".join(f"{names[key]}={word(value)}" for key, value in values.items())


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Cut dotted keys to the last word that tells them apart.

    >>> short_keys(["data.shift", "a.lr", "b.lr"])
    {'data.shift': 'shift', 'a.lr': 'a.lr', 'b.lr': 'b.lr'}
    """
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}


def word(value: object) -> str:
    """Write a swept value in short.

    >>> word(0.0001), word(None), word({"class_path": "my.data.Shifted", "init_args": {"by": 0.5, "n": 3}})
    ('0.0001', 'null', 'Shifted(by=0.5, n=3)')
    """
    if isinstance(value, Mapping) and "class_path" in value:
        name, settings = str(value["class_path"]).rpartition(".")[2], value.get("init_args") or {}
        return f"{name}({', '.join(f'{key}={word(item)}' for key, item in settings.items())})" if settings else name
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)
