"""Tuning: the run of an experiment's trials, and the experiment with the tuned methods."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.parser import Config
from lpft.config.saved_settings import check_saved_settings
from lpft.config.schema import Experiment, instantiate
from lpft.config.sweep import override, trials, untuned_values
from lpft.methods.base import Method
from lpft.personalization.tuning import Trial, choose, evaluate, trial_name, tuned_name, write_trials
from lpft.storage.client_result import ClientResult
from lpft.storage.fingerprint import fingerprint
from lpft.storage.run import Run

Changes = list[dict[str, Any]]


def trials_by_method(experiment: Experiment) -> dict[str, Changes]:
    """Return the changed settings of every trial, by method, selected or not; the first trial has no changes."""
    tune, config = experiment.tune, experiment.config
    return {
        name: trials(tune.grids[name], tune.trials, name, untuned_values(config, name))
        for name in experiment.all_methods
        if name in tune.grids
    }


def tuning_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment whose methods are the trials, in the folder ``tuning``, with the same global models.

    Trials write no models and are tested only at the end. Clients held out from federated training are not tuned on.
    """
    config, by_method = experiment.config, trials_by_method(experiment)
    methods = {
        trial_name(name, number): override(config["methods"][name], changes)
        for name, changes_of_trials in by_method.items()
        for number, changes in enumerate(changes_of_trials)
    }
    config = {
        **config,
        "methods": methods,
        "personalization": {**config["personalization"], "eval_every": 0},
        "evaluation": {**config["evaluation"], "curve": 0},
    }
    personalization, evaluation = copy.copy(experiment.personalization), copy.copy(experiment.evaluation)
    personalization.save_models, personalization.eval_every, evaluation.curve = False, 0, 0
    selected = [trial_name(name, n) for name in experiment.methods for n in range(len(by_method.get(name, [])))]
    return replace(
        _with_methods(experiment, config, experiment.run.tuning),
        data=experiment.data.participants(),
        seeds=experiment.tune.seeds,
        personalization=personalization,
        evaluation=evaluation,
        tune=replace(experiment.tune, grids={}),
        selection=replace(experiment.selection, only=selected, fallback=False),
    )


def tuned_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment with the best trial of each tuned method in addition to the untuned methods.

    Raises:
        ConfigError: if trials are missing.
    """
    return _with_chosen(experiment, read_trials(experiment)[1]) if experiment.tuned_methods else experiment


def _with_chosen(experiment: Experiment, trials: Iterable[Trial]) -> Experiment:
    """Return the experiment with the selected methods among the chosen trials in addition to the untuned methods."""
    chosen = {trial.method: trial.settings for trial in trials if trial.method in experiment.methods}
    names = {tuned_name(name): changes for name, changes in chosen.items()}
    methods = dict(experiment.config["methods"])
    methods |= {tuned_name(name): override(methods[name], changes) for name, changes in chosen.items()}
    tuned = _with_methods(experiment, {**experiment.config, "methods": methods}, experiment.run)
    selection = experiment.selection
    if selection.only is not None:
        selection = replace(selection, only=[*selection.only, *names])
    return replace(tuned, selection=selection, provenance=replace(experiment.provenance, tuned=names))


def read_trials(experiment: Experiment) -> tuple[list[Trial], list[Trial]]:
    """Read all trials, choose the best one of each method, and write tuning.csv.

    Methods that are not selected are included if their trials are complete.

    Returns:
        All trials, and the chosen ones.

    Raises:
        ConfigError: if trials of a selected method are missing, if there are no validation data to choose by, or if
            tuned methods have results with other settings; then tuning.csv still describes those.
    """
    tuning = tuning_experiment(experiment)
    all_trials: list[Trial] = []
    chosen: list[Trial] = []
    for name, by_number in trials_by_method(experiment).items():
        try:
            method_trials = [_read_trial(experiment, tuning, name, number, c) for number, c in enumerate(by_number)]
        except ConfigError:
            if name in experiment.methods:
                raise
            continue
        all_trials += method_trials
        chosen.append(choose(method_trials, experiment.tune.criterion))
    check_saved_settings(_with_chosen(experiment, chosen))
    write_trials(experiment.run, all_trials, chosen, experiment.tune.criterion)
    return all_trials, chosen


def _read_trial(experiment: Experiment, tuning: Experiment, name: str, number: int, changes: dict[str, Any]) -> Trial:
    """Evaluate a trial; raise ConfigError if client results are missing or were made with other settings."""
    trial, num_clients = trial_name(name, number), len(tuning.data.clients)
    current = fingerprint(tuning.method_settings(trial))
    results: list[ClientResult] = []
    for seed in experiment.tune.seeds:
        on_disk = [result for _, result in tuning.run.client_results(seed, trial) if isinstance(result, ClientResult)]
        usable = [result for result in on_disk if result.fingerprint == current]
        if len(usable) < num_clients:
            raise ConfigError(
                f"`tune` has not finished: {trial} of seed {seed} has {len(usable)} of {num_clients} clients."
                " HINT: run `lpft tune` first, or use `lpft run`."
            )
        results += usable
    return evaluate(name, number, changes, results)


def _with_methods(experiment: Experiment, config: Config, run: Run) -> Experiment:
    """Return a copy of the experiment with the methods of a configuration, in the folder of a run."""
    config = {**config, "out": str(run.root)}
    return replace(experiment, config=config, run=run, all_methods=instantiate(dict[str, Method], config["methods"]))
