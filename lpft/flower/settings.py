"""Settings of a Flower run and of its nodes."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpft.config.files import ConfigError


@dataclass(frozen=True)
class RunSettings:
    """The run configuration, ``[tool.flwr.app.config]`` in the app's pyproject.toml.

    Args:
        experiment: file of the experiment.
        arguments: settings that override those of the experiment, as on lpft's command line.
        methods: methods with which nodes personalize their clients after training.
        min_nodes: required number of connected nodes.
        wait: time to wait for these nodes, in seconds.
        timeout: maximum time for a reply, in seconds.
    """

    experiment: Path
    arguments: tuple[str, ...]
    methods: tuple[str, ...]
    min_nodes: int
    wait: float
    timeout: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunSettings:
        """Read a run configuration.

        Raises:
            ConfigError: if the experiment's file does not exist, or a value is out of range.
        """
        min_nodes = int(config.get("min-nodes", 2))
        wait, timeout = float(config.get("wait", 60)), float(config.get("timeout", 3600))
        if min_nodes < 1 or wait < 0 or timeout <= 0:
            raise ConfigError(
                f"`min-nodes={min_nodes}`, `wait={wait:g}`, `timeout={timeout:g}`: not all of them are in range."
                " HINT: see [tool.flwr.app.config] in the app's pyproject.toml."
            )
        return cls(
            find_experiment(str(config.get("experiment", ""))),
            tuple(shlex.split(str(config.get("settings", "")))),
            tuple(name.strip() for name in str(config.get("methods", "")).split(",") if name.strip()),
            min_nodes,
            wait,
            timeout,
        )


@dataclass(frozen=True)
class NodeSettings:
    """The node configuration, ``flower-supernode --node-config``.

    Args:
        part: ``I/N`` if the node holds every N-th client of the experiment's data; None if it has its own data.
        arguments: settings of the experiment that this node overrides, including the folder of its data.
        out: run folder for personalization on this node.
    """

    part: str | None
    arguments: tuple[str, ...]
    out: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> NodeSettings:
        """Read a node configuration.

        Raises:
            ConfigError: if it does not specify the data of the node.
        """
        arguments = tuple(shlex.split(str(config.get("settings", ""))))
        out = str(config["out"]) if "out" in config else None
        if "data-root" in config:
            return cls(None, (f"--data.source.root={config['data-root']}", *arguments), out)
        if "partition-id" not in config or "num-partitions" not in config:
            raise ConfigError(
                "The node configuration does not specify the node's clients. HINT: start the node with"
                " `--node-config 'partition-id=0 num-partitions=2'` for every second client of the experiment, or with"
                " `--node-config 'data-root=\"FOLDER\"'` for its own data."
            )
        number, count = int(config["partition-id"]), int(config["num-partitions"])
        if not 0 <= number < count:
            raise ConfigError(
                f"`partition-id={number}` of a node is out of range with `num-partitions={count}`."
                f" HINT: use numbers from 0 to {count - 1}."
            )
        part = f"{number}/{count}"
        return cls(part, (f"--data.keep={part}", *arguments), out)


def find_experiment(name: str) -> Path:
    """Return the path of an experiment's file in the folder of the Flower app or in the working folder.

    Raises:
        ConfigError: if neither contains it.
    """
    path = Path(name).expanduser()
    candidates = [*(Path(folder) / path for folder in sys.path), path]  # Flower puts the app's folder first
    file = next((candidate for candidate in candidates if name and candidate.is_file()), None)
    if file is None:
        raise ConfigError(
            f"There is no experiment {name!r} in the Flower app or in {Path.cwd()}. HINT: put the file next to the"
            " app's pyproject.toml, and set `experiment` there or with --run-config 'experiment=\"FILE\"'."
        )
    return file


def log_to_console() -> None:
    """Log lpft's messages to the console of this process, once; Flower handles other loggers."""
    log = logging.getLogger("lpft")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("lpft: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
