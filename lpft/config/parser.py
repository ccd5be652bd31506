"""The parser of experiments: LightningCLI with the sections of a configuration."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import os
import re
import sys
import warnings
from argparse import Action, ArgumentError
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from lpft.config.files import SUFFIXES, ConfigError, check_file, read_mapping, shortened
from lpft.config.sweep import merged
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
"""All settings of an experiment, including defaults, as JSON values."""

DESCRIPTIONS = {
    "run": "Federate, personalize with every method and report, for every seed; computes only what is missing.",
    "federate": "Train the global model of each seed.",
    "tune": "Try each method's grid, and choose by validation data.",
    "personalize": "Fine-tune every client with every method and fill the accuracy matrix.",
    "prepare": "Check a dataset and convert it once into the array cache.",
    "plan": "Print how much work each stage has, and how much of it is missing; for scripts.",
}
TRAINER_HINTS = {
    "gradient_clip_val": "use `personalization.clip_norm`, which clips the gradient of every client by its own norm",
    "max_epochs": "use `personalization.epochs`",
    "logger": "TensorBoard events are written for every method; for others there is the section `loggers`",
    "callbacks": "write a method, `lpft.methods.base.Method`",
}


class ExperimentParser(LightningArgumentParser):
    """A parser that raises `ConfigError` instead of exiting the process."""

    def parse_path(self, cfg_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Check a file, and the files that it names, then parse it."""
        check_file(Path(cfg_path))
        return super().parse_path(cfg_path, *args, **kwargs)

    def build(self, config: Config) -> Namespace:
        """Instantiate all classes of a complete configuration, which is not modified."""
        parsed = self.parse_object(copy.deepcopy(config), defaults=False)
        self.check_types(parsed)
        return self.instantiate(parsed)

    def check_types(self, parsed: Namespace) -> None:
        """Raise `ConfigError` for what parsing lets pass: null for any type, and anything for a group of settings."""
        set_parsing_settings(unset_sentinel=True)  # None is no longer a missing value, but one to be checked
        try:
            self.validate(parsed)
        except TypeError as error:
            self.error(str(error), error)
        finally:
            set_parsing_settings(unset_sentinel=False)
        for name in self.groups or {}:
            if not isinstance(value := parsed.get(name), Namespace):
                raise ConfigError(f"`{name}` is {value!r}. HINT: it needs settings, {{key: value}}.")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `ConfigError`; a nested parser leaves this to the outer one."""
        if isinstance(ex, ConfigError):
            raise ex
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        if message.startswith('Parser key "loggers"'):
            message = _without_values(message)
        raise ConfigError(shortened(message) + self._hint(message)) from ex

    def _hint(self, message: str) -> str:
        """Return a hint for an error message of jsonargparse; empty if there is none."""
        in_file = re.search(r"Group '(.+?)' does not accept option '(.+?)'", message)
        in_arguments = re.search(r"unrecognized arguments: --([^\s=]+)", message)
        at_top = re.match(r"Option '(.+?)' is not accepted", message)
        if "arguments are required" in message:
            return "\nHINT: an experiment has these keys; give its file as `-c FILE`. `lpft init` lists shipped ones."
        if "is abstract" in message:
            return "\nHINT: `class_path` names a class, `init_args` its settings: {class_path: X, init_args: {...}}."
        if missing := re.search(r"No module named '(.+?)'", message):
            return _hint_on_modules(missing[1])
        if attribute := re.search(r"module '(.+?)' has no attribute '(.+?)'", message):
            return _hint_on_classes(*attribute.groups())
        if re.search(r"not 'NoneType'$|Got value: None$", message, re.M):
            return "\nHINT: null is not a value of this setting. To use the default, leave the setting out."
        if section := re.match(r'Parser key "(\w+)":\s+Unable to load config', message):
            return f"\nHINT: `{section[1]}` is a section: give a file or settings, {{key: value}}, or leave it out."
        if "Expected a <class 'list'>" in message:
            return "\nHINT: write a list in brackets, such as [0, 1]; on a command line, in quotes: '[0, 1]'."
        if not in_file and not in_arguments and not at_top:
            return "\nHINT: give a file as `-c FILE`." if "unrecognized arguments" in message else ""
        key = f"{in_file[1]}.{in_file[2]}" if in_file else (in_arguments or at_top or ("", ""))[1]
        if key.startswith("trainer."):
            alternative = f"; {TRAINER_HINTS[key[8:]]}" if key[8:] in TRAINER_HINTS else ""
            accepted = "accelerator, devices, num_nodes, precision and processes_per_device"
            return f"\nHINT: `trainer` takes only {accepted}{alternative}."
        close = difflib.get_close_matches(key, [action.dest for action in self._actions], n=1)
        return f"\nHINT: did you mean `{close[0]}`?" if close else ""


def merge_options(action: Action, depth: int) -> None:
    """Let an option for one value of nested mappings, such as ``--tune.grids.ft.lr [0.1]``, keep all other values.

    Without this, jsonargparse replaces inner mappings, and splits keys with dots such as ``federation.rounds``.

    Args:
        action: the mapping's action.
        depth: number of keys that lead to a value; the last one may contain dots.
    """

    class Merging(type(action)):  # type: ignore[misc]  # jsonargparse does not export the class of its actions
        def __call__(self, parser: ExperimentParser, config: Namespace, value: Any, option: str) -> None:
            earlier = config.get(self.dest) or {}
            keys = option.removeprefix(f"--{self.dest}").split(".", depth)[1:]
            for key in reversed(keys):
                value = f"{{{json.dumps(key)}: {value}}}"
            super().__call__(parser, config, value, f"--{self.dest}")
            if keys:
                config[self.dest] = merged(earlier, config[self.dest])

    action.__class__ = Merging


def accept_files(action: Action) -> None:
    """Let an option for one entry of a mapping, such as ``--methods.lora lora.yaml``, name a file, as in a file.

    Args:
        action: the mapping's action.
    """

    class Reading(type(action)):  # type: ignore[misc]  # as in `merge_options`
        def __call__(self, parser: ExperimentParser, config: Namespace, value: Any, option: str) -> None:
            is_entry = option.removeprefix(f"--{self.dest}").count(".") == 1
            if is_entry and isinstance(value, str) and value.endswith(SUFFIXES):
                value = json.dumps(read_mapping(Path(value)))
            super().__call__(parser, config, value, option)

    action.__class__ = Reading


def _hint_on_modules(module: str) -> str:
    """Return a hint for a module that cannot be imported: a similar name, or how classes are named."""
    imported = [name for name in sys.modules if name.startswith(module.partition(".")[0] + ".")]
    if close := difflib.get_close_matches(module, imported, n=1):
        return f"\nHINT: did you mean the module `{close[0]}`?"
    return (
        f"\nHINT: `{module}` is neither in the working directory nor installed. Name a class by its import path,"
        " `module.Class`; data files have their own keys, such as {path: a.npz}."
    )


def _hint_on_classes(module: str, name: str) -> str:
    """Return a hint for a name that an imported module lacks: a similar name, or the classes of the module."""
    members = vars(sys.modules[module]) if module in sys.modules else {}
    classes = [key for key, value in members.items() if isinstance(value, type) and value.__module__.startswith(module)]
    close = difflib.get_close_matches(name, members, n=1)
    if close:
        return f"\nHINT: did you mean `{module}.{close[0]}`?"
    return f"\nHINT: `{module}` has {', '.join(classes)}." if classes else ""


def _without_values(message: str) -> str:
    """Return jsonargparse's message without values, which may be secret, and without lists of types."""
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
        help="loggers in addition to TensorBoard, such as CSVLogger",
    )


