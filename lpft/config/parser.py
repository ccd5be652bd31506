"""LightningCLI's parser for the sections of an experiment."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from lpft.config.files import ConfigError, check_file, shortened
from lpft.data.datamodule import FederatedDataModule
from lpft.data.transforms import Augment
from lpft.evaluation.settings import EvaluationSettings
from lpft.federated.settings import Federation
from lpft.methods.base import Method
from lpft.models.base import NetFactory
from lpft.personalization.settings import Personalization
from lpft.personalization.tuning import Tuning
from lpft.runtime.devices import Devices
from lpft.storage.config_file import read_config
from lpft.storage.provenance import Provenance
from lpft.storage.run import Run

log = logging.getLogger("lpft")

Config = dict[str, Any]
"""All settings of an experiment, defaults included, as JSON has them."""

DESCRIPTIONS = {
    "run": "Federate, personalize by every method, report, for every seed; does only what is missing.",
    "federate": "Train the global model of each seed.",
    "tune": "Try each method's grid, and choose by validation data.",
    "personalize": "Fine-tune every client with every method and fill the accuracy matrix.",
    "prepare": "Check a dataset and convert it once into the array cache.",
    "plan": "Count the work of every stage and what of it is missing; for scripts.",
}
TRAINER_HINTS = {
    "gradient_clip_val": "use `personalization.clip_norm`, which clips the gradient of every client by its own norm",
    "max_epochs": "use `personalization.epochs`",
    "logger": "TensorBoard events are written for every method; for others there is the section `loggers`",
    "callbacks": "write a method, `lpft.methods.base.Method`",
}


class ExperimentParser(LightningArgumentParser):
    """A parser that raises `ConfigError` instead of ending the process."""

    def parse_path(self, cfg_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Check a file, and the files that it names, before parsing it."""
        check_file(Path(cfg_path))
        return super().parse_path(cfg_path, *args, **kwargs)

    def build(self, config: Config) -> Namespace:
        """Instantiate all classes of a configuration, which has all settings and stays as it is."""
        return self.instantiate(self.parse_object(copy.deepcopy(config), defaults=False))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `ConfigError`; a parser inside of another one leaves that to the outer one."""
        if isinstance(ex, ConfigError):
            raise ex
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        if message.startswith('Parser key "loggers"'):
            message = _without_values(message)
        raise ConfigError(shortened(message) + self._hint(message)) from ex

    def _hint(self, message: str) -> str:
        """Return what to do about a key that no section has."""
        in_file = re.search(r"Group '(.+?)' does not accept option '(.+?)'", message)
        in_words = re.search(r"unrecognized arguments: --([^\s=]+)", message)
        at_top = re.match(r"Option '(.+?)' is not accepted", message)
        if "arguments are required" in message:
            return "\nHINT: an experiment has these keys; give its file as `-c FILE`. `lpft init` lists those of lpft."
        if "is abstract" in message:
            return "\nHINT: `class_path` names a class, `init_args` its settings: {class_path: X, init_args: {...}}."
        if missing := re.search(r"No module named '(.+?)'", message):
            return _hint_on_modules(missing[1])
        if attribute := re.search(r"module '(.+?)' has no attribute '(.+?)'", message):
            return _hint_on_classes(*attribute.groups())
        if "Expected a <class 'list'>" in message:
            return "\nHINT: write a list in brackets, such as [0, 1]; on a command line, in quotes: '[0, 1]'."
        if not in_file and not in_words and not at_top:
            return "\nHINT: give a file as `-c FILE`." if "unrecognized arguments" in message else ""
        key = f"{in_file[1]}.{in_file[2]}" if in_file else (in_words or at_top or ("", ""))[1]
        if key.startswith("trainer."):
            more = f"; {TRAINER_HINTS[key[8:]]}" if key[8:] in TRAINER_HINTS else ""
            known = "accelerator, devices, num_nodes, precision and processes_per_device"
            return f"\nHINT: `trainer` takes {known} only{more}."
        close = difflib.get_close_matches(key, [action.dest for action in self._actions], n=1)
        return f"\nHINT: did you mean `{close[0]}`?" if close else ""


def _hint_on_modules(module: str) -> str:
    """Return which module may have been meant, or where modules are looked for."""
    known = [name for name in sys.modules if name.startswith(module.partition(".")[0] + ".")]
    if close := difflib.get_close_matches(module, known, n=1):
        return f"\nHINT: did you mean the module `{close[0]}`?"
    return (
        f"\nHINT: `{module}` is neither in the working folder nor installed. A class is named by its path,"
        " `module.Class`; files of data are named by keys of their own, such as {path: a.npz}."
    )


def _hint_on_classes(module: str, name: str) -> str:
    """Return which class or module of an imported module may have been meant; nothing if it has no class."""
    there = vars(sys.modules[module]) if module in sys.modules else {}
    own = [key for key, value in there.items() if isinstance(value, type) and value.__module__.startswith(module)]
    close = difflib.get_close_matches(name, there, n=1)
    if close:
        return f"\nHINT: did you mean `{module}.{close[0]}`?"
    return f"\nHINT: `{module}` has {', '.join(own)}." if own else ""


def _without_values(message: str) -> str:
    """Return jsonargparse's message without the values that were given, which may be secret, and lists of types."""
    message = re.sub(r"Got value: .*", "Got something else.", message)
    message = re.sub(r"\n *Subclass types expect one of:(\n *- a (class path|dict) .*)+", "", message)
    message = re.sub(r"\n *Given value type:.*", "", message, flags=re.S)
    message = re.sub(r"( *)Does not validate .*\n *Subtypes: .*\n *Errors:", r"\1None of these fits:", message)
    return re.sub(r"\n *- Expected a <class '(list|NoneType)'>", "", message)


