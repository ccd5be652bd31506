"""The content of a run's config.yaml: its methods, the compared pairs, and swept and tuned settings.

A swept key of a method makes *variants* of it, a *family* of rows in one table. Any other swept key makes *points*,
each a run in a folder of its own. A run that is not part of a sweep is one point without values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from lpft.evaluation.settings import MetricName

PROBING = ("lp_epochs", "lp_lr", "lp_solver", "head_init")
"""Settings of linear probing, which a method without it does not have."""
CHOSEN_AFTERWARDS = ("EarlyStoppedFT", "SoupFT", "LSSFT", "WiseFT", "WiseLPFT")
"""Methods whose model is chosen or averaged after the last epoch."""

Values = Mapping[str, Any]
Item = TypeVar("Item")
Key = TypeVar("Key")


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


@dataclass(frozen=True)
class Experiment:
    """Seeds, methods and clients of a run.

    Args:
        config: the resolved experiment; empty if it cannot be read.
        seeds: seeds that are planned or have results, sorted.
        methods: all methods, in the order of the configuration.
        complete_methods: those that are complete for at least one seed; only these have a row in the comparison.
        client_names: all clients: the order of rows and columns everywhere.
    """

    config: Mapping[str, Any]
    seeds: Sequence[int]
    methods: Sequence[str]
    complete_methods: Sequence[str]
    client_names: Sequence[str]

    @property
    def drawn_methods(self) -> list[str]:
        """The complete methods in the order of `methods`, as figures show them."""
        return [method for method in self.methods if method in self.complete_methods]

    @cached_property
    def reference(self) -> str | None:
        """The method that is the global model itself; None if there is none."""
        return next((method for method in self.methods if is_reference(method, self.config)), None)

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The rows that a sweep over a method's settings made, by name."""
        return variants_of(self.config)

    def families(self, methods: Iterable[str]) -> dict[str, list[str]]:
        """Group methods by family; see the function `families`."""
        return families(methods, self.variants)

    def family_rows(self, family: str) -> list[str]:
        """Return the complete rows of a method: the method and its variants."""
        return self.families(self.complete_methods).get(family, [])

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs (method, baseline) to compare; see `compared_pairs`."""
        return compared_pairs(self.config)

    @cached_property
    def values(self) -> Values:
        """The swept values of this run, by dotted key; empty if it is not part of a sweep."""
        return section(self.config, "provenance", "point")

    @cached_property
    def held_out(self) -> set[str]:
        """The clients that took no part in federated training; empty if none were held out."""
        return set(section(self.config, "provenance").get("held_out") or [])

    @property
    def label(self) -> str:
        """The swept values in short; empty if it is not part of a sweep."""
        return label(self.values)


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items by a key function, in their order.

    >>> group_by(["ft", "lp", "ft_short"], lambda name: name[0])
    {'f': ['ft', 'ft_short'], 'l': ['lp']}
    """
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


# Sections of the configuration


