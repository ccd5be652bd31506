"""The settings saved in the folder of a run: record them, and check that results on disk were made with the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.schema import Experiment
from lpft.config.sweep import dotted
from lpft.federated.federate import is_done
from lpft.models.weights import load_model
from lpft.runtime.heartbeat import work_in_progress
from lpft.storage.client_result import DamagedFileError
from lpft.storage.config_file import read_config, write_config
from lpft.storage.fingerprint import fingerprint
from lpft.storage.provenance import software


def record_settings(experiment: Experiment) -> None:
    """Check the settings against those on disk, then write them to the folder of the run.

    Raises:
        ConfigError: see `check_saved_settings`.
        OSError: if the folder cannot be written to.
    """
    check_saved_settings(experiment)
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
        held_out=experiment.data.held_out,
        spec={key: int(value) for key, value in asdict(experiment.data.spec).items() if value is not None},
        classes=list(experiment.data.source.class_names),
        mean=list(experiment.data.normalize.mean),
        std=list(experiment.data.normalize.std),
        crop=getattr(experiment.data.source, "crop", None),
        features=experiment.data.source.feature_record(),
        content_hash=experiment.data.arrays.content_hash,
        settings=fingerprint(experiment.shared_settings),
        reference_settings=fingerprint(experiment.reference_settings),
        flower=run.flower(),
    )
    write_config(run, experiment.config, provenance)


def check_saved_settings(experiment: Experiment) -> None:
    """Raise ConfigError if results on disk, or in progress, have other settings; it names the keys that differ.

    With `overwrite`, nothing is checked.
    """
    if experiment.selection.overwrite:
        return
    run, in_progress = experiment.run, bool(work_in_progress(experiment.run))
    for seed, part, before in run.settings():
        if not in_progress and not run.has_results(seed, part):
            continue
        now = experiment.global_settings
        if part != "global":
            method = experiment.config["methods"].get(part, before.get("method"))
            shared = experiment.shared_settings if "personalization" in before else experiment.reference_settings
            now = {**shared, "method": method}
        if before.get("data", {}).get("content") != now["data"]["content"]:
            before = _with_data_section(before, read_config(run).get("data", {}))
            now = _with_data_section(now, experiment.config["data"])
        compare_settings(run.method_file(seed, part, "settings.json").parent, before, now)


def _with_data_section(settings: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """Add the section `data` to settings, so that an error names its keys and not only a hash of the content."""
    keys = {key: value for key, value in section.items() if key != "cache_dir"}
    return {**settings, "data": {**keys, **settings.get("data", {})}}


def check_global_models(experiment: Experiment) -> None:
    """Raise ConfigError if a required global model is missing, damaged, or was made with other settings."""
    tuning = experiment.command == "tune" and experiment.tuned_methods
    for seed in experiment.tune.seeds if tuning else experiment.seeds:
        path = experiment.run.global_model(seed)
        hint = "HINT: train it first with `lpft federate`, or use `lpft run`."
        try:
            _, model_fingerprint = load_model(path)
        except FileNotFoundError as error:
            raise ConfigError(f"The global model {path} does not exist. {hint}") from error
        except DamagedFileError as error:
            raise ConfigError(f"The global model {path} is damaged ({error}). {hint}") from error
        if model_fingerprint != fingerprint(experiment.global_settings):
            for saved_seed, part, before in experiment.run.settings():
                if (saved_seed, part) == (seed, "global"):
                    compare_settings(path.parent, before, experiment.global_settings)
            raise ConfigError(f"The global model {path} was made with other settings. {hint}")
    for name, task in ({} if experiment.command == "tune" else experiment.reference_tasks()).items():
        for seed in task.seeds:
            if not is_done(task, seed):
                raise ConfigError(f"The model that `{name}` needs is missing, {task.run.global_model(seed)}. {hint}")


def compare_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError if two settings differ; it names the keys that differ.

    Args:
        folder: folder of the results, for the message.
        before: the settings that the results were made with.
        now: the settings of the experiment.
    """
    if keys := differing_settings(before, now):
        raise ConfigError(
            f"{folder} was made with other settings; different are: {keys}."
            " HINT: choose another folder with `--out`, or replace these results with `--overwrite`."
        )


def differing_settings(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return a list of the settings that differ, with both values, as text; empty if none differ."""
    there, here = dict(dotted(there)), dict(dotted(here))
    return ", ".join(
        f"`{key}` ({_short(there, key)} there, {_short(here, key)} here)"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    )


def _short(settings: Mapping[str, Any], key: str) -> str:
    """Return a value as JSON, abbreviated to at most 40 characters; `none` if the key is missing."""
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "none"
    return text if len(text) <= 40 else f"{text[:30]}..."