def add_loggers(parser: LightningArgumentParser) -> None:
    """Add the key `loggers`: one logger, or a list of them."""
    parser.add_argument(
        "--loggers",
        type=Logger | list[Logger] | None,
        default=None,
        sub_configs=True,
        help="loggers beside TensorBoard, such as CSVLogger",
    )


def dumped(parser: ExperimentParser, parsed: Namespace) -> Config:
    """Return parsed settings, with all their defaults, as JSON has them."""
    settings: Config = json.loads(parser.dump(parsed, format="json", skip_unset=False))
    return settings


def as_given(value: Any) -> Any:
    """Leave out of a swept class its default settings, and what it gets when it is built: an optimizer's ``params``.

    Not knowing the key's type, jsonargparse adds both. Tables and folders are named by what is left.
    """
    if not isinstance(value, dict) or not isinstance(value.get("init_args"), dict):
        return value
    try:
        parameters = signature(resolve_name(value["class_path"])).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return value  # no class: an error of the run that it is for
    given = {}
    for name, part in value["init_args"].items():
        default = parameters[name].default if name in parameters else None
        default = list(default) if isinstance(default, tuple) else default  # as YAML has it
        if not (_is_blank(part) if default is Parameter.empty else name in parameters and part == default):
            given[name] = as_given(part)
    return {**value, "init_args": given}


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and bool(value) and all(map(_is_blank, value.values())))


def listed(loggers: Any) -> list[Config]:
    """Return the value of the key `loggers` as a list."""
    return loggers if isinstance(loggers, list) else [loggers] if loggers else []


