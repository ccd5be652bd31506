"""What a run and its nodes are told by Flower: the experiment, and which of its clients a node has."""

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
        experiment: the experiment's file.
        words: settings that override its keys, as on lpft's command line.
        methods: what personalizes clients on their nodes after training; none by default.
        min_nodes: how many nodes have to be connected.
        wait: seconds to wait for them.
        timeout: seconds that nodes may take for an answer.
    """

    experiment: Path
    words: tuple[str, ...]
    methods: tuple[str, ...]
    min_nodes: int
    wait: float
    timeout: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunSettings:
        """Read a run configuration.

        Raises:
            ConfigError: if the experiment's file is not there, or a value makes no sense.
        """
        min_nodes = int(config.get("min-nodes", 2))
        wait, timeout = float(config.get("wait", 60)), float(config.get("timeout", 3600))
        if min_nodes < 1 or wait < 0 or timeout <= 0:
            raise ConfigError(
                f"`min-nodes={min_nodes}`, `wait={wait:g}`, `timeout={timeout:g}` have to be above 0."
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
        part: ``I/N`` if the node stands for every N-th client of the experiment's own data; None if it has its own.
        words: settings of the experiment that this node overrides, the folder of its data among them.
        out: folder for what is personalized on this node.
    """

    part: str | None
    words: tuple[str, ...]
    out: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> NodeSettings:
        """Read a node configuration.

        Raises:
            ConfigError: if it does not say which data the node has.
        """
        words = tuple(shlex.split(str(config.get("settings", ""))))
        out = str(config["out"]) if "out" in config else None
        if "data-root" in config:
            return cls(None, (f"--data.source.root={config['data-root']}", *words), out)
        if "partition-id" not in config or "num-partitions" not in config:
            raise ConfigError(
                "The node does not say which clients it has. HINT: start it with"
                " `--node-config 'partition-id=0 num-partitions=2'` for every second client of the experiment, or with"
                " `--node-config 'data-root=\"FOLDER\"'` for images of its own."
            )
        number, count = int(config["partition-id"]), int(config["num-partitions"])
        if not 0 <= number < count:
            raise ConfigError(
                f"`partition-id={number}` of a node is not one of `num-partitions={count}`."
                f" HINT: the nodes have the numbers from 0 to {count - 1}."
            )
        part = f"{number}/{count}"
        return cls(part, (f"--data.keep={part}", *words), out)


def find_experiment(name: str) -> Path:
    """Return an experiment's file: in the folder of the Flower app, or in the working folder.

    Raises:
        ConfigError: if it is in neither.
    """
    path = Path(name).expanduser()
    places = [*(Path(folder) / path for folder in sys.path), path]  # Flower has put the app's folder first
    found = next((path for path in places if name and path.is_file()), None)
    if found is None:
        raise ConfigError(
            f"There is no experiment {name!r} in the Flower app or in {Path.cwd()}. HINT: put the file beside the app's"
            " pyproject.toml, and name it there as `experiment`, or by --run-config 'experiment=\"FILE\"'."
        )
    return found


def speak() -> None:
    """Let lpft say in the process's log, once, what it does; other loggers are left to Flower."""
    log = logging.getLogger("lpft")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("lpft: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
