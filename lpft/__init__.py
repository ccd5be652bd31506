"""Personalize a federated model for every client without forgetting the rest of the world.

    import lpft

    results = lpft.run("configs/digits.yaml", out="runs/short", seeds=[0], federation={"rounds": 10})
    results.results                   # data frame: one row per seed and method
    results.matrix("lpft", seed=0)    # whose model (rows) on whose test set (columns), percent
    results.figure("tradeoff")

The functions do what the commands of the same name do, and continue what was interrupted. Heavy imports happen inside
of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpft.results import Results
    from lpft.types import Configuration

__version__ = "0.1.0"
__all__ = ["__version__", "federate", "load", "personalize", "report", "run", "tune"]


def run(config: Configuration, **settings: Any) -> Results:
    """Federate, tune, personalize and report one experiment; does only what is missing.

    Args:
        config: path of a YAML file, or its content as a dict; or a list of these, of which later ones override
            keys of earlier ones, like several ``--config`` of a command.
        **settings: sections and keys that override those of the file, at any depth: ``seeds=[0]``,
            ``federation={"rounds": 10}``, ``out="runs/mine"``, ``only=["lpft", "ft"]``, ``overwrite=True``;
            ``loggers=[...]`` takes Lightning loggers that you have made, too.

    Returns:
        All results in the run's folder.

    Raises:
        ConfigError: (a ValueError) if the experiment is not valid, or the folder holds results of other settings.
        RunFailed: (a RuntimeError) if a seed or a stack of clients has failed; everything else is done and kept.
    """
    return _do("run", config, settings)


def federate(config: Configuration, **settings: Any) -> Results:
    """Train the global model of every seed; see `run`."""
    return _do("federate", config, settings)


def tune(config: Configuration, **settings: Any) -> Results:
    """Run the trials of every tuned method, and choose by validation data; see `run`."""
    return _do("tune", config, settings)


def personalize(config: Configuration, **settings: Any) -> Results:
    """Personalize every client with every method, from the global models on disk; see `run`."""
    return _do("personalize", config, settings)


def report(folder: str | Path, loggers: Any = ()) -> Results:
    """Write tables, figures, page and TensorBoard events of a run from what is on disk.

    Args:
        folder: the run's folder, such as ``runs/digits``.
        loggers: who gets everything, too: a logger or a list, each a Lightning logger, its configuration or a file.

    Raises:
        FileNotFoundError: if the folder holds no results.
        ConfigError: (a ValueError) if a logger cannot be used.
    """
    from lpft.reporting.report import write_any_report

    if not loggers:
        write_any_report(folder)
        return load(folder)
    from lpft.runtime.session import heavy_work

    with heavy_work():
        from lpft.config.loggers import logger_writers, read_loggers, split_loggers

        configured, given = split_loggers(loggers)
        _, configs = read_loggers([str(folder), f"--loggers={json.dumps(configured)}"])
        write_any_report(folder, logger_writers(configs, given))
    return load(folder)


def load(folder: str | Path) -> Results:
    """Load the results of a run.

    Args:
        folder: the run's folder, such as ``runs/digits``; of a sweep, that of one of its runs, ``runs/X/points/Y``.

    Raises:
        FileNotFoundError: if the folder is not that of a run.
    """
    from lpft.results import Results

    return Results(folder)


def _do(command: str, config: Configuration, settings: Mapping[str, Any]) -> Results:
    from lpft.runtime.processes import refuse_missing_guard
    from lpft.runtime.session import heavy_work
    from lpft.runtime.signals import listening

    refuse_missing_guard(command)
    with heavy_work(), listening():
        from lpft import pipeline
        from lpft.config.loggers import split_loggers
        from lpft.config.study import arguments, open_study

        given: list[Any] = []
        if "loggers" in settings:
            configured, given = split_loggers(settings["loggers"])
            settings = {**settings, "loggers": configured}
        study = open_study(command, arguments(config, settings), given)
        getattr(pipeline, command)(study)
    return load(study.run.root)
