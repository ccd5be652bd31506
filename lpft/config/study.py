"""From a command line, or a configuration and keywords, to the runs that they describe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from lpft.config.checks import check_experiment, check_settings, resolve_stacks
from lpft.config.files import ConfigError, config_errors
from lpft.config.loggers import logger_writers
from lpft.config.parser import Config, ExperimentCLI
from lpft.config.saved_settings import check_global_models, check_saved_settings, record_settings
from lpft.config.schema import Experiment, Selection, run_folder
from lpft.config.sweep import dotted, expand, points, put
from lpft.config.tuning import tuned_experiment, tuning_experiment
from lpft.data.datamodule import FederatedDataModule
from lpft.federated.federate import GlobalTask, is_done
from lpft.reporting.loggers import LoggerWriter
from lpft.storage.config_file import write_config
from lpft.storage.provenance import Provenance, software
from lpft.storage.run import Run
from lpft.types import Configuration

FLAGS = ("overwrite", "fallback")


@dataclass(frozen=True)
class Study:
    """A single run, or the runs of a sweep.

    Args:
        run: the folder of all runs.
        experiments: one for each run.
        loggers: write what happens, besides TensorBoard.
    """

    run: Run
    experiments: list[Experiment]
    loggers: list[LoggerWriter] = field(default_factory=list)

    def global_tasks(self) -> Iterator[GlobalTask]:
        """Yield the federated training of every run; runs that need the same global models share them."""
        return (experiment.global_task() for experiment in self.experiments)

    def reference_tasks(self) -> Iterator[GlobalTask]:
        """Yield the training of the references' models of every run; they share models in the same way."""
        return (task for experiment in self.experiments for task in experiment.reference_tasks().values())

    def remaining(self) -> Iterator[tuple[str, int, int]]:
        """Yield for every run and stage the number of its missing parts (seeds, stacks), and of all parts."""
        for experiment in self.experiments:
            tasks = [experiment.global_task(), *experiment.reference_tasks().values()]
            done = [is_done(task, seed) for task in tasks for seed in task.seeds]
            yield "federate", done.count(False), len(done)
            not_chosen = 0
            if experiment.tuned_methods:
                yield "tune", *tuning_experiment(experiment).personal_task().count()
                try:
                    experiment = tuned_experiment(experiment)
                except ConfigError:  # trials are missing
                    not_chosen = num_stacks(experiment) - len(experiment.personal_task().jobs())
            missing, total = experiment.personal_task().count()
            yield "personalize", missing + not_chosen, total + not_chosen


def open_study(command: str, args: Sequence[str] | Config, given: Iterable[Logger] = ()) -> Study:
    """Read an experiment, check all of it, and write down its settings in the folder of every run.

    Args:
        command: the command that it is for; ``plan`` writes nothing.
        args: a command line, or a configuration.
        given: loggers that the caller has made.

    Raises:
        ConfigError: if it is not valid, or the folder holds results of other settings.
    """
    cli = ExperimentCLI(command, args)
    with config_errors():
        resolved = cli.resolved()
        root, configs = expand(resolved)
        run = run_folder(root)
        problems: dict[str, str | None] = {}
        experiments = []
        for name, config in configs.items():
            settings = {**config, "out": str(run.point(name).root)} if name else config
            parts = cli.parser.build(settings) if resolved["sweep"] else cli.parts()
            experiments.append(_build(parts, command, settings, problems))
        if command == "tune" and not any(experiment.tune.grids for experiment in experiments):
            raise ConfigError("the experiment has no section `tune`. HINT: tune: {grids: {ft: {lr: [0.01, 0.001]}}}")
        experiments = _shards_in_turn(experiments)
        loggers = []
        if command in ("run", "federate", "personalize"):
            first = experiments[0]
            loggers = logger_writers(cli.loggers(), given, first.run.global_model(first.seeds[0]).parent)
        try:
            for experiment in experiments:
                _check_against_disk(experiment)
            if root["sweep"] and command != "plan":
                settings = {key: value for key, value in root.items() if key in experiments[0].config}
                record = Provenance(**{**root["provenance"], **software()})
                write_config(run, {**settings, "out": str(run.root)}, record)
        except OSError as error:
            raise ConfigError(
                f"`out: {run.root}` cannot be used: {error}. HINT: choose another folder with `--out`."
            ) from error
    return Study(run, experiments, loggers)


def read_datasets(args: Sequence[str] | Config) -> Iterator[tuple[Run, FederatedDataModule]]:
    """Yield the dataset of an experiment, or the different ones of a sweep, with the folder of its run.

    The other sections may be missing.

    Raises:
        ConfigError: if a dataset cannot be prepared.
    """
    cli = ExperimentCLI("prepare", args)
    config = cli.resolved()
    done: list[Config] = []
    with config_errors():
        run = run_folder(config)
        for name, values in (points(config["sweep"] or {}) or {"": {}}).items():
            changes = {key: value for key, value in values.items() if key.startswith("data.")}
            settings = put({"data": config["data"]}, changes)
            if settings not in done:
                done.append(settings)
                parts = cli.parser.build({**config, **settings})
                data = parts.data
                data.augment = parts.augment  # fails where data are no images
                _set_up(data)
                yield (run.point(name) if name else run), data


