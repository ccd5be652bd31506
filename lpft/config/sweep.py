"""Expands configurations: the runs of a sweep, the trials of tuning, the tuned methods.

The functions are pure and work on plain settings. A swept key of a method, such as ``methods.ft.lr``, adds rows to the
table of a run; any other swept key, such as ``data.source.shift``, makes several runs, each in its own folder.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lpft.config.files import SECTIONS
from lpft.runtime.seeding import stable_seed
from lpft.storage.fingerprint import digest
from lpft.storage.run import MOST_BYTES

Settings = dict[str, Any]


def expand(config: Mapping[str, Any]) -> tuple[Settings, dict[str, Settings]]:
    """Expand the configuration of a sweep to the configurations of its runs.

    Args:
        config: a resolved configuration; without `sweep` it describes a single run.

    Returns:
        The configuration with swept methods replaced by their variants, and the configuration of every run by the name
        of its folder; if only methods are swept, a single configuration named "".

    Raises:
        ValueError: if a swept key does not exist, if results do not depend on it, or if names collide.
    """
    sweep = config["sweep"] or {}
    _check_keys(config, sweep)
    methods, variants = expand_methods(config["methods"], sweep)
    record = config["provenance"]
    root: Settings = {
        **config,
        "methods": methods,
        "sweep": {key: values for key, values in sweep.items() if not key.startswith("methods.")} or None,
        "provenance": {**record, "variants": {**record["variants"], **variants}},
    }
    single = {**root, "sweep": None}
    runs = {
        name: override({**single, "provenance": {**root["provenance"], "point": values}}, values)
        for name, values in points(sweep).items()
    }
    return root, runs or {"": single}


def _check_keys(config: Mapping[str, Any], sweep: Mapping[str, Any]) -> None:
    """Raise ValueError if a swept key is a whole section or method, or if results do not depend on it."""
    for key in sweep:
        section, _, subkey = key.partition(".")
        if section in config and section not in (*SECTIONS, "augment"):
            reason = "all of `seeds` are run at every point" if section == "seeds" else "results do not depend on it"
            raise ValueError(f"`sweep` has `{key}`, which cannot be swept: {reason}. HINT: remove it.")
        if not subkey and isinstance(config.get(section), Mapping) and "class_path" not in config[section]:
            raise ValueError(f"`sweep` has the whole section `{key}`. HINT: sweep its keys, `{key}.KEY: [...]`.")
        if section == "methods" and "." not in subkey:
            raise ValueError(
                f"`sweep` has the whole method `{key}`. HINT: sweep its settings, `{key}.KEY: [...]`, or give the"
                " section `methods` one entry for each alternative."
            )


def untuned_values(config: Mapping[str, Any], method: str) -> Settings:
    """Return a method's untuned values of the settings in its grid."""
    return {key: get_value(config["methods"][method], key) for key in config["tune"]["grids"][method]}


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """Return settings with some values changed.

    Args:
        settings: nested settings.
        changes: values by their path, with dots; ``init_args`` may be left out.

    Raises:
        ValueError: if a path does not exist.

    >>> override({"methods": {"ft": {"class_path": "FT", "init_args": {"lr": None}}}}, {"methods.ft.lr": 0.1})
    {'methods': {'ft': {'class_path': 'FT', 'init_args': {'lr': 0.1}}}}
    """
    changed = copy.deepcopy(dict(settings))
    for key, value in changes.items():
        parent, last = _find(changed, key)
        parent[last] = value
    return changed


