"""The clients of a federation and their nodes, from the nodes' descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.saved_settings import differing_settings
from lpft.storage.run import check_client_names


@dataclass(frozen=True)
class Roster:
    """The clients of all nodes.

    Args:
        names: names of the clients, in the order from which cohorts are drawn.
        homes: node of each client, by name.
        num_samples: training samples of each client, by position.
        spec: the `DataSpec`, equal on all nodes, as JSON values.
        own_data: whether each node has its own data; otherwise they share the experiment's data.
        node: description of one node; classes, normalization and settings are equal on all nodes.
        contents: hash of each node's data, by node.
    """

    names: list[str]
    homes: dict[str, int]
    num_samples: list[int]
    spec: dict[str, int]
    own_data: bool
    node: dict[str, Any]
    contents: dict[int, str]

    @classmethod
    def of(cls, descriptions: Mapping[int, Mapping[str, Any]], order: list[str] | None = None) -> Roster:
        """Combine the descriptions of all nodes; see `lpft.flower.node.Node.describe`.

        Args:
            descriptions: descriptions by node.
            order: the experiment's clients in order, if the nodes share its data; otherwise clients are sorted by name.

        Raises:
            ConfigError: if the nodes' settings differ, or nodes are missing or superfluous.
        """
        parts = {node: description["part"] for node, description in descriptions.items()}
        own_data = all(part is None for part in parts.values())
        if not own_data:
            _check_parts([part for part in parts.values() if part is not None], len(parts))
        first = next(iter(descriptions.values()))
        keys = (*EQUAL_KEYS, "mean", "std") if own_data else EQUAL_KEYS
        for node, description in descriptions.items():
            check_equal(first, description, f"node {node}", "another node", keys)
        clients = {
            name: (node, counts)
            for node, description in descriptions.items()
            for name, counts in description["clients"].items()
        }
        num_clients = sum(len(description["clients"]) for description in descriptions.values())
        if len(clients) < num_clients:
            raise ConfigError(
                f"The nodes have {num_clients} clients, but only {len(clients)} names: {', '.join(sorted(clients))}."
                " HINT: give the sites' folders different names."
            )
        check_client_names(clients)
        names = sorted(clients) if order is None else [name for name in order if name in clients]
        return cls(
            names,
            {name: clients[name][0] for name in names},
            [int(clients[name][1]["train"]) for name in names],
            dict(first["spec"]),
            own_data,
            dict(first),
            {node: description["content"] for node, description in descriptions.items()},
        )

    @property
    def nodes(self) -> list[int]:
        """All nodes."""
        return list(self.contents)

    def at(self, node: int) -> list[str]:
        """Return the clients of a node."""
        return [name for name, home in self.homes.items() if home == node]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that determine the global model if each node has its own data."""
        return {**self.node["settings"], "nodes": sorted(self.contents.values())}


EQUAL_KEYS = ("spec", "classes", "settings")
"""Parts of a description that have to be equal on the server and all nodes."""


def check_equal(
    reference: Mapping[str, Any],
    description: Mapping[str, Any],
    name: str,
    reference_name: str,
    keys: Sequence[str] = EQUAL_KEYS,
) -> None:
    """Raise ConfigError if two descriptions differ in keys that have to be equal.

    Args:
        reference: one description.
        description: the other description.
        name: origin of the description, for the message.
        reference_name: origin of the reference, for the message.
        keys: the keys to compare.
    """
    differing = differing_settings({key: reference[key] for key in keys}, {key: description[key] for key in keys})
    if differing:
        raise ConfigError(
            f"Flower: the settings of {name} differ from those of {reference_name}: {differing}."
            " HINT: all of them need the same experiment. Nodes with their own data need the same `classes` and, for"
            " feature arrays, numbers as `data.mean` and `data.std`, because each node would measure its own."
        )


def _check_parts(parts: list[str], num_nodes: int) -> None:
    """Raise ConfigError unless the parts are 0/N, 1/N, ... each once."""
    count = int(parts[0].partition("/")[2])
    missing = sorted({f"{number}/{count}" for number in range(count)} - set(parts))
    if len(parts) < num_nodes:
        hint = "give all of them `partition-id`, or all of them `data-root`"
        problem = f"{len(parts)} of {num_nodes} nodes hold clients of the experiment, the others have their own data"
    elif missing:
        hint = "start one node for each part, and set `min-nodes` to their number"
        problem = f"the nodes have the parts {', '.join(sorted(parts))}; missing: {', '.join(missing)}"
    elif len(parts) > count:
        hint = "give each node its own `partition-id`"
        problem = f"{len(parts)} nodes are connected, but the experiment has {count} parts: {', '.join(sorted(parts))}"
    else:
        return
    raise ConfigError(f"Flower: {problem}. HINT: {hint}.")
