"""The experiment: one typed object for each run, built from a plain configuration.

LightningCLI resolves files, command line and keywords to a configuration: nested dicts as JSON has them. Sweeps and
tuning turn configurations into configurations (`lpft.config.sweep`). `build` makes the object of one run.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
import warnings
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lpft.config.files import ConfigError, check_file
from lpft.data.augment import Augment
from lpft.data.base import FederatedDataModule
from lpft.federated.federate import GlobalTask, build_network
from lpft.federated.settings import Federation
from lpft.methods.base import Method
from lpft.models.base import BodyHeadNet, NetFactory
from lpft.models.weights import checksum
from lpft.personalization.personalize import PersonalTask
from lpft.personalization.settings import Personalization
from lpft.personalization.tuning import Tuning
from lpft.runtime.devices import Devices
from lpft.storage.fingerprint import fingerprint
from lpft.storage.provenance import Provenance
from lpft.storage.run import Run

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
NOT_SETTINGS = ("only", "shard", "fallback", "overwrite", "provenance")
"""Keys of a configuration that are no part of the experiment."""
TRAINER_HINTS = {
    "gradient_clip_val": "use `personalization.clip_norm`, which clips the gradient of every client by its own norm",
    "max_epochs": "use `personalization.epochs`",
    "logger": "TensorBoard events are written for every method",
    "callbacks": "write a method, `lpft.methods.base.Method`",
}


class ExperimentParser(LightningArgumentParser):
    """A parser that raises `ConfigError` instead of ending the process."""

    def parse_path(self, cfg_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Check a file, and the files that it names, before parsing it."""
        check_file(Path(cfg_path))
        return super().parse_path(cfg_path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `ConfigError`; a parser inside of another one leaves that to the outer one."""
        if isinstance(ex, ConfigError):
            raise ex
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        raise ConfigError(_shortened(message) + self._hint(message)) from ex

    def _hint(self, message: str) -> str:
        """Return what to do about a key that no section has."""
        in_file = re.search(r"Group '(.+?)' does not accept option '(.+?)'", message)
        in_words = re.search(r"unrecognized arguments: --([^\s=]+)", message)
        if not in_file and not in_words:
            return "\nHINT: give a file as `-c FILE`." if "unrecognized arguments" in message else ""
        key = f"{in_file[1]}.{in_file[2]}" if in_file else in_words[1] if in_words else ""
        if key.startswith("trainer."):
            more = f"; {TRAINER_HINTS[key[8:]]}" if key[8:] in TRAINER_HINTS else ""
            return f"\nHINT: `trainer` takes accelerator, devices, num_nodes and precision only{more}."
        close = difflib.get_close_matches(key, [action.dest for action in self._actions], n=1)
        return f"\nHINT: did you mean `{close[0]}`?" if close else ""


def _shortened(message: str) -> str:
    """Return a message without lists of types; of a value that may be null, without that alternative."""
    message = message.partition("\nSubclass types expect one of:")[0]
    errors = re.search(r"Does not validate .*?\nErrors:\n(.*?)\nGiven value type:", message, re.S)
    if not errors:
        return message
    reasons = [reason.strip() for reason in re.split(r"^ *- ", errors[1], flags=re.M) if "NoneType" not in reason]
    return message[: errors.start()] + "; or ".join(filter(None, reasons))


class ExperimentCLI(LightningCLI):
    """LightningCLI's `data` and `trainer`, no `model`, and the sections of an experiment.

    Args:
        command: which of the experiment commands it is for.
        args: a command line, or a configuration.

    Raises:
        ConfigError: if a setting is not valid.
    """

    def __init__(self, command: str, args: Sequence[str] | Mapping[str, Any]) -> None:
        self.command = command
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                run=False,
                args=args,  # type: ignore[arg-type]
                parser_class=ExperimentParser,
                datamodule_class=FederatedDataModule,
                subclass_mode_data=True,
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
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)
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
        add("--methods", type=dict[str, Method], required=needed, sub_configs=True, help="rows of the table")
        add("--sweep", type=dict[str, list[Any]] | None, default=None, help="keys of this file, with lists of values")
        add("--verdicts", type=list[str], default=[], help="functions that judge the results: lpft.paper.verdicts.X")
        add("--compare", type=list[list[str]], default=[], help="pairs of methods to compare: [[lpft, ft]]")
        parser.add_class_arguments(Tuning, "tune", sub_configs=True)
        add("--provenance", type=Provenance, default=Provenance(), help="written to a run's config.yaml; not a setting")
        add("--overwrite", action="store_true", help="replace results that were made with other settings")
        if needed:
            add("--only", type=_method_names, default=None, help="methods to run, such as lpft,ft")
        if self.command in ("run", "personalize"):
            add("--fallback", action="store_true", help="write the model that each client should use, by validation")
        if self.command in ("tune", "personalize"):
            add("--shard", type=_shard, default="0/1", help="I/N: every N-th stack, starting with number I, from 0")

    def resolved(self) -> Config:
        """Return all settings as JSON has them."""
        settings: Config = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        return {key: value for key, value in settings.items() if key not in ("config", "print_config")}


def _method_names(value: object) -> object:
    """Split the names of methods at commas; lists stay lists."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _shard(text: str) -> str:
    """Return I/N if it is valid."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", str(text))
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise ValueError(f"`--shard {text}` is not I/N with 0 <= I < N. HINT: the second of four is `--shard 1/4`.")
    return text


@dataclass(frozen=True)
class Selection:
    """The part of an experiment that a command does.

    Args:
        only: names of the methods to run; None for all.
        shard: ``(i, n)``: of the fixed list of stacks only the entries i, i + n, ...
        overwrite: replace results that were made with other settings.
        fallback: write the model that each client should use.
    """

    only: list[str] | None = None
    shard: tuple[int, int] = (0, 1)
    overwrite: bool = False
    fallback: bool = False


@dataclass
class Experiment:
    """Everything that one run needs; made by `build`.

    Args:
        command: the command that it is for.
        config: the resolved configuration, without selections.
        run: the run's folder.
        seeds: each has its own global model.
        data: the clients; set up.
        network: builds the network.
        federation: settings of federated training.
        personalization: settings of fine-tuning.
        all_methods: the methods by name.
        devices: the section `trainer`.
        tune: the section `tune`.
        provenance: variants of a sweep, the point and tuned settings; software and data are added when it is written.
        selection: what of it is done.
    """

    command: str
    config: Config
    run: Run
    seeds: list[int]
    data: FederatedDataModule
    network: NetFactory
    federation: Federation
    personalization: Personalization
    all_methods: dict[str, Method]
    devices: Devices
    tune: Tuning
    provenance: Provenance
    selection: Selection

    @cached_property
    def methods(self) -> dict[str, Method]:
        """The selected methods."""
        only = self.selection.only
        return {name: method for name, method in self.all_methods.items() if only is None or name in only}

    @property
    def tuned_methods(self) -> list[str]:
        """The selected methods that are tuned."""
        return [name for name in self.methods if name in self.tune.grids]

    @property
    def global_seeds(self) -> list[int]:
        """The seeds that need a global model: the experiment's, and those of tuning if a method is tuned."""
        return sorted({*self.seeds, *self.tune.seeds}) if self.tuned_methods else self.seeds

    @cached_property
    def net(self) -> BodyHeadNet:
        """A network, to ask for shapes and names; its values do not matter."""
        return build_network(self.network, self.data, self.devices, seed=0)

    @cached_property
    def global_settings(self) -> Config:
        """All settings that the global models depend on."""
        network, federation = dict(self.config["network"]), dict(self.config["federation"])
        if self.net.weights_hash is not None:  # the file's content counts, not its place
            network["init_args"] = {**network["init_args"], "weights": self.net.weights_hash}
        del federation["init_map"]  # what it makes of the file counts
        if federation["init"] is None:
            del federation["init_head"]
        else:
            federation["init"] = checksum(self.federation.read_init(self.net))
        data = {
            "content": self.data.content_hash,
            "num_classes": self.data.spec.num_classes,
            "mean": list(self.data.mean),
            "std": list(self.data.std),
        }
        augment = {} if self.config["augment"] is None else {"augment": self.config["augment"]}
        precision = {"precision": self.devices.precision}
        return {"data": data, **augment, "network": network, "federation": federation, "trainer": precision}

    @cached_property
    def shared_settings(self) -> Config:
        """All settings that the results of every method depend on."""
        personalization = {k: value for k, value in self.config["personalization"].items() if k != "save_models"}
        return {**self.global_settings, "personalization": personalization}

    def method_settings(self, name: str) -> Config:
        """Return all settings that the results of one method depend on."""
        return {**self.shared_settings, "method": self.config["methods"][name]}

    def global_task(self) -> GlobalTask:
        """Return what federated training needs."""
        return GlobalTask(
            self.run,
            self.global_seeds,
            self.data,
            self.network,
            self.federation,
            self.devices,
            self.config["federation"]["clients_per_stack"],
            fingerprint(self.global_settings),
        )

    def personal_task(self) -> PersonalTask:
        """Return what personalization needs."""
        return PersonalTask(
            self.run,
            self.seeds,
            self.data,
            self.network,
            self.personalization,
            self.methods,
            self.devices,
            self.config["personalization"]["clients_per_stack"],
            {name: fingerprint(self.method_settings(name)) for name in self.methods},
        )


def run_folder(config: Mapping[str, Any]) -> Run:
    """Return the run that a configuration is for: `out`, by default ``runs/NAME``.

    Raises:
        ConfigError: if the name cannot be that of a folder.
    """
    name, out = config["name"], config["out"]
    if out is None and (name in (".", "..") or Path(name).name != name or not name):
        raise ConfigError(f"`name: {name}` cannot be a folder of `runs`. HINT: name the folder with `--out`.")
    return Run(Path(out or Path("runs") / name).expanduser())


def build_methods(configs: Mapping[str, Any]) -> dict[str, Method]:
    """Instantiate methods from their configurations, by name."""
    parser = ExperimentParser()
    parser.add_argument("--methods", type=dict[str, Method])
    parsed = parser.parse_object({"methods": copy.deepcopy(dict(configs))})
    methods: dict[str, Method] = parser.instantiate(parsed).methods
    return methods


def build_data(parser: ExperimentParser, config: Config) -> FederatedDataModule:
    """Instantiate the dataset of a configuration, and set it up."""
    data: FederatedDataModule = parser.instantiate(parser.parse_object(copy.deepcopy(config))).data
    data.prepare_data()
    data.setup()
    return data


def build(parser: ExperimentParser, command: str, config: Config) -> Experiment:
    """Make the object of one run, with its data, and check its sections against each other.

    Args:
        parser: an `ExperimentCLI`'s, for the same command.
        command: the command.
        config: a configuration without swept keys.

    Raises:
        ConfigError: if something does not fit; the message says what, and what to do.
    """
    from lpft.config.checks import check_experiment, check_settings, resolve_stacks

    try:
        parts = parser.instantiate(parser.parse_object(copy.deepcopy(config)))
        settings = {
            k: v for k, v in config.items() if k not in ("only", "shard", "fallback", "overwrite", "provenance")
        }
        first, _, second = getattr(parts, "shard", "0/1").partition("/")
        experiment = Experiment(
            command=command,
            config=settings,
            run=run_folder(config),
            seeds=parts.seeds,
            data=parts.data,
            network=parts.network,
            federation=parts.federation,
            personalization=parts.personalization,
            all_methods=parts.methods,
            devices=parts.trainer,
            tune=parts.tune,
            provenance=parts.provenance,
            selection=Selection(
                only=getattr(parts, "only", None),
                shard=(int(first), int(second)),
                overwrite=parts.overwrite,
                fallback=getattr(parts, "fallback", False),
            ),
        )
        settings["out"] = str(experiment.run.root)
        check_settings(experiment)
        experiment.data.augment = parts.augment
        experiment.data.prepare_data()
        experiment.data.setup()
        resolve_stacks(experiment)
        check_experiment(experiment)
    except ConfigError:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(str(error)) from error
    return experiment
