"""Personalize a federated model for every client without forgetting the rest of the world.

    import lpft

    results = lpft.run("configs/digits.yaml", out="runs/short", seeds=[0], federation={"rounds": 10})
    results.results                   # data frame: one row per seed and method
    results.matrix("lpft", seed=0)    # whose model (rows) on whose test set (columns), percent
    results.figure("tradeoff")

Every function does the same as the command of its name, and continues an interrupted run. Slow imports happen when a
function is called.
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
    """Federate, tune, personalize and report one experiment; compute only what is missing.

    Args:
        config: path of a YAML file, or its content as a dict; or a list of these, in which later ones override keys of
            earlier ones, like repeated ``--config`` of a command.
        **settings: sections and keys that override those of the file, at any depth: ``seeds=[0]``,
            ``federation={"rounds": 10}``, ``out="runs/mine"``, ``only=["lpft", "ft"]``, ``overwrite=True``.
            ``loggers=[...]`` also accepts Lightning logger objects.

    Returns:
        All results in the folder of the run.

    Raises:
        ConfigError: (a ValueError) if the experiment is not valid, or the folder contains results of other settings.
        RunFailed: (a RuntimeError) if a seed or a stack of clients failed; everything else is finished and kept.
    """
    return _run_stages("run", config, settings)


def federate(config: Configuration, **settings: Any) -> Results:
    """Train the global model of every seed; see `run`."""
    return _run_stages("federate", config, settings)


def tune(config: Configuration, **settings: Any) -> Results:
    """Run the trials of every tuned method, and choose the best by validation data; see `run`."""
    return _run_stages("tune", config, settings)


def personalize(config: Configuration, **settings: Any) -> Results:
    """Personalize every client with every method, from the global models on disk; see `run`."""
    return _run_stages("personalize", config, settings)


def report(folder: str | Path, loggers: Any = ()) -> Results:
    """Write tables, figures, page and TensorBoard events of a run from its results on disk.

    Args:
        folder: folder of the run, such as ``runs/digits``.
        loggers: other loggers that receive everything: one or a list of Lightning loggers, their configurations, or
            configuration files.

    Raises:
        FileNotFoundError: if the folder contains no results.
        ConfigError: (a ValueError) if a logger cannot be used.
    """
    from lpft.reporting.report import write_any_report

    if not loggers:
        write_any_report(folder)
        return load(folder)
    from lpft.runtime.session import training_session

    with training_session():
        from lpft.config.loggers import logger_writers, read_loggers, split_loggers

        configured, objects = split_loggers(loggers)
        _, configs = read_loggers([str(folder), f"--loggers={json.dumps(configured)}"])
        write_any_report(folder, logger_writers(configs, objects))
    return load(folder)


def load(folder: str | Path) -> Results:
    """Load the results of a run.

    Args:
        folder: folder of the run, such as ``runs/digits``; for a run of a sweep, ``runs/X/points/Y``.

    Raises:
        FileNotFoundError: if the folder is not the folder of a run.
    """
    from lpft.results import Results

    return Results(folder)


def _run_stages(command: str, config: Configuration, settings: Mapping[str, Any]) -> Results:
    """Run a stage of the pipeline, or all stages for ``run``."""
    from lpft.runtime.processes import refuse_missing_guard
    from lpft.runtime.session import training_session
    from lpft.runtime.signals import listening

    refuse_missing_guard(command)
    with training_session(), listening():
        from lpft import pipeline
        from lpft.config.loggers import split_loggers
        from lpft.config.study import arguments, open_study

        loggers: list[Any] = []
        if "loggers" in settings:
            configured, loggers = split_loggers(settings["loggers"])
            settings = {**settings, "loggers": configured}
        study = open_study(command, arguments(config, settings), loggers)
        getattr(pipeline, command)(study)
    return load(study.run.root)
