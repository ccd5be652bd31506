"""One experiment: the sections of its YAML put together, and the checks across them."""

from __future__ import annotations

import json
import platform
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import lpft
from lpft.clients.stack import check_elementwise
from lpft.clients.stack_size import clients_per_stack
from lpft.data.augment import Augment
from lpft.data.base import FederatedDataModule
from lpft.federated.cohort import cohort_size
from lpft.federated.federate import GlobalTask, build_network, is_done
from lpft.federated.settings import Federation
from lpft.methods.base import Method, check_phases
from lpft.models.base import BodyHeadNet, NetFactory
from lpft.models.weights import checksum, load_model
from lpft.parser import ExperimentParser
from lpft.personalization.personalize import PersonalTask
from lpft.personalization.settings import Personalization
from lpft.personalization.tuning import Trial, Tuning, choose, evaluate, trial_name, tuned_name, write_trials
from lpft.reporting.judging import load_verdicts
from lpft.runtime.devices import Devices
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult, DamagedFileError
from lpft.storage.fingerprint import compare_settings, fingerprint
from lpft.storage.run import Run, check_client_names, check_method_names
from lpft.variants import alternatives, expand_methods, get, points, put, trials

UNTUNED: dict[str, Any] = {"grids": {}}
SELECTIONS = ("only", "shard", "fallback")
NOT_IN_CONFIG = ("config", "print_config", "overwrite", "lpft", *SELECTIONS)


class ExperimentCLI(LightningCLI):
    """LightningCLI's `data` and `trainer`, no `model`, and the sections of an experiment.

    Args:
        command: which of the experiment commands it is.
        args: its command line, or a mapping that a former one was resolved to.
    """

    def __init__(self, command: str, args: list[str] | Mapping[str, Any]) -> None:
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

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add LightningCLI's sections, less `model`; of the Trainer's settings those that fit."""
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)
        parser.add_class_arguments(Devices, "trainer")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of an experiment, and the selections of a command."""
        parser.add_argument("--name", type=str, default="experiment", help="name of the experiment")
        parser.add_argument("--out", type=str | None, default=None, help="folder of the run (default: runs/NAME)")
        parser.add_argument("--seeds", type=list[int], default=[0], help="one run each")
        parser.add_argument(
            "--augment",
            type=Augment | None,
            default=None,
            sub_configs=True,
            help="what training does to the images, such as lpft.data.augment.FlipCrop",
        )
        needed = self.command != "prepare"
        parser.add_argument("--network", type=NetFactory, required=needed, sub_configs=True, help="builds the network")
        parser.add_class_arguments(Federation, "federation", sub_configs=True)
        parser.add_class_arguments(Personalization, "personalization", sub_configs=True)
        parser.add_argument(
            "--methods", type=dict[str, Method], required=needed, sub_configs=True, help="rows of the table"
        )
        parser.add_argument(
            "--sweep",
            type=dict[str, list[Any]] | None,
            default=None,
            help="keys of this file, each with a list of values",
        )
        parser.add_argument(
            "--verdicts",
            type=list[str],
            default=[],
            help="functions that judge the results, such as lpft.paper.verdicts.overfitting",
        )
        parser.add_class_arguments(Tuning, "tune", sub_configs=True)
        parser.add_argument(
            "--lpft", type=dict[str, Any] | None, default=None, help="ignored; a run's config.yaml has it"
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="replace results that were made with other settings"
        )
        if self.command != "prepare":
            parser.add_argument("--only", type=str | None, default=None, help="methods to run, such as lpft,ft")
        if self.command in ("run", "personalize"):
            parser.add_argument(
                "--fallback",
                action="store_true",
                help="write the model each client should use: the best by its validation data, or the global one",
            )
        if self.command in ("tune", "personalize"):
            parser.add_argument(
                "--shard", type=str, default="0/1", help="I/N: every N-th stack, from the I-th (from 0)"
            )

    def instantiate_classes(self) -> None:
        """Build the experiment; what does not fit ends with exit code 2 and no traceback."""
        try:
            if self.command == "prepare":
                self.datasets = list(self._datasets())
                return
            config = self._expanded(self._plain_config())
            self.experiment = Experiment(self.command, config, self.parser.instantiate(self.config))
        except (ValueError, OSError, ImportError) as error:
            self.parser.error(str(error))

    def _datasets(self) -> Iterator[tuple[Run, FederatedDataModule]]:
        """Yield the dataset, or the different ones of a sweep, each set up, with the folder of its run."""
        config = self._plain_config()
        run, seen = run_of(self.config), []
        for name, values in (points(config["sweep"] or {}) or {"": {}}).items():
            settings = {"data": config["data"]}
            for key, value in values.items():
                settings = put(settings, key, value) if key.startswith("data.") else settings
            if settings in seen:
                continue
            seen.append(settings)
            data: FederatedDataModule = self.parser.instantiate(self.parser.parse_object({**config, **settings})).data
            data.prepare_data()
            data.setup()
            yield (run.point(name) if name else run), data

    def _expanded(self, config: dict[str, Any]) -> dict[str, Any]:
        """Replace swept methods by their variants; what else is swept stays for `Experiment.points`."""
        sweep = config["sweep"] or {}
        methods, variants = expand_methods(config["methods"], sweep)
        if variants:
            rest = {key: values for key, values in sweep.items() if not key.startswith("methods.")}
            note = {**(config["lpft"] or {}), "variants": variants}
            self.config = self.parser.parse_object({**config, "methods": methods, "sweep": rest or None, "lpft": note})
            config = self._plain_config()
        return config

    def _plain_config(self) -> dict[str, Any]:
        dumped: dict[str, Any] = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        return dumped