class ExperimentCLI(LightningCLI):
    """LightningCLI's `data` and `trainer`, no `model`, and the sections of an experiment.

    Args:
        command: which of the experiment commands it is for.
        args: a command line, or a configuration.

    Raises:
        ConfigError: if a setting is not valid.
    """

    parser: ExperimentParser

    def __init__(self, command: str, args: Sequence[str] | Mapping[str, Any]) -> None:
        self.command, self.words = command, args
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                run=False,
                args=args,  # type: ignore[arg-type]
                parser_class=ExperimentParser,
                datamodule_class=FederatedDataModule,
                save_config_callback=None,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={"prog": f"lpft {command}", "description": DESCRIPTIONS[command], "allow_abbrev": False},
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Leave out ``--seed_everything``: every draw has its own generator."""

    def _set_seed(self) -> None:
        """Leave the global generator alone."""

    def instantiate_classes(self) -> None:
        """Build nothing yet: a sweep is several runs."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add LightningCLI's sections without `model`; of the Trainer's settings those that apply."""
        parser.add_class_arguments(self._datamodule_class, "data", sub_configs=True)
        parser.add_class_arguments(Devices, "trainer")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of an experiment, and the selections of a command."""
        needed = self.command != "prepare"
        add = parser.add_argument
        add("--name", type=str, default="experiment", help="name of the experiment")
        add("--out", type=str | None, default=None, help="folder of the run (default: runs/NAME)")
        add("--seeds", type=list[int], default=[0], help="seeds; each has its own global model")
        add("--augment", type=Augment | None, default=None, sub_configs=True, help="augmentation of training images")
        add("--network", type=NetFactory, required=needed, sub_configs=True, help="builds the network")
        parser.add_class_arguments(Federation, "federation", sub_configs=True)
        parser.add_class_arguments(Personalization, "personalization", sub_configs=True)
        parser.add_class_arguments(EvaluationSettings, "evaluation")
        add("--methods", type=dict[str, Method], required=needed, sub_configs=True, help="rows of the table")
        add("--sweep", type=dict[str, list[Any]] | None, default=None, help="keys of this file, with lists of values")
        add("--verdicts", type=list[str], default=[], help="functions that judge the results: lpft.paper.verdicts.X")
        add("--compare", type=list[list[str]], default=[], help="pairs of methods to compare: [[lpft, ft]]")
        parser.add_class_arguments(Tuning, "tune", sub_configs=True)
        add_loggers(parser)
        add("--provenance", type=Provenance, default=Provenance(), help="written to a run's config.yaml; not a setting")
        add("--overwrite", action="store_true", help="replace results that were made with other settings")
        if needed:
            add("--only", type=list[str] | str | None, default=None, help="methods to run, such as lpft,ft")
        if self.command in ("run", "personalize"):
            add("--fallback", action="store_true", help="write the model that each client should use, by validation")
        if self.command in ("tune", "personalize"):
            add("--shard", type=str, default="0/1", help="I/N: every N-th stack, starting with number I, from 0")

    @cached_property
    def _settings(self) -> Config:
        return dumped(self.parser, self.config)

    def resolved(self) -> Config:
        """Return all settings but the loggers, as JSON has them."""
        settings = {**self._settings, "out": self._where_it_lies(self._settings["out"])}
        if settings["sweep"]:
            settings["sweep"] = {
                key: [as_given(value) for value in values] for key, values in settings["sweep"].items()
            }
        return {key: value for key, value in settings.items() if key not in ("config", "print_config", "loggers")}

    def parts(self) -> Namespace:
        """Instantiate all classes but the loggers."""
        return self.parser.instantiate(self.config.clone().update(None, "loggers"))

    def loggers(self) -> list[Config]:
        """Return the loggers: who watches a run is no part of its settings, nor do their secrets belong there."""
        return listed(self._settings["loggers"])

    def _where_it_lies(self, out: str | None) -> str | None:
        """Return the folder of a run that is continued from its own config.yaml; it may have been moved.

        Args:
            out: the folder that the settings name.
        """
        file = Path((self.config.get("config") or [""])[-1])
        chosen = any(word == "--out" or str(word).startswith("--out=") for word in self.words)
        if chosen or out is None or file.name != "config.yaml" or not read_config(Run(file.parent)).get("provenance"):
            return out
        if file.parent.resolve() != Path(out).expanduser().resolve():
            log.info("%s names %s, but lies in %s: that run is continued", file, out, file.parent)
            return str(file.parent)
        return out
