"""The pipeline: federate -> tune -> personalize -> report. Every stage does only what is missing on disk.

The stages meet in files. Each raises `RunFailed` after everything that could be done was done, and
`lpft.runtime.signals.Stopped` after the round or stack at hand if a signal asks to stop; either way the same call
continues later, with the same results. Nothing is printed but progress, and the process never exits.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from lpft.config.on_disk import claim
from lpft.config.schema import Experiment
from lpft.config.study import Study
from lpft.config.tuning import read_trials, tuned_experiment, tuning_experiment
from lpft.federated.federate import GlobalTask, is_done, train_global_models
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
    """Parts of a run have failed; what is finished is kept.

    Args:
        failures: what went wrong, one text each.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("\n".join(failures))
        self.failures = failures


def run(study: Study, report: Callable[[Run, Sequence[Writer]], None] = write_any_report) -> None:
    """Federate, tune, personalize and report. A run of a sweep that fails does not stop the others.

    Args:
        study: the runs.
        report: writes the report.

    Raises:
        RunFailed: if anything has failed; everything that does not depend on it was done and reported.
        Stopped: if a signal asked to stop.
    """
    with collected_failures() as failures:
        for experiment in study.experiments:
            task = experiment.global_task()
            failures += train_and_log(task, study, study.global_tasks())
            failures += train_reference_models(experiment, study)
            seeds = [seed for seed in experiment.seeds if is_done(task, seed)]
            if all(is_done(task, seed) for seed in experiment.global_seeds):
                tuning_failures = tune_methods(experiment)
                failures += tuning_failures
                experiment = experiment if tuning_failures else tuned_experiment(experiment)
            failures += personalize_seeds(experiment, seeds, study)
        try:
            report(study.run, study.loggers)
        except FileNotFoundError as error:
            if not failures:  # which say why there are no results
                failures.append(str(error))


def federate(study: Study) -> None:
    """Train the global model of every seed."""
    with collected_failures() as failures:
        for experiment in study.experiments:
            failures += train_and_log(experiment.global_task(), study, study.global_tasks())
            failures += train_reference_models(experiment, study)


def tune(study: Study) -> None:
    """Run the trials of every tuned method, and choose the best by validation data."""
    with collected_failures() as failures:
        for experiment in study.experiments:
            failures += tune_methods(experiment)


def personalize(study: Study) -> None:
    """Personalize every client with every method, the tuned ones included, and write the tables."""
    with collected_failures() as failures:
        for experiment in study.experiments:
            failures += personalize_seeds(tuned_experiment(experiment), experiment.seeds, study)
            with contextlib.suppress(FileNotFoundError):  # no results yet
                write_tables(experiment.run)


def train_reference_models(experiment: Experiment, study: Study) -> list[str]:
    """Train the models that selected methods need beside the global one, and that are missing; return what failed."""
    failures: list[str] = []
    for task in experiment.reference_tasks().values():
        failures += train_and_log(task, study, study.reference_tasks())
    return failures


def train_and_log(task: GlobalTask, study: Study, siblings: Iterable[GlobalTask]) -> list[str]:
    """Train global models that are missing, and log them; return what failed."""
    failures = train_global_models(task, LiveLogs(task.run, study.loggers), siblings)
    log_histories(task.run, task.seeds, study.loggers)
    return failures


def tune_methods(experiment: Experiment) -> list[str]:
    """Run the trials that are missing; return what failed."""
    if not experiment.tuned_methods:
        return []
    tuning = tuning_experiment(experiment)
    for seed in tuning.seeds:
        tuning.run.take_global_model(experiment.run, seed)
    failures = personalize_clients(tuning.personal_task(), tuning.selection.shard)
    if not failures and experiment.selection.shard == (0, 1):
        for trial in read_trials(experiment)[1]:
            log.info("tuned %s: %s", trial.method, trial.settings or "the untuned settings are best")
    return failures


def personalize_seeds(experiment: Experiment, seeds: list[int], study: Study) -> list[str]:
    """Compute the results of these seeds that are missing, and with `fallback` choose a model for each client.

    Results of references are copied from other runs of the study that have them already.
    """
    claim(experiment)
    task = experiment.personal_task()
    task.seeds = seeds
    reuse_references(task, (other.personal_task() for other in study.experiments))
    with contextlib.closing(LiveLogs(experiment.run, study.loggers)) as logs:
        failures = personalize_clients(task, experiment.selection.shard, logs.stack)
    if experiment.selection.fallback and not failures and seeds == experiment.seeds:
        if any(task.missing(job) for job in task.jobs()):
            log.warning("not all clients are finished: run the command again for `--fallback` to choose.")
        else:
            personalizing = [name for name in experiment.methods if name not in experiment.references]
            chosen = write_recommended(experiment.run, seeds, personalizing)
            kept = sum(method is None for method in chosen.values())
            log.info("--fallback: %d of %d clients keep the global model", kept, len(chosen))
    return failures


@contextlib.contextmanager
def collected_failures() -> Iterator[list[str]]:
    """Give a list to add failures to, and raise `RunFailed` in the end if there are any; `Stopped` gets them too."""
    failures: list[str] = []
    try:
        yield failures
    except Stopped as stop:
        raise Stopped([*failures, *stop.failures]) from None
    if failures:
        raise RunFailed(failures)
