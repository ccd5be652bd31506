"""Tuning: the trials of an experiment as a run, and the experiment with the chosen methods."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.parser import Config
from lpft.config.schema import Experiment, instantiate
from lpft.config.sweep import put, trials, untuned_values
from lpft.methods.base import Method
from lpft.personalization.tuning import Trial, choose, evaluate, trial_name, tuned_name, write_trials
from lpft.storage.client_result import ClientResult
from lpft.storage.fingerprint import fingerprint
from lpft.storage.run import Run

Changes = list[dict[str, Any]]


def trials_by_method(experiment: Experiment) -> dict[str, Changes]:
    """Return the trials of each method, selected or not: changes of its settings; the first trial has none."""
    tune, config = experiment.tune, experiment.config
    return {
        name: trials(tune.grids[name], tune.trials, name, untuned_values(config, name))
        for name in experiment.all_methods
        if name in tune.grids
    }


def tuning_experiment(experiment: Experiment) -> Experiment:
    """Return the run whose methods are the trials, in the folder ``tuning``; it starts from the same global models.

    Trials are only for choosing: they write no models, and are tested at the end only. Clients that are held out from
    federated training have no part in them.
    """
    config, by_method = experiment.config, trials_by_method(experiment)
    methods = {
        trial_name(name, number): put(config["methods"][name], changes)
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
    """Return the experiment with the best trial of each tuned method beside the untuned ones.

    Raises:
        ConfigError: if trials are missing.
    """
    if not experiment.tuned_methods:
        return experiment
    chosen = {t.method: t.settings for t in read_trials(experiment)[1] if t.method in experiment.methods}
    names = {tuned_name(name): changes for name, changes in chosen.items()}
    methods = dict(experiment.config["methods"])
    methods |= {tuned_name(name): put(methods[name], changes) for name, changes in chosen.items()}
    tuned = _with_methods(experiment, {**experiment.config, "methods": methods}, experiment.run)
    selection = experiment.selection
    if selection.only is not None:
        selection = replace(selection, only=[*selection.only, *names])
    return replace(tuned, selection=selection, provenance=replace(experiment.provenance, tuned=names))


def read_trials(experiment: Experiment) -> tuple[list[Trial], list[Trial]]:
    """Return the trials, and the chosen one of each method; write tuning.csv.

    Methods that are not selected are included if their trials are complete.

    Raises:
        ConfigError: if trials are missing, or there are no validation data to choose by.
    """
    tuning = tuning_experiment(experiment)
    results: list[Trial] = []
    chosen: list[Trial] = []
    for name, by_number in trials_by_method(experiment).items():
        try:
            of_method = [_read_trial(experiment, tuning, name, number, c) for number, c in enumerate(by_number)]
        except ConfigError:
            if name in experiment.methods:
                raise
            continue
        results += of_method
        chosen.append(choose(of_method, experiment.tune.criterion))
    write_trials(experiment.run, results, chosen, experiment.tune.criterion)
    return results, chosen


def _read_trial(experiment: Experiment, tuning: Experiment, name: str, number: int, changes: dict[str, Any]) -> Trial:
    """Summarize a trial of one method; raise ConfigError if cells are missing, or were made with other settings."""
    trial, num_clients = trial_name(name, number), len(tuning.data.clients)
    made_with = fingerprint(tuning.method_settings(trial))
    cells: list[ClientResult] = []
    for seed in experiment.tune.seeds:
        on_disk = [cell for _, cell in tuning.run.cells(seed, trial) if isinstance(cell, ClientResult)]
        usable = [cell for cell in on_disk if cell.fingerprint == made_with]
        if len(usable) < num_clients:
            raise ConfigError(
                f"`tune` has not finished: {trial} of seed {seed} has {len(usable)} of {num_clients} clients."
                " HINT: run `lpft tune` first, or use `lpft run`."
            )
        cells += usable
    return evaluate(name, number, changes, cells)


def _with_methods(experiment: Experiment, config: Config, run: Run) -> Experiment:
    """Return the experiment with the methods of another configuration, in the folder of another run."""
    config = {**config, "out": str(run.root)}
    return replace(experiment, config=config, run=run, all_methods=instantiate(dict[str, Method], config["methods"]))