def section(config: Any, *names: str) -> Mapping[str, Any]:
    """Return a section of a configuration, or a nested one; empty if it is missing.

    >>> section({"methods": {"ft": {"init_args": {"epochs": 3}}, "lp": None}}, "methods", "ft", "init_args")
    {'epochs': 3}
    """
    for name in names:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings with dotted keys; those that are None or empty are left out.

    >>> dict(flat({"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}}, "init": None}))
    {'optimizer.class_path': 'SGD', 'optimizer.init_args.lr': 0.1}
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def class_name(settings: Any) -> str:
    """Return the class of a method's settings without its module; empty if there is none."""
    path = settings.get("class_path") if isinstance(settings, Mapping) else None
    return str(path or "").rpartition(".")[2]


def is_chosen_afterwards(method: str, config: Mapping[str, Any]) -> bool:
    """Return whether a method's model is chosen or averaged after the last epoch, so that no curve ends at it."""
    return class_name(section(config, "methods", method)) in CHOSEN_AFTERWARDS


def is_reference(method: str, config: Mapping[str, Any]) -> bool:
    """Return whether a method is the global model itself."""
    path = str(section(config, "methods", method).get("class_path") or "")
    return path.endswith(".NoFineTuning") or (not path and method == "none")


# Pairs


def compared_pairs(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of method and baseline that an experiment compares, by name.

    They are the configuration's ``compare``, a list of ``[method, baseline]``. Without it, every method that trains the
    head first is compared with the first one that differs in nothing but that: `LPFT` with `FT`, others with their own
    class. What tuning has chosen for both of a pair is compared as well.

    >>> lpft, ft = {"class_path": "m.LPFT", "init_args": {"lp_epochs": 5}}, {"class_path": "m.FT", "init_args": {}}
    >>> compared_pairs({"methods": {"ft": ft, "short": {**ft, "init_args": {"epochs": 9}}, "lpft": lpft}})
    [('lpft', 'ft')]
    >>> compared_pairs({"compare": [["prox", "ft"]]})
    [('prox', 'ft')]
    >>> compared_pairs({"compare": [["lpft", "ft"]], "methods": {"lpft_tuned": lpft, "ft_tuned": ft}})
    [('lpft', 'ft'), ('lpft_tuned', 'ft_tuned')]
    """
    named = [(str(method), str(baseline)) for method, baseline in config.get("compare") or []]
    pairs = named or _default_pairs(config)
    tuned = [(f"{method}_tuned", f"{baseline}_tuned") for method, baseline in pairs]
    methods = section(config, "methods")
    return list(dict.fromkeys([*pairs, *(pair for pair in tuned if all(name in methods for name in pair))]))


def _default_pairs(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every method that trains the head first with the first one that differs in nothing but that."""
    variants = variants_of(config)
    swept_keys = {variant.family: set(variant.values) for variant in variants.values()}
    settings: dict[str, Mapping[str, Any]] = {}
    for row, method in section(config, "methods").items():
        if isinstance(method, Mapping):
            settings.setdefault(family_of(row, variants), method)
    pairs: dict[str, str] = {}
    for method, of_method in settings.items():
        for baseline, of_baseline in settings.items():
            same_class = class_name(of_method).replace("LPFT", "FT") == class_name(of_baseline)
            ignored = {*PROBING, *swept_keys.get(method, ()), *swept_keys.get(baseline, ())}
            alike = same_class and _same_settings(of_method, of_baseline, ignored)
            if alike and probes_first(of_method) and not probes_first(of_baseline):
                pairs.setdefault(baseline, method)
                break
    return [(method, baseline) for baseline, method in pairs.items()]


def probes_first(settings: Mapping[str, Any]) -> bool:
    """Return whether a method trains only the head first, and then everything.

    >>> probes_first({"class_path": "m.LPFT", "init_args": {"lp_epochs": None}})  # linear probing only
    False
    """
    arguments = section(settings, "init_args")
    lp_epochs = arguments.get("lp_epochs", 5 if class_name(settings) == "LPFT" else None)
    return lp_epochs is not None and (lp_epochs > 0 or arguments.get("lp_solver") == "logreg")


def _same_settings(method: Mapping[str, Any], baseline: Mapping[str, Any], ignored: set[str]) -> bool:
    """Return whether two methods have the same settings except for some; None is the default."""
    of_method, of_baseline = section(method, "init_args"), section(baseline, "init_args")
    return all(of_method.get(key) == of_baseline.get(key) for key in {*of_method, *of_baseline} - ignored)


# Sweeps


def variants_of(config: Mapping[str, Any]) -> dict[str, Variant]:
    """Return the variants of a run's methods, as its configuration has them."""
    variants: dict[str, Variant] = {}
    for name, variant in section(config, "provenance", "variants").items():
        family = str(variant["method"])
        values = {key.removeprefix(f"methods.{family}."): value for key, value in variant["values"].items()}
        variants[str(name)] = Variant(family, values)
    return variants


def family_of(method: str, variants: Mapping[str, Variant]) -> str:
    """Return the method that a row of the comparison belongs to."""
    return variants[method].family if method in variants else method


def families(methods: Iterable[str], variants: Mapping[str, Variant]) -> dict[str, list[str]]:
    """Group the variants of one method under its name; every other method is a group by itself."""
    return group_by(methods, lambda method: family_of(method, variants))


def grouped(methods: Sequence[str], variants: Mapping[str, Variant]) -> list[tuple[str, list[str]]]:
    """Group the rows of a table: variants of one method under its name, successive other rows under an empty one.

    >>> variants = {"ft+lr=1": Variant("ft", {"lr": 1}), "ft+lr=2": Variant("ft", {"lr": 2})}
    >>> grouped(["none", "lp", "ft+lr=1", "ft+lr=2", "lpft"], variants)
    [('', ['none', 'lp']), ('ft', ['ft+lr=1', 'ft+lr=2']), ('', ['lpft'])]
    """
    runs = groupby(methods, key=lambda method: variants[method].family if method in variants else "")
    return [(family, list(members)) for family, members in runs]


def label(values: Values) -> str:
    """Abbreviate swept values.

    >>> label({"data.shift": 0.5, "federation.rounds": 100})
    'shift=0.5, rounds=100'
    """
    names = short_keys(list(values))
    return ", ".join(f"{names[key]}={word(value)}" for key, value in values.items())


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys to their last word if no other key ends with it.

    >>> short_keys(["data.shift", "a.lr", "b.lr"])
    {'data.shift': 'shift', 'a.lr': 'a.lr', 'b.lr': 'b.lr'}
    """
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}


def word(value: object) -> str:
    """Abbreviate a swept value.

    >>> word(0.0001), word(None), word({"class_path": "my.data.Shifted", "init_args": {"by": 0.5, "n": 3}})
    ('0.0001', 'null', 'Shifted(by=0.5, n=3)')
    """
    if isinstance(value, Mapping) and "class_path" in value:
        settings = ", ".join(f"{key}={word(item)}" for key, item in section(value, "init_args").items())
        return class_name(value) + (f"({settings})" if settings else "")
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def metric_name(config: Mapping[str, Any]) -> MetricName:
    """Return the ``evaluation.metric`` of an experiment."""
    name: MetricName = section(config, "evaluation").get("metric") or "accuracy"
    return name


def measure_word(*configs: Mapping[str, Any]) -> str:
    """Return what the percentages of experiments measure: their ``evaluation.metric`` in words, in lower case.

    >>> auroc = {"evaluation": {"metric": "auroc"}}
    >>> measure_word({}), measure_word(auroc, auroc), measure_word({}, auroc)
    ('accuracy', 'AUROC', 'accuracy or AUROC')
    """
    from lpft.evaluation.metrics import SCORE_METRICS  # imports numpy, and `lpft status` answers at once

    names = dict.fromkeys(map(metric_name, configs or [{}]))
    return " or ".join(SCORE_METRICS[name][0] if name in SCORE_METRICS else name for name in names)
