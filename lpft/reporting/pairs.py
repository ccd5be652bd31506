"""Which methods are compared with which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBING = ("lp_epochs", "lp_lr", "lp_solver", "head_init")
"""Settings of linear probing, which a method without it does not have."""


def class_name(settings: Any) -> str:
    """Return the class of a method's settings without its module; empty if there is none."""
    path = settings.get("class_path") if isinstance(settings, Mapping) else None
    return str(path).rpartition(".")[2] if path else ""


def method_settings(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of every method in the configuration; the variants of a swept method under its own name."""
    provenance = config.get("provenance") or {}
    variants = provenance.get("variants") or {}
    settings: dict[str, Mapping[str, Any]] = {}
    for row, method in (config.get("methods") or {}).items():
        name = variants[row]["method"] if row in variants else row
        if isinstance(method, Mapping):
            settings.setdefault(str(name), method)
    return settings


def compared_pairs(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of method and baseline that an experiment compares, by name.

    They are the configuration's ``compare``, a list of ``[method, baseline]``. Without it, every method that trains the
    head first is compared with the first one that differs in nothing but that: `LPFT` with `FT`, others with their own
    class.

    >>> lpft, ft = {"class_path": "m.LPFT", "init_args": {"lp_epochs": 5}}, {"class_path": "m.FT", "init_args": {}}
    >>> compared_pairs({"methods": {"ft": ft, "short": {**ft, "init_args": {"epochs": 9}}, "lpft": lpft}})
    [('lpft', 'ft')]
    >>> compared_pairs({"compare": [["prox", "ft"]]})
    [('prox', 'ft')]
    """
    if config.get("compare"):
        return [(str(method), str(baseline)) for method, baseline in config["compare"]]
    settings = method_settings(config)
    swept = _swept(config)
    pairs: dict[str, str] = {}
    for method, own in settings.items():
        for baseline, other in settings.items():
            ignored = {*PROBING, *swept.get(method, ()), *swept.get(baseline, ())}
            same_class = class_name(own).replace("LPFT", "FT") == class_name(other)
            if probes_first(own) and not probes_first(other) and same_class and _same(own, other, ignored):
                pairs.setdefault(method, baseline)
    taken: dict[str, str] = {}
    for method, baseline in pairs.items():
        taken.setdefault(baseline, method)
    return [(method, baseline) for baseline, method in taken.items()]


def probes_first(settings: Mapping[str, Any]) -> bool:
    """Tell whether a method trains the head alone first, and then everything.

    >>> probes_first({"class_path": "m.LPFT", "init_args": {"lp_epochs": None}})  # linear probing only
    False
    """
    lp_epochs = (settings.get("init_args") or {}).get("lp_epochs", 5 if class_name(settings) == "LPFT" else None)
    solved = (settings.get("init_args") or {}).get("lp_solver") == "logreg"
    return lp_epochs is not None and (lp_epochs > 0 or solved)


def baselines(config: Mapping[str, Any]) -> list[str]:
    """Return the methods that others are compared with."""
    return list(dict.fromkeys(baseline for _, baseline in compared_pairs(config)))


def _swept(config: Mapping[str, Any]) -> dict[str, list[str]]:
    variants = ((config.get("provenance") or {}).get("variants") or {}).values()
    return {v["method"]: [key.removeprefix(f"methods.{v['method']}.") for key in v["values"]] for v in variants}


def _same(one: Mapping[str, Any], other: Mapping[str, Any], ignored: set[str]) -> bool:
    """Tell whether two methods have the same settings but for some; None is the default."""
    mine, theirs = one.get("init_args") or {}, other.get("init_args") or {}
    return all(mine.get(key) == theirs.get(key) for key in {*mine, *theirs} - ignored)
