"""Builds the experiments of a command line, or of a configuration and keywords."""

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
from lpft.config.sweep import dotted, expand, merged, override, points
from lpft.config.tuning import tuned_experiment, tuning_experiment
from lpft.data.datamodule import FederatedDataModule
from lpft.federated.federate import GlobalTask, is_done
from lpft.reporting.loggers import LoggerWriter
from lpft.storage.config_file import write_config
from lpft.storage.provenance import Provenance, software
from lpft.storage.run import Run
from lpft.types import Configuration


@dataclass(frozen=True)
class Study:
    """A single experiment, or the experiments of a sweep.

    Args:
        run: the folder that contains all runs.
        experiments: one experiment per run.
        loggers: writers of loggers other than TensorBoard.
    """

    run: Run
    experiments: list[Experiment]
    loggers: list[LoggerWriter] = field(default_factory=list)

    def global_tasks(self) -> Iterator[GlobalTask]:
        """Yield the task of federated training of every run; runs with the same task share the global models."""
        return (experiment.global_task() for experiment in self.experiments)

    def reference_tasks(self) -> Iterator[GlobalTask]:
        """Yield the training tasks of the references of every run; runs with the same task share the models."""
        return (task for experiment in self.experiments for task in experiment.reference_tasks().values())

    def remaining(self) -> Iterator[tuple[str, int, int]]:
        """Yield for every run and stage: the stage, the number of missing parts (seeds or stacks), and of all parts."""
        for experiment in self.experiments:
            tasks = [experiment.global_task(), *experiment.reference_tasks().values()]
            done = [is_done(task, seed) for task in tasks for seed in task.seeds]
            yield "federate", done.count(False), len(done)
            num_untuned = 0
            if experiment.tuned_methods:
                yield "tune", *tuning_experiment(experiment).personal_task().count()
                try:
                    experiment = tuned_experiment(experiment)
                except ConfigError:  # trials are missing
                    num_untuned = num_stacks(experiment) - len(experiment.personal_task().jobs())
            missing, total = experiment.personal_task().count()
            yield "personalize", missing + num_untuned, total + num_untuned


