"""What a run's folder already holds, compared with the experiment's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.schema import Experiment
from lpft.models.weights import load_model
from lpft.storage.client_result import DamagedFileError
from lpft.storage.config_file import write_config
from lpft.storage.fingerprint import compare_settings, fingerprint
from lpft.storage.provenance import software


def claim(experiment: Experiment) -> None:
    """Compare the settings with those of all that is on disk, then write them down.

    Raises:
        ConfigError: if results were made with other settings, and are not to be overwritten; it names the keys.
        OSError: if the folder cannot be written to.
    """
    compare(experiment)
    run, command = experiment.run, experiment.command
    if command in ("run", "federate"):
        for seed in experiment.global_seeds:
            run.write_settings(seed, "global", experiment.global_settings)
    if command in ("run", "personalize"):
        for seed in experiment.seeds:
            for name in experiment.methods:
                run.write_settings(seed, name, experiment.method_settings(name))
    provenance = replace(
        experiment.provenance,
        **software(),
        device=experiment.devices.kind,
        clients=[client.name for client in experiment.data.clients],
        spec={key: int(value) for key, value in asdict(experiment.data.spec).items()},
        content_hash=experiment.data.arrays.content_hash,
        settings=fingerprint(experiment.shared_settings),
    )
    write_config(run, experiment.config, provenance)


def compare(experiment: Experiment) -> None:
    """Raise ConfigError if anything on disk was made with other settings, whatever its seed and method."""
    if experiment.selection.overwrite:
        return
    for seed, part, before in experiment.run.settings():
        now = experiment.global_settings
        if part != "global":
            method = experiment.config["methods"].get(part, before.get("method"))
            now = {**experiment.shared_settings, "method": method}
        _compare(experiment.run.method_file(seed, part, "settings.json").parent, before, now)


def check_global_models(experiment: Experiment) -> None:
    """Raise ConfigError if a global model that is needed is missing, damaged, or was made with other settings."""
    tuning = experiment.command == "tune" and experiment.tuned_methods
    for seed in experiment.tune.seeds if tuning else experiment.seeds:
        path = experiment.run.global_model(seed)
        hint = "HINT: train it first with `lpft federate`, or use `lpft run`."
        try:
            _, made_with = load_model(path)
        except FileNotFoundError as error:
            raise ConfigError(f"There is no global model {path}. {hint}") from error
        except DamagedFileError as error:
            raise ConfigError(f"The global model {path} is damaged ({error}). {hint}") from error
        if made_with != fingerprint(experiment.global_settings):
            for of_seed, part, before in experiment.run.settings():
                if (of_seed, part) == (seed, "global"):
                    _compare(path.parent, before, experiment.global_settings)
            raise ConfigError(f"The global model {path} was made with other settings. {hint}")


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    try:
        compare_settings(folder, before, now)
    except ValueError as error:
        raise ConfigError(str(error)) from None