def dumped(parser: ExperimentParser, parsed: Namespace) -> Config:
    """Return parsed settings, including all defaults, as JSON values."""
    settings: Config = json.loads(parser.dump(parsed, format="json", skip_unset=False))
    return settings


def without_defaults(value: Any) -> Any:
    """Remove default arguments of a swept class, and blank required ones such as an optimizer's ``params``.

    jsonargparse adds both, since it does not know the type of a swept key. Table rows and folders are named by the
    remaining arguments.
    """
    if not isinstance(value, dict) or not isinstance(value.get("init_args"), dict):
        return value
    try:
        parameters = signature(resolve_name(value["class_path"])).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return value  # not a class: building the run raises the error
    arguments = {}
    for name, argument in value["init_args"].items():
        default = parameters[name].default if name in parameters else None
        default = list(default) if isinstance(default, tuple) else default  # YAML has no tuples
        if not (_is_blank(argument) if default is Parameter.empty else name in parameters and argument == default):
            arguments[name] = without_defaults(argument)
    return {**value, "init_args": arguments}


def _is_blank(value: Any) -> bool:
    """Return whether a value is None, or a dict of only blank values."""
    return value is None or (isinstance(value, dict) and bool(value) and all(map(_is_blank, value.values())))


def listed(loggers: Any) -> list[Config]:
    """Return the value of the key `loggers` as a list."""
    return loggers if isinstance(loggers, list) else [loggers] if loggers else []


