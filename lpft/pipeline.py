"""The pipeline: federate -> tune -> personalize -> report. Every stage computes only the results missing on disk.

The stages communicate through files. If a part of a stage fails, the stage completes all other parts and then raises
`RunFailed`. If a signal asks to stop, it completes the current round or stack and raises
`lpft.runtime.signals.Stopped`. In both cases the same call continues later, with the same results. The functions log
progress; they never exit the process.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from lpft.config.saved_settings import record_settings
from lpft.config.schema import Experiment
from lpft.config.study import Study
from lpft.config.tuning import read_trials, tuned_experiment, tuning_experiment
from lpft.federated.federate import GlobalTask, is_done, train_global_models
from lpft.personalization.jobs import PersonalTask
from lpft.personalization.pool import personalize as personalize_clients
from lpft.personalization.recommended import write_recommended
from lpft.personalization.starts import reuse_references
from lpft.reporting.live import LiveLogs, log_histories
from lpft.reporting.logs import Writer
from lpft.reporting.report import write_any_report, write_tables
from lpft.runtime.signals import Stopped
from lpft.storage.run import Run

log = logging.getLogger("lpft")


class RunFailed(RuntimeError):
    """Parts of a run failed; finished results are kept.

    Args:
        failures: one message per failure.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("\n".join(failures))
        self.failures = failures


def run(study: Study, report: Callable[[Run, Sequence[Writer]], None] = write_any_report) -> None:
    """Federate, tune, personalize and report every experiment of a study.

    Args:
        study: a single experiment, or the experiments of a sweep. If one fails, the others still run.
        report: writes the report of the study.

    Raises:
        RunFailed: if anything failed; everything that does not depend on it is finished and reported.
        Stopped: if a signal asked to stop.
    """
    with collect_failures() as failures:
        for experiment in study.experiments:
            with naming_point(experiment, failures):
                task = experiment.global_task()
                failures += train_and_log(task, study, study.global_tasks())
                failures += train_reference_models(experiment, study)
                trained_seeds = [seed for seed in experiment.seeds if is_done(task, seed)]
                if all(is_done(task, seed) for seed in experiment.global_seeds):
                    tuning_failures = tune_methods(experiment)
                    failures += tuning_failures
                    experiment = experiment if tuning_failures else tuned_experiment(experiment)
                failures += personalize_seeds(experiment, trained_seeds, study)
        try:
            report(study.run, study.loggers)
        except FileNotFoundError as error:  # no results
            if not failures:  # otherwise they explain why
                failures.append(str(error))


def federate(study: Study) -> None:
    """Train the global model of every seed, and the models of references."""
    with collect_failures() as failures:
        for experiment in study.experiments:
            with naming_point(experiment, failures):
                failures += train_and_log(experiment.global_task(), study, study.global_tasks())
                failures += train_reference_models(experiment, study)


def tune(study: Study) -> None:
    """Run the trials of every tuned method and choose the best by validation data."""
    with collect_failures() as failures:
        for experiment in study.experiments:
            with naming_point(experiment, failures):
                failures += tune_methods(experiment)


def personalize(study: Study) -> None:
    """Personalize every client with every method, including the tuned ones, and write the tables."""
    with collect_failures() as failures:
        for experiment in study.experiments:
            with naming_point(experiment, failures):
                failures += personalize_seeds(tuned_experiment(experiment), experiment.seeds, study)
            with contextlib.suppress(FileNotFoundError):  # no results yet
                write_tables(experiment.run)


def train_reference_models(experiment: Experiment, study: Study) -> list[str]:
    """Train the missing models of the selected references, such as one on pooled data; return the failures."""
    failures: list[str] = []
    for task in experiment.reference_tasks().values():
        failures += train_and_log(task, study, study.reference_tasks())
    return failures


def train_and_log(task: GlobalTask, study: Study, siblings: Iterable[GlobalTask]) -> list[str]:
    """Train the missing global models of a task and log their histories; return the failures.

    Args:
        task: the models to train.
        study: the study, whose loggers receive the histories.
        siblings: tasks of the study whose models are copied instead of trained if they are the same.
    """
    failures = train_global_models(task, LiveLogs(task.run, study.loggers), siblings)
    log_histories(task.run, task.seeds, study.loggers)
    return failures


def tune_methods(experiment: Experiment) -> list[str]:
    """Run the missing trials of the tuned methods; return the failures."""
    if not experiment.tuned_methods:
        return []
    tuning = tuning_experiment(experiment)
    for seed in tuning.seeds:
        tuning.run.copy_global_model(experiment.run, seed)
    failures = personalize_clients(tuning.personal_task(), tuning.selection.shard)
    if not failures and experiment.selection.shard == (0, 1):
        _, chosen = read_trials(experiment)
        for trial in chosen:
            log.info("tuned %s: %s", trial.method, trial.settings or "the untuned settings are best")
    return failures


def personalize_seeds(experiment: Experiment, seeds: list[int], study: Study) -> list[str]:
    """Compute the missing client results of some seeds; return the failures.

    Results of references are copied from other experiments of the study if they exist there. With `fallback`, also
    choose a model for each client.
    """
    record_settings(experiment)
    task = experiment.personal_task()
    task.seeds = seeds
    reuse_references(task, (other.personal_task() for other in study.experiments))
    with contextlib.closing(LiveLogs(experiment.run, study.loggers)) as logs:
        failures = personalize_clients(task, experiment.selection.shard, logs.stack)
    if experiment.selection.fallback and not failures and seeds == experiment.seeds:
        write_fallback(experiment, task)
    return failures


def write_fallback(experiment: Experiment, task: PersonalTask) -> None:
    """Write the model that each client should use: a personalized one, or the global model as the fallback."""
    if any(task.missing(job) for job in task.jobs()):
        log.warning("not all clients are finished: run the command again for `--fallback` to choose.")
        return
    methods = [name for name in experiment.methods if name not in experiment.references]
    chosen_methods = write_recommended(experiment.run, task.seeds, methods)
    num_global = sum(method is None for method in chosen_methods.values())
    log.info("--fallback: %d of %d clients keep the global model", num_global, len(chosen_methods))


@contextlib.contextmanager
def naming_point(experiment: Experiment, failures: list[str]) -> Iterator[None]:
    """In a sweep, add the name of the point to failures that are added within the block."""
    before = len(failures)
    try:
        yield
    finally:
        if experiment.provenance.point:
            failures[before:] = [f"{experiment.run.root.name}: {text}" for text in failures[before:]]


@contextlib.contextmanager
def collect_failures() -> Iterator[list[str]]:
    """Yield a list for failures; at the end raise `RunFailed` if it is not empty, or add it to a raised `Stopped`."""
    failures: list[str] = []
    try:
        yield failures
    except Stopped as stop:
        raise Stopped([*failures, *stop.failures]) from None
    if failures:
        raise RunFailed(failures)