def open_study(command: str, args: Sequence[str] | Config, loggers: Iterable[Logger] = ()) -> Study:
    """Build and check the experiments of a study, and write their settings to the folders of their runs.

    Args:
        command: name of the command; ``plan`` writes nothing.
        args: a command line, or a configuration.
        loggers: logger objects of the caller.

    Raises:
        ConfigError: if an experiment is not valid, or if its folder contains results of other settings.
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
        experiments = _balance_shards(experiments)
        writers = []
        if command in ("run", "federate", "personalize"):
            first = experiments[0]
            writers = logger_writers(cli.loggers(), loggers, first.run.global_model(first.seeds[0]).parent)
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
    return Study(run, experiments, writers)


def read_datasets(args: Sequence[str] | Config) -> Iterator[tuple[Run, FederatedDataModule]]:
    """Yield run and dataset of an experiment; for a sweep, every distinct dataset with its first run.

    Only the section `data` is required.

    Raises:
        ConfigError: if a dataset cannot be prepared.
    """
    cli = ExperimentCLI("prepare", args)
    config = cli.resolved()
    yielded: list[Config] = []
    with config_errors():
        run = run_folder(config)
        for name, values in (points(config["sweep"] or {}) or {"": {}}).items():
            changes = {key: value for key, value in values.items() if key.startswith("data.")}
            settings = override({"data": config["data"]}, changes)
            if settings not in yielded:
                yielded.append(settings)
                parts = cli.parser.build({**config, **settings})
                data = parts.data
                data.augment = parts.augment  # raises an error if the data are not images
                _set_up(data)
                yield (run.point(name) if name else run), data


def _build(parts: Namespace, command: str, config: Config, problems: dict[str, str | None]) -> Experiment:
    """Build the experiment of one run, set up its data, and check it.

    Args:
        parts: the sections as objects.
        command: name of the command.
        config: the configuration of the sections, without swept keys.
        problems: see `resolve_stacks`.
    """
    selections = {field.name for field in fields(Selection)}
    if isinstance(config["network"], str):  # in a sweep or a dict; files and command lines are parsed to a mapping
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
        provenance=Provenance(**config["provenance"]),  # not from `parts`, where swept classes are objects
        selection=Selection(
            only=_with_variants(_names(parts.get("only")), config),
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
    """Split the names of methods at commas."""
    return [name.strip() for name in only.split(",") if name.strip()] if isinstance(only, str) else only


def _with_variants(only: list[str] | None, config: Config) -> list[str] | None:
    """Replace the name of a swept method, which has no row itself, with the names of its variants."""
    if only is None:
        return None
    variants: dict[str, list[str]] = {}
    for name, variant in config["provenance"]["variants"].items():
        if name in config["methods"]:
            variants.setdefault(variant["method"], []).append(name)
    return [row for name in only for row in ([name] if name in config["methods"] else variants.get(name, [name]))]


def _shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise ConfigError(f"`--shard {text}` is not I/N with 0 <= I < N. HINT: the second of four is `--shard 1/4`.")
    return int(numbers[1]), int(numbers[2])


def arguments(config: Configuration, overrides: Mapping[str, Any]) -> list[str] | Config:
    """Return configurations and keywords as `args` of `open_study`; later ones override keys of earlier ones.

    >>> arguments("digits.yaml", {"seeds": [0], "federation": {"rounds": 10}})
    ['--config=digits.yaml', '--seeds=[0]', '--federation.rounds=10']
    >>> arguments(["digits.yaml", {"seeds": [0]}, "smoke.yaml"], {})
    ['--config=digits.yaml', '--seeds=[0]', '--config=smoke.yaml']
    >>> arguments({"name": "x", "federation": {"rounds": 5, "batch_size": 8}}, {"federation": {"rounds": 10}})
    {'name': 'x', 'federation': {'rounds': 10, 'batch_size': 8}}
    """
    configs = config if isinstance(config, Sequence) and not isinstance(config, str | bytes) else [config]
    for layer in configs:
        if not isinstance(layer, str | Path | Mapping):
            raise ConfigError(
                f"`{layer!r}` is not a configuration. HINT: give the path of a YAML file, its content as a dict, or a"
                " list of these."
            )
    layers = [plain(layer) if isinstance(layer, Mapping) else layer for layer in (*configs, overrides)]
    settings = [layer for layer in layers if isinstance(layer, Mapping)]
    if len(settings) == len(layers):  # no file
        return reduce(merged, settings, Config())
    return [argument for layer in layers for argument in _command_line(layer)]


def _command_line(layer: str | Path | Config) -> list[str]:
    """Return a configuration (a file or settings) as command-line arguments."""
    if not isinstance(layer, Mapping):
        return [f"--config={layer}"]
    return [f"--{key}={_text(value)}" for key, value in dotted(layer, into_classes=False)]


def plain(value: Any, key: str = "") -> Any:
    """Convert settings to YAML values: paths and classes to text, sequences to lists, NumPy numbers to Python's.

    >>> plain({"seeds": range(2), "out": Path("runs/x"), "data": {"held_out": ("north", "south")}})
    {'seeds': [0, 1], 'out': 'runs/x', 'data': {'held_out': ['north', 'south']}}

    Raises:
        ConfigError: if a value cannot be converted, such as an object; it names the key.
    """
    if isinstance(value, Mapping):
        return {name: plain(part, f"{key}.{name}".removeprefix(".")) for name, part in value.items()}
    if hasattr(value, "tolist") and not isinstance(value, type):  # NumPy, pandas or torch
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(part, key) for part in value]
    if isinstance(value, type) and value.__module__ != "__main__" and "<locals>" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    kind = f"the class {value.__qualname__}" if isinstance(value, type) else f"of type {type(value).__name__}"
    raise ConfigError(
        f"`{key}` is {kind}, which cannot be written to a YAML file. HINT: use numbers, text, lists and dicts; write a"
        " class of an importable file as {'class_path': 'my_file.Class', 'init_args': {...}}."
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _balance_shards(experiments: list[Experiment]) -> list[Experiment]:
    """Let each run's shards start where those of the previous run end, so that all shards have equally many stacks."""
    shifted = []
    first, count = experiments[0].selection.shard
    for experiment in experiments:
        selection = replace(experiment.selection, shard=(first % count, count))
        shifted.append(replace(experiment, selection=selection))
        first -= num_stacks(experiment)
    return shifted


def num_stacks(experiment: Experiment) -> int:
    """Return the number of the command's stacks, done or not, including those of tuned methods."""
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