def _build(parts: Namespace, command: str, config: Config, problems: dict[str, str | None]) -> Experiment:
    """Make the object of one run, with its data, and check it.

    Args:
        parts: the sections as objects.
        command: the command that it is for.
        config: the configuration that they were made from, without swept keys.
        problems: see `resolve_stacks`.
    """
    selections = {field.name for field in fields(Selection)}
    if isinstance(config["network"], str):  # of a sweep or a dict; files and command lines are parsed to more
        config = {**config, "network": {"class_path": config["network"]}}
    experiment = Experiment(
        command=command,
        config={key: value for key, value in config.items() if key not in {*selections, "provenance"}},
        run=run_folder(config),
        seeds=parts.seeds,
        data=parts.data,
        network=parts.network,
        federation=parts.federation,
        personalization=parts.personalization,
        evaluation=parts.evaluation,
        all_methods=parts.methods,
        devices=parts.trainer,
        tune=parts.tune,
        provenance=Provenance(**config["provenance"]),  # not parsed again: swept classes would become objects
        selection=Selection(
            only=_names(parts.get("only")),
            shard=_shard(parts.get("shard", "0/1")),
            overwrite=parts.overwrite,
            fallback=parts.get("fallback", False),
        ),
    )
    experiment.config["out"] = str(experiment.run.root)
    check_settings(experiment)
    experiment.data.augment = parts.augment
    _set_up(experiment.data)
    resolve_stacks(experiment, problems)
    check_experiment(experiment)
    return experiment


def _set_up(data: FederatedDataModule) -> None:
    data.prepare_data()
    data.setup()


def _names(only: list[str] | str | None) -> list[str] | None:
    """Split names of methods at commas."""
    return [name.strip() for name in only.split(",") if name.strip()] if isinstance(only, str) else only


def _shard(text: str) -> tuple[int, int]:
    """Read I/N."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise ConfigError(f"`--shard {text}` is not I/N with 0 <= I < N. HINT: the second of four is `--shard 1/4`.")
    return int(numbers[1]), int(numbers[2])


def arguments(config: Configuration, overrides: Mapping[str, Any]) -> list[str] | Config:
    """Turn configurations and keywords into what `open_study` takes: later ones override keys of earlier ones.

    >>> arguments("digits.yaml", {"seeds": [0], "federation": {"rounds": 10}})
    ['--config=digits.yaml', '--seeds=[0]', '--federation.rounds=10']
    >>> arguments(["digits.yaml", {"seeds": [0]}, "smoke.yaml"], {})
    ['--config=digits.yaml', '--seeds=[0]', '--config=smoke.yaml']
    >>> arguments({"name": "x", "federation": {"rounds": 5, "batch_size": 8}}, {"federation": {"rounds": 10}})
    {'name': 'x', 'federation': {'rounds': 10, 'batch_size': 8}}
    """
    configs = config if isinstance(config, Sequence) and not isinstance(config, str) else [config]
    layers = [plain(layer) if isinstance(layer, Mapping) else layer for layer in (*configs, overrides)]
    settings = [layer for layer in layers if isinstance(layer, Mapping)]
    if len(settings) == len(layers):  # no file
        return reduce(_merged, settings, Config())
    return [word for layer in layers for word in _words(layer)]


def _words(layer: str | Path | Config) -> list[str]:
    """Return one configuration, a file or settings, as words of the command line."""
    if not isinstance(layer, Mapping):
        return [f"--config={layer}"]
    flags = [f"--{key}" for key in FLAGS if layer.get(key)]
    settings = {key: value for key, value in layer.items() if key not in FLAGS}
    return [*flags, *(f"--{key}={_text(value)}" for key, value in dotted(settings, into_classes=False))]


def plain(value: Any, key: str = "") -> Any:
    """Return settings as YAML can have them: text for paths and classes, lists, Python's own numbers.

    >>> plain({"seeds": range(2), "out": Path("runs/x"), "data": {"held_out": ("north", "south")}})
    {'seeds': [0, 1], 'out': 'runs/x', 'data': {'held_out': ['north', 'south']}}

    Raises:
        ConfigError: if a value is none of these, such as an object; it names the key.
    """
    if isinstance(value, Mapping):
        return {name: plain(part, f"{key}.{name}".removeprefix(".")) for name, part in value.items()}
    if hasattr(value, "tolist") and not isinstance(value, type):  # of NumPy, pandas or torch
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(part, key) for part in value]
    if isinstance(value, type) and value.__module__ != "__main__" and "<locals>" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    what = f"the class {value.__qualname__}" if isinstance(value, type) else f"of type {type(value).__name__}"
    raise ConfigError(
        f"`{key}` is {what}, which cannot be written to a YAML file. HINT: give numbers, text, lists and dicts, and a"
        " class of an importable file with its settings as {'class_path': 'my_file.Class', 'init_args': {...}}."
    )


def _merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    merged = dict(config)
    for key, value in overrides.items():
        is_section = isinstance(value, Mapping) and "class_path" not in value and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if is_section else value
    return merged


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shards_in_turn(experiments: list[Experiment]) -> list[Experiment]:
    """Start each run's shards where those of the previous run end, so that all shards have equally many stacks."""
    shifted = []
    first, count = experiments[0].selection.shard
    for experiment in experiments:
        selection = replace(experiment.selection, shard=(first % count, count))
        shifted.append(replace(experiment, selection=selection))
        first -= num_stacks(experiment)
    return shifted


def num_stacks(experiment: Experiment) -> int:
    """Return the number of the command's stacks, done or not, including those of methods that tuning will choose."""
    num_tuned = len(experiment.tuned_methods)
    if experiment.command == "tune":
        return len(tuning_experiment(experiment).personal_task().jobs()) if num_tuned else 0
    task = experiment.personal_task()
    return len(task.jobs()) + num_tuned * len(task.seeds) * len(task.stacks(task.clients_per_stack))


def _check_against_disk(experiment: Experiment) -> None:
    if experiment.tuned_methods:
        check_experiment(tuning_experiment(experiment))
    if experiment.command in ("tune", "personalize"):
        check_global_models(experiment)
    if experiment.command == "plan":
        check_saved_settings(experiment)
    else:
        record_settings(experiment)