DESCRIPTIONS = {
    "run": "Federate, personalize by every method, report, for every seed; does only what is missing.",
    "federate": "Train the global model of each seed.",
    "tune": "Try each method's grid, and choose by validation data.",
    "personalize": "Fine-tune every client with every method and fill the accuracy matrix.",
    "prepare": "Check a dataset and convert it once into the array cache.",
    "plan": "Count the work of every stage and what of it is missing; for scripts.",
}


class Experiment:
    """The sections of an experiment, checked against each other and against what is on disk.

    Args:
        command: the command it is for.
        config: the resolved configuration, JSON-serialisable.
        parts: the instantiated configuration.

    Raises:
        ValueError, FileNotFoundError: if something does not fit; the message says what, and what to do.
    """

    def __init__(self, command: str, config: Mapping[str, Any], parts: Any) -> None:
        self.command = command
        self.overwrite: bool = parts.overwrite
        self.fallback: bool = getattr(parts, "fallback", False)
        self.config = {key: value for key, value in config.items() if key not in NOT_IN_CONFIG}
        self.selections = {key: config[key] for key in SELECTIONS if key in config}
        self.notes: dict[str, Any] = config["lpft"] or {}
        self.name: str = parts.name
        self.run = run_of(parts)
        self.seeds = _checked_seeds(parts.seeds)
        self.data: FederatedDataModule = parts.data
        self.data.augment = parts.augment
        self.network: NetFactory = parts.network
        self.federation: Federation = parts.federation
        self.personalization: Personalization = parts.personalization
        self.all_methods: dict[str, Method] = parts.methods
        self.devices: Devices = parts.trainer
        if command not in ("plan", "prepare"):  # which use none
            self.devices.check()
        self.sweep: dict[str, list[Any]] = parts.sweep or {}
        self.tune: Tuning = parts.tune
        self.methods = self._selected(getattr(parts, "only", None))
        self.shard = _checked_shard(getattr(parts, "shard", "0/1"))
        self.siblings: list[Experiment] = []  # of a point: all points of its sweep
        self._check_methods()
        self._check_grids()
        self.tune.seeds = _checked_seeds(self.tune.seeds, "tune.seeds")
        load_verdicts(self.config)
        if self.fallback and not self.personalization.save_models:
            raise ValueError("`--fallback` needs the models. HINT: set `--personalization.save_models true`.")
        self.data.prepare_data()
        self.data.setup()
        check_client_names(client.name for client in self.data.clients)
        if self.tune.grids and not any(len(client.val) for client in self.data.clients):
            raise ValueError(
                "`tune` chooses by validation data, but the clients have none."
                " HINT: give them validation samples, or remove `tune`."
            )
        self.config["out"] = str(self.run.root)
        self._resolve_stacks()
        for name, method in self.methods.items():
            check_phases(name, method, self.net, self.personalization.epochs)
        self._check_optimizers()

    # Tasks

    @property
    def global_seeds(self) -> list[int]:
        """The seeds that have a global model: those of the experiment, and those of tuning if there are trials."""
        return sorted({*self.seeds, *self.tune.seeds}) if self.trials else self.seeds

    def global_task(self) -> GlobalTask:
        """Return the federated stage."""
        return GlobalTask(
            self.run,
            self.global_seeds,
            self.data,
            self.network,
            self.federation,
            self.devices,
            self.config["federation"]["clients_per_stack"],
            fingerprint(self.global_settings),
            recipe=(rebuild_global, (self.command, self._settings())),
        )

    def personal_task(self) -> PersonalTask:
        """Return the personalization stage."""
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
            recipe=(rebuild_personal, (self.command, self._settings())),
        )

    # Other experiments that follow from this one

    @cached_property
    def points(self) -> list[Experiment]:
        """The points of the sweep, each a run in a folder of its own; without one, this experiment alone."""
        swept = points(self.sweep)
        if not swept:
            return [self]
        experiments = []
        for name, values in swept.items():
            settings = {**self._settings(), "out": str(self.run.point(name).root), "sweep": None}
            for key, value in values.items():
                settings = put(settings, key, value)
            settings["lpft"] = {**self.notes, "point": values}
            experiments.append(rebuild(self.command, settings))
        first, count = self.shard
        for experiment in experiments:  # the next point goes on where the last one has ended, so that shards are even
            experiment.siblings = experiments
            experiment.shard = (first % count, count)
            first -= experiment.num_jobs
        return experiments

    @cached_property
    def trials(self) -> dict[str, list[dict[str, Any]]]:
        """What is tried for each selected method: changes of its settings, the first of which is none at all."""
        return {name: changes for name, changes in self.all_trials.items() if name in self.methods}

    @cached_property
    def all_trials(self) -> dict[str, list[dict[str, Any]]]:
        """The trials of all methods, in their order, selected or not."""
        grids = self.tune.grids
        return {
            name: trials(grids[name], self.tune.trials, name, self._untuned(name))
            for name in self.all_methods
            if name in grids
        }

    @cached_property
    def tuning(self) -> Experiment:
        """The experiment whose methods are the trials; it starts from the same global models.

        Trials are only for choosing: they write no models, and are tested at the end only.
        """
        methods = {}
        for name, changes in self.all_trials.items():
            for number, values in enumerate(changes):
                changed = {"methods": {name: self.config["methods"][name]}}
                for key, value in values.items():
                    changed = put(changed, f"methods.{name}.{key}", value)
                methods[trial_name(name, number)] = changed["methods"][name]
        selected = [trial_name(name, number) for name, changes in self.trials.items() for number in range(len(changes))]
        settings = self._settings() | {
            "methods": methods,
            "seeds": self.tune.seeds,
            "out": str(self.run.tuning.root),
            "tune": UNTUNED,
            "only": ",".join(selected),
            "personalization": {**self.config["personalization"], "save_models": False, "eval_every": 0},
        }
        if "fallback" in settings:
            settings["fallback"] = False
        return rebuild(self.command, settings)

    def tuned(self) -> Experiment:
        """Return the experiment with the best trial of each tuned method beside the untuned ones.

        Raises:
            ValueError: if trials are missing.
        """
        if not self.trials:
            return self
        chosen = [trial for trial in self.read_trials()[1] if trial.method in self.methods]
        methods = dict(self.config["methods"])
        for trial in chosen:
            changed = {"methods": {trial.method: methods[trial.method]}}
            for key, value in trial.settings.items():
                changed = put(changed, f"methods.{trial.method}.{key}", value)
            methods[tuned_name(trial.method)] = changed["methods"][trial.method]
        only = self.selections.get("only")
        if only:
            only = ",".join([only, *(tuned_name(trial.method) for trial in chosen)])
        note = {**self.notes, "tuned": {tuned_name(trial.method): trial.settings for trial in chosen}}
        settings = {**self._settings(), "methods": methods, "tune": UNTUNED, "lpft": note}
        return rebuild(self.command, {**settings, "only": only} if only else settings)

    @property
    def num_jobs(self) -> int:
        """How many stacks the command has to do, done or not; with those of the methods that tuning will choose."""
        if self.command == "tune":
            return len(self.tuning.personal_task().jobs()) if self.trials else 0
        return len(self.personal_task().jobs()) + self._num_jobs_of_tuned

    @property
    def _num_jobs_of_tuned(self) -> int:
        return len(self.trials) * len(self.personal_task().jobs()) // len(self.methods)

    def work(self) -> Iterator[tuple[str, int, int]]:
        """Yield for every stage how many of its parts (seeds, stacks) are missing, and how many there are."""
        task = self.global_task()
        yield "federate", sum(not is_done(task, seed) for seed in task.seeds), len(task.seeds)
        tuned, chosen = self, 0
        if self.trials:
            yield "tune", *self.tuning.personal_task().count()
            try:
                tuned = self.tuned()
            except ValueError:  # trials are missing
                chosen = self._num_jobs_of_tuned
        missing, total = tuned.personal_task().count()
        yield "personalize", missing + chosen, total + chosen

    def read_trials(self) -> tuple[list[Trial], list[Trial]]:
        """Return the trials, and the chosen one of each method; write tuning.csv.

        Of methods that are not selected it takes those whose trials are complete.

        Raises:
            ValueError: if trials are missing, or there are no validation data to choose by.
        """
        results, chosen = [], []
        for name, changes in self.all_trials.items():
            try:
                of_method = [self._read_trial(name, number, values) for number, values in enumerate(changes)]
            except ValueError:
                if name in self.methods:
                    raise
                continue
            results += of_method
            chosen.append(choose(of_method, self.tune.criterion))
        write_trials(self.run, results, chosen, self.tune.criterion)
        return results, chosen

    def _read_trial(self, name: str, number: int, values: dict[str, Any]) -> Trial:
        """Sum up a trial of one method; raise ValueError if cells are missing, or were made with other settings."""
        trial, cells = trial_name(name, number), []
        made_with = fingerprint(self.tuning.method_settings(trial))
        for seed in self.tune.seeds:
            on_disk = [cell for _, cell in self.run.tuning.cells(seed, trial) if isinstance(cell, ClientResult)]
            found = [cell for cell in on_disk if cell.fingerprint == made_with]
            if len(found) < len(self.data.clients):
                raise ValueError(
                    f"`tune` has not finished: {trial} of seed {seed} has {len(found)} of"
                    f" {len(self.data.clients)} clients. HINT: run `lpft tune` first, or use `lpft run`."
                )
            cells += found
        return evaluate(name, number, values, cells)

    def _settings(self) -> dict[str, Any]:
        """Return all settings, from which `rebuild` makes the same experiment."""
        return {**self.config, **self.selections, "overwrite": self.overwrite, "lpft": self.notes or None}

    # What results depend on

    @cached_property
    def global_settings(self) -> dict[str, Any]:
        """All that the global models depend on."""
        network, federation = dict(self.config["network"]), dict(self.config["federation"])
        if self.net.weights_hash is not None:  # the file's content counts, not where it lies
            network["init_args"] = {**network["init_args"], "weights": self.net.weights_hash}
        del federation["init_map"]  # what it makes of the file counts
        if federation["init"] is None:
            del federation["init_head"]
        else:
            federation["init"] = checksum(self.federation.read_init(self.net))
        augment = {} if self.config["augment"] is None else {"augment": self.config["augment"]}
        return {
            "data": {
                "content": self.data.content_hash,
                "num_classes": self.data.spec.num_classes,
                "mean": list(self.data.mean),
                "std": list(self.data.std),
            },
            **augment,
            "network": network,
            "federation": federation,
            "trainer": {"precision": self.devices.precision},
        }

    @cached_property
    def shared_settings(self) -> dict[str, Any]:
        """All that the results of every method depend on."""
        settings = {key: value for key, value in self.config["personalization"].items() if key != "save_models"}
        return {**self.global_settings, "personalization": settings}

    def method_settings(self, name: str) -> dict[str, Any]:
        """All that the results of one method depend on."""
        return {**self.shared_settings, "method": self.config["methods"][name]}

    @cached_property
    def net(self) -> BodyHeadNet:
        """The network, with values that do not matter."""
        return build_network(self.network, self.data, self.devices, seed=0)

    # The run folder

    def settle(self) -> None:
        """Compare the settings with those of all that is on disk, then write them down.

        Raises:
            ValueError: if results were made with other settings, and are not to be overwritten; it names the keys.
        """
        self.compare()
        for seed in self.global_seeds:
            if self.command in ("run", "federate"):
                self.run.write_settings(seed, "global", self.global_settings)
        for seed in self.seeds:
            if self.command in ("run", "personalize"):
                for name in self.methods:
                    self.run.write_settings(seed, name, self.method_settings(name))
        self.write_config()

    def compare(self) -> None:
        """Raise ValueError if anything on disk was made with other settings, of whatever seed and method."""
        if self.overwrite:
            return
        for seed, part, before in self.run.settings():
            now = self.global_settings
            if part != "global":
                now = {**self.shared_settings, "method": self.config["methods"].get(part, before.get("method"))}
            compare_settings(self.run.method_file(seed, part, "settings.json").parent, before, now)

    def check_global_models(self) -> None:
        """Raise ValueError if a global model that is to be personalized is missing, damaged, or was made otherwise."""
        for seed in self.tune.seeds if self.command == "tune" and self.trials else self.seeds:
            path = self.run.global_model(seed)
            hint = "HINT: train it first with `lpft federate`, or use `lpft run`."
            try:
                _, made_with = load_model(path)
            except FileNotFoundError as error:
                raise ValueError(f"There is no global model {path}. {hint}") from error
            except DamagedFileError as error:
                raise ValueError(f"The global model {path} is damaged ({error}). {hint}") from error
            if made_with != fingerprint(self.global_settings):
                for of_seed, part, before in self.run.settings():
                    if (of_seed, part) == (seed, "global"):
                        compare_settings(path.parent, before, self.global_settings)
                raise ValueError(f"The global model {path} was made with other settings. {hint}")

    def write_config(self) -> None:
        """Write config.yaml; seeds and methods of earlier commands stay in it as far as they have results."""
        before = read_config(self.run)
        config = dict(self.config)
        on_disk = self.run.seeds()
        config["seeds"] = sorted({*(seed for seed in before.get("seeds", []) if seed in on_disk), *self.seeds})
        kept = {name for seed in on_disk for name in self.run.methods(seed)}
        earlier = {name: method for name, method in before.get("methods", {}).items() if name in kept}
        config["methods"] = {**config["methods"], **earlier, **config["methods"]}
        notes = {**(before.get("lpft") or {}), **self.notes}
        if "tuned" in self.notes:  # what was tuned stays in the file
            config["tune"] = before.get("tune", config["tune"])
            tuned = {**(before.get("lpft") or {}).get("tuned", {}), **self.notes["tuned"]}
            notes["tuned"] = {name: values for name, values in tuned.items() if name in config["methods"]}
        config["lpft"] = {**versions(), "device": self.devices.kind} | {
            "clients": [client.name for client in self.data.clients],
            "content_hash": self.data.content_hash,
            "settings": fingerprint(self.shared_settings),
        }
        config["lpft"] |= notes | config["lpft"]
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        if not self.run.config.exists() or self.run.config.read_text(encoding="utf-8") != text:
            write_atomically(self.run.config, text)

    def _resolve_stacks(self) -> None:
        before = {} if self.overwrite else read_config(self.run)
        count = sum(len(client.train) > 0 for client in self.data.clients)
        cohorts = {"federation": cohort_size(count, self.federation.participation), "personalization": count}
        for section, cohort in cohorts.items():
            settings = self.config[section] = dict(self.config[section])
            setting = settings["clients_per_stack"]
            if setting == "auto":
                setting = before.get(section, {}).get("clients_per_stack", "auto")
            settings["clients_per_stack"] = clients_per_stack(
                setting, self.net, self.data.spec, settings["batch_size"], cohort, self.devices.kind
            )

    # Checks

    def _check_grids(self) -> None:
        unknown = [name for name in self.tune.grids if name not in self.all_methods]
        if unknown:
            raise ValueError(
                f"`tune.grids.{unknown[0]}` is no method. HINT: the methods are {', '.join(self.all_methods)}."
            )
        for name, grid in self.tune.grids.items():
            size = len(alternatives(grid, self._untuned(name)))
            if size < self.tune.trials - 1:
                raise ValueError(
                    f"`tune.grids.{name}` has {size} combinations beside the untuned settings, too few for"
                    f" `tune.trials={self.tune.trials}`: every method has the same number of trials."
                    f" HINT: give it more values, or set `--tune.trials {size + 1}`."
                )

    def _untuned(self, name: str) -> dict[str, Any]:
        """Return a method's own values of the settings in its grid."""
        methods = {"methods": self.config["methods"]}
        return {key: get(methods, f"methods.{name}.{key}") for key in self.tune.grids[name]}

    def _check_optimizers(self) -> None:
        """Build both optimizers once, so that what does not work ends before any training."""
        net = self.net
        parts = [{"name": name, "params": getattr(net, name).parameters()} for name in ("head", "body")]
        for section, make, params in (
            ("federation", self.federation.optimizer, net.parameters()),
            ("personalization", self.personalization.optimizer, parts),
        ):
            try:
                optimizer = make(params)
                check_elementwise(optimizer, self.config[section]["clients_per_stack"])
            except (ValueError, TypeError) as error:
                raise ValueError(f"`{section}.optimizer` cannot be used: {error}") from error
            if not optimizer.param_groups[0]["lr"] > 0:
                raise ValueError(f"`{section}.optimizer` has learning rate 0. HINT: give it one above 0.")

    def _selected(self, only: str | None) -> dict[str, Method]:
        if only is None:
            return self.all_methods
        names = [name.strip() for name in only.split(",") if name.strip()]
        unknown = [name for name in names if name not in self.all_methods]
        if unknown or not names:
            raise ValueError(
                f"`--only {only}` names no method{' ' * bool(unknown)}{', '.join(map(repr, unknown))}."
                f" HINT: the methods of this experiment are {', '.join(self.all_methods)}."
            )
        return {name: method for name, method in self.all_methods.items() if name in names}

    def _check_methods(self) -> None:
        if not self.all_methods:
            raise ValueError(
                "`methods` is empty. HINT: name at least one, such as {ft: {class_path: lpft.methods.ft.FT}}."
            )
        check_method_names(self.all_methods)
        for name, method in self.all_methods.items():
            try:
                method.phases(self.personalization.epochs)
            except ValueError as error:
                raise ValueError(f"Method `{name}`: {error}") from error