def get_value(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value that `override` would change.

    >>> get_value({"class_path": "FT", "init_args": {"lr": 0.1}}, "lr")
    0.1
    """
    parent, last = _find(dict(settings), key)
    return parent[last]


def dotted(settings: Mapping[str, Any], into_classes: bool = True, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested settings with its path, such as ``federation.rounds``.

    Args:
        settings: nested settings.
        into_classes: whether to descend into classes; if not, a class with its arguments is one value.
        prefix: prefix of all paths.
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and value and (into_classes or "class_path" not in value):
            yield from dotted(value, into_classes, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """Merge settings recursively; a class replaces the earlier value as a whole.

    >>> merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    result = dict(config)
    for key, value in overrides.items():
        is_section = isinstance(value, Mapping) and "class_path" not in value and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if is_section else value
    return result


def expand_methods(methods: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]]) -> tuple[Settings, Settings]:
    """Replace every swept method with its variants, one for each combination of its swept values.

    Returns:
        The methods by name, and ``method`` and swept ``values`` of each variant by its name.

    >>> ft = {"class_path": "FT", "init_args": {"lr": None}}
    >>> methods, variants = expand_methods({"none": {}, "ft": ft}, {"methods.ft.lr": [0.1, 0.01]})
    >>> list(methods), variants["ft+lr=0.1"]
    (['none', 'ft+lr=0.1', 'ft+lr=0.01'], {'method': 'ft', 'values': {'methods.ft.lr': 0.1}})
    """
    expanded: Settings = {}
    variants: Settings = {}
    unknown = [key for key in sweep if key.startswith("methods.") and key.split(".")[1] not in methods]
    if unknown:
        raise ValueError(f"`sweep` has `{unknown[0]}`, but the methods are {', '.join(methods)}.")
    for name, method in methods.items():
        swept = {key: values for key, values in sweep.items() if key.startswith(f"methods.{name}.")}
        for combination in combinations(swept):
            changed = override({"methods": {name: method}}, combination)
            variant = short_name("+".join([name, *labels(combination, swept)])) if combination else name
            if variant in expanded or (combination and variant in methods):
                raise ValueError(f"`sweep` makes a method `{variant}`, but a method of this name already exists.")
            expanded[variant] = changed["methods"][name]
            if combination:
                variants[variant] = {"method": name, "values": combination}
    return expanded, variants


def points(sweep: Mapping[str, Sequence[Any]]) -> dict[str, Settings]:
    """Return the combinations of all swept keys that do not belong to methods, by the name of their folder.

    >>> points({"data.shift": [0, 1], "federation.rounds": [5], "methods.ft.lr": [0.1]})["shift=1,rounds=5"]
    {'data.shift': 1, 'federation.rounds': 5}
    """
    keys = {key: values for key, values in sweep.items() if not key.startswith("methods.")}
    if not keys:
        return {}
    return {short_name(",".join(labels(combination, keys))): combination for combination in combinations(keys)}


def short_name(name: str) -> str:
    """Return a name that file systems allow; shorten a longer one to its start and a hash of the whole name.

    >>> short_name("lr=0.1"), len(short_name("layers=" + 100 * "_64_"))
    ('lr=0.1', 200)
    """
    if len(name.encode()) <= MOST_BYTES:
        return name
    start = name.encode()[: MOST_BYTES - 11].decode(errors="ignore")
    return f"{start}-{digest({'name': name})[:10]}"