class ExperimentCLI(LightningCLI):
    """LightningCLI's `data` and `trainer`, no `model`, and the sections of an experiment.

    Args:
        command: name of an experiment command, such as ``run``.
        args: a command line, or a configuration.

    Raises:
        ConfigError: if a setting is not valid.
    """

    parser: ExperimentParser

    def __init__(self, command: str, args: Sequence[str] | Mapping[str, Any]) -> None:
        self.command, self.arguments = command, args
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, and check the types of all settings."""
        super().parse_arguments(parser, args)
        self.parser.check_types(self.config)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Omit ``--seed_everything``: every random draw has its own generator."""

    def _set_seed(self) -> None:
        """Do not seed the global generator."""

    def instantiate_classes(self) -> None:
        """Build nothing yet: a sweep consists of several runs."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add LightningCLI's sections except `model`, and only the Trainer's settings that apply."""
        parser.add_class_arguments(self._datamodule_class, "data", sub_configs=True)
        parser.add_class_arguments(Devices, "trainer")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of an experiment and the options of the command."""
        trains = self.command != "prepare"
        network: Any = NetFactory if trains else NetFactory | None
        rows: Any = dict[str, Method] if trains else dict[str, Method] | None
        add = parser.add_argument
        add("--name", type=str, default="experiment", help="name of the experiment")
        add("--out", type=str | None, default=None, help="folder of the run (default: runs/NAME)")
        add("--seeds", type=list[int], default=[0], help="seeds; each has its own global model")
        add("--augment", type=Augment | None, default=None, sub_configs=True, help="augmentation of training images")
        add("--network", type=network, required=trains, sub_configs=True, help="builds the network")
        parser.add_class_arguments(Federation, "federation", sub_configs=True)
        parser.add_class_arguments(Personalization, "personalization", sub_configs=True)
        parser.add_class_arguments(EvaluationSettings, "evaluation")
        methods = add("--methods", type=rows, required=trains, sub_configs=True, help="rows of the table")
        accept_files(methods)
        sweep = add(
            "--sweep", type=dict[str, list[Any]] | None, default=None, help="keys of this file, with lists of values"
        )
        merge_options(sweep, depth=1)
        add("--verdicts", type=list[str], default=[], help="functions that judge the results: lpft.paper.verdicts.X")
        add("--compare", type=list[list[str]], default=[], help="pairs of methods to compare: [[lpft, ft]]")
        parser.add_class_arguments(Tuning, "tune", sub_configs=True)
        merge_options(next(action for action in parser._actions if action.dest == "tune.grids"), depth=2)
        add_loggers(parser)
        add("--provenance", type=Provenance, default=Provenance(), help="written to a run's config.yaml; not a setting")
        flag: dict[str, Any] = {"type": bool, "nargs": "?", "const": True, "default": False}
        add("--overwrite", **flag, help="replace results that were made with other settings")
        if trains:
            add("--only", type=list[str] | str | None, default=None, help="methods to run, such as lpft,ft")
        if self.command in ("run", "personalize"):
            add("--fallback", **flag, help="choose a model for each client by validation data")
        if self.command in ("tune", "personalize"):
            add("--shard", type=str, default="0/1", help="I/N: every N-th stack, starting at stack I (from 0)")

    @cached_property
    def _settings(self) -> Config:
        return dumped(self.parser, self.config)

    def resolved(self) -> Config:
        """Return all settings except the loggers, as JSON values."""
        settings = {**self._settings, "out": self._current_folder(self._settings["out"])}
        if settings["sweep"]:
            settings["sweep"] = {
                key: [without_defaults(value) for value in values] for key, values in settings["sweep"].items()
            }
        return {key: value for key, value in settings.items() if key not in ("config", "print_config", "loggers")}

    def parts(self) -> Namespace:
        """Instantiate all classes except the loggers."""
        return self.parser.instantiate(self.config.clone().update(None, "loggers"))

    def loggers(self) -> list[Config]:
        """Return the loggers, which are not settings of the run: no result depends on them, and some have secrets."""
        return listed(self._settings["loggers"])

    def _current_folder(self, out: str | None) -> str | None:
        """Return the folder of the run, which may have been moved if it is continued from its own config.yaml.

        Args:
            out: the folder in the settings.
        """
        file = Path((self.config.get("config") or [""])[-1])
        is_explicit = any(word == "--out" or str(word).startswith("--out=") for word in self.arguments)
        if is_explicit or out is None or file.name != "config.yaml":
            return out
        if not read_config(Run(file.parent)).get("provenance"):  # not the config.yaml of a run
            return out
        if file.parent.resolve() != Path(out).expanduser().resolve():
            log.info("%s has `out: %s` but is in %s: continuing the run there", file, out, file.parent)
            return str(file.parent)
        return out
