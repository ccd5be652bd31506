"""A run's config.yaml: the resolved experiment and its provenance."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from lpft.storage.atomic import write_atomically
from lpft.storage.provenance import Provenance
from lpft.storage.run import Run

SAFE_LOADERS = (getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader)
"""The first is ten times as fast but refuses file names that are not UTF-8, which the second reads."""


def read_config(run: Run) -> dict[str, Any]:
    """Return the configuration of a run; empty if it has no config.yaml.

    Raises:
        ValueError: if config.yaml is not a configuration.
    """
    if not run.config.exists():
        return {}
    config = None
    for loader in SAFE_LOADERS:
        with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):
            config = yaml.load(run.config.read_text(encoding="utf-8"), loader)
            break
    if not isinstance(config, dict):
        raise ValueError(
            f"{run.config} is not the configuration of a run. HINT: move it away, or choose another `--out`."
        )
    return config


def write_config(run: Run, config: Mapping[str, Any], provenance: Provenance) -> None:
    """Write config.yaml unless it is unchanged; keep seeds, methods and tuned settings that have results on disk."""
    before = read_config(run)
    earlier: dict[str, Any] = before.get("provenance") or {}
    on_disk = run.seeds()
    with_results = {name for seed in on_disk for name in run.methods(seed)}
    methods = {name: method for name, method in before.get("methods", {}).items() if name in with_results}
    merged = {
        **config,
        "seeds": sorted({*(seed for seed in before.get("seeds", []) if seed in on_disk), *config["seeds"]}),
        "methods": {**config["methods"], **methods, **config["methods"]},
    }
    record = asdict(provenance)
    record["variants"] = {**earlier.get("variants", {}), **provenance.variants}
    tuned = {**earlier.get("tuned", {}), **provenance.tuned}
    record["tuned"] = {name: values for name, values in tuned.items() if name in merged["methods"]}
    text = yaml.safe_dump({**merged, "provenance": record}, sort_keys=False, allow_unicode=True)
    if not run.config.exists() or run.config.read_text(encoding="utf-8") != text:
        write_atomically(run.config, text)