def rebuild(command: str, config: Mapping[str, Any]) -> Experiment:
    """Make an experiment from the configuration of another process."""
    return ExperimentCLI(command, config).experiment


def rebuild_global(command: str, config: Mapping[str, Any]) -> GlobalTask:
    """Make the federated stage from the configuration of another process."""
    return rebuild(command, config).global_task()


def rebuild_personal(command: str, config: Mapping[str, Any]) -> PersonalTask:
    """Make the personalization stage from the configuration of another process."""
    return rebuild(command, config).personal_task()


def read_config(run: Run) -> dict[str, Any]:
    """Return a run's configuration; empty if there is none."""
    if not run.config.exists():
        return {}
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(
            f"{run.config} is not the configuration of a run. HINT: move it away, or choose another `--out`."
        )
    return config


def versions() -> dict[str, Any]:
    """Return what else a result may depend on: versions of the software."""
    return {
        "version": lpft.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": lightning.__version__,
        "git": _git_state(),
    }


def _git_state() -> str | None:
    """Return commit and state of the checkout that the package is imported from; None outside of one."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        inside = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=folder, capture_output=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if inside.returncode == 0 else None


def _default_folder(name: str) -> Path:
    if name in (".", "..") or Path(name).name != name or not name:
        raise ValueError(f"`name: {name}` cannot be a folder of `runs`. HINT: name the folder with `--out`.")
    return Path("runs") / name


def _checked_seeds(seeds: list[int], key: str = "seeds") -> list[int]:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"`{key}={seeds}` must be different numbers from 0 on. HINT: [0, 1, 2].")
    return seeds


def _checked_shard(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if first.isdigit() and second.isdigit() and int(first) < int(second):
        return int(first), int(second)
    raise ValueError(f"`--shard {text}` is not I/N with 0 <= I < N. HINT: the second of four is `--shard 1/4`.")


def run_of(parts: Any) -> Run:
    """Return the run that a parsed configuration is for."""
    return Run(Path(parts.out or _default_folder(parts.name)).expanduser())


def load_datasets(args: list[str]) -> list[tuple[Run, FederatedDataModule]]:
    """Read the dataset of an experiment, or those of a sweep, from the command line; the rest of it may be missing.

    Raises:
        SystemExit: with code 2 if they cannot be prepared.
    """
    return ExperimentCLI("prepare", args).datasets


def load(command: str, args: list[str]) -> Experiment:
    """Read an experiment from the command line.

    Raises:
        SystemExit: with code 2 if it is not valid.
    """
    cli = ExperimentCLI(command, args)
    try:
        if cli.experiment.sweep and command != "plan":
            cli.experiment.write_config()
        for point in cli.experiment.points:
            if command in ("tune", "personalize"):
                point.check_global_models()
            if command == "plan":
                point.compare()
            else:
                point.settle()
    except ValueError as error:
        cli.parser.error(str(error))
    except OSError as error:
        cli.parser.error(
            f"`out: {cli.experiment.run.root}` cannot be used: {error}. HINT: choose another folder with `--out`."
        )
    return cli.experiment