def combinations(sweep: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Return all combinations of the values of several keys; without keys, a single empty combination."""
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"`{key}` needs a list of values, not {values!r}. HINT: `{key}: [1, 2, 3]`.")
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def labels(combination: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]] | None = None) -> list[str]:
    """Return a short label for each swept value: the last part of the key, or all of it if ambiguous, and the value.

    Args:
        combination: one value for each key.
        sweep: all values of each key; the label of a class contains the arguments that differ between them.

    Raises:
        ValueError: if two values of a key have the same label.

    >>> labels({"a.lr": 0.001, "b.lr": 1, "b.data": {"class_path": "x.y.Z"}})
    ['a.lr=0.001', 'b.lr=1', 'data=Z']
    """
    short = {key: key.rpartition(".")[2] for key in combination}
    names = {key: word if list(short.values()).count(word) == 1 else key for key, word in short.items()}
    return [
        f"{names[key]}={_unique_word(key, value, (sweep or {}).get(key, []))}" for key, value in combination.items()
    ]


def alternatives(grid: Mapping[str, Sequence[Any]], untuned: Mapping[str, Any]) -> list[Settings]:
    """Return the combinations of a grid that differ from each other and from the untuned settings.

    Args:
        grid: values for each of the method's settings.
        untuned: the method's untuned values of these settings.

    >>> alternatives({"lr": [0.1, 0.01, 0.1]}, {"lr": 0.01})
    [{'lr': 0.1}]
    """
    different: list[Settings] = []
    for combination in combinations(grid):
        if combination != untuned and combination not in different:
            different.append(combination)
    return different


def trials(
    grid: Mapping[str, Sequence[Any]], count: int, method: str, untuned: Mapping[str, Any] | None = None
) -> list[Settings]:
    """Choose the combinations of a grid to try.

    The first trial has the untuned settings. The others are all `alternatives`, or a random choice if there are too
    many, in which the values of a setting are about equally frequent. The choice depends only on the method's name.

    Args:
        grid: values for each of the method's settings.
        count: number of trials.
        method: name of the method.
        untuned: the method's untuned values of these settings.

    >>> trials({"lr": [0.1, 0.01]}, 5, "ft")
    [{}, {'lr': 0.1}, {'lr': 0.01}]
    """
    untuned = untuned or {}
    candidates = alternatives(grid, untuned)
    order = list(range(len(candidates)))
    random.Random(stable_seed("tune", method)).shuffle(order)
    chosen: list[int] = []
    trial_settings = [untuned]
    while order and len(chosen) < count - 1:
        best = min(order, key=lambda i: sum(t.get(k) == v for k, v in candidates[i].items() for t in trial_settings))
        order.remove(best)
        chosen.append(best)
        trial_settings.append(candidates[best])
    return [{}, *(candidates[i] for i in sorted(chosen))]


def _find(settings: Settings, key: str) -> tuple[Settings, str]:
    """Return the mapping that contains the value of a dotted key, and the last part of the key."""
    parent = settings
    *path, last = key.split(".")
    for part in path:
        parent = _into_init_args(parent, part)
        if not isinstance(parent.get(part), dict):
            raise ValueError(f"`{key}` does not exist: there is no section `{part}`. HINT: see --print_config.")
        parent = parent[part]
    parent = _into_init_args(parent, last)
    if last not in parent:
        raise ValueError(
            f"`{key}` does not exist: there is no `{last}`, but {', '.join(parent)}. HINT: see --print_config."
        )
    return parent, last


def _into_init_args(parent: Settings, key: str) -> Settings:
    """Return the ``init_args`` of a class that does not have the key itself; any other mapping unchanged."""
    return parent["init_args"] if key not in parent and isinstance(parent.get("init_args"), dict) else parent


def _unique_word(key: str, value: object, values: Sequence[Any]) -> str:
    """Return the text of a swept value in names; it is unique among the key's values even if case is ignored."""
    word = _word(value, values)
    if sum(_word(other, values).casefold() == word.casefold() for other in values) > 1:
        raise ValueError(
            f"`sweep` has values of `{key}` that would share the name `{word}`. HINT: list each value once; if"
            " they differ only in case or special characters, sweep them in separate runs."
        )
    return word


def _word(value: object, others: Sequence[Any] = ()) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        return _class_word(value, [v for v in others if isinstance(v, Mapping) and "class_path" in v])
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)  # as in YAML
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in text)


def _class_word(value: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a class, with the arguments that distinguish it from other values with the same name."""
    name = _class_name(value)
    same_name = [other for other in others if _class_name(other) == name]
    if len({str(other["class_path"]) for other in same_name}) > 1:
        name = str(value["class_path"])
    arguments = value.get("init_args") or {}
    others_arguments = [
        other.get("init_args") or {} for other in same_name if other["class_path"] == value["class_path"]
    ]
    differing = [k for k in arguments if any(k not in other or other[k] != arguments[k] for other in others_arguments)]
    return "-".join([name, *(f"{key}={_word(arguments[key])}" for key in differing)])


def _class_name(value: Mapping[str, Any]) -> str:
    return str(value["class_path"]).rpartition(".")[2]
