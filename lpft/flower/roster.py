"""Who is where: the clients of a federation, from what its nodes say of themselves."""

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
        names: the clients, in the order in which cohorts are drawn.
        homes: node of every client, by name.
        num_samples: training samples of every client, by position.
        spec: channels, size and number of classes of the images, the same on every node.
        own_data: whether every node has data of its own; otherwise they share those of the experiment.
        node: what one of the nodes says: classes, normalization and settings are the same on all.
        contents: hash of every node's data, by node.
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
        """Put together what the nodes say; see `lpft.flower.node.Node.describe`.

        Args:
            descriptions: of every node.
            order: the clients of the experiment, in order, where the nodes share its data; otherwise the clients are
                sorted by name.

        Raises:
            ConfigError: if the nodes do not fit together, or together do not make up the experiment.
        """
        parts = {node: said["part"] for node, said in descriptions.items()}
        own_data = all(part is None for part in parts.values())
        if not own_data:
            _check_parts([part for part in parts.values() if part is not None], len(parts))
        first = next(iter(descriptions.values()))
        for node, said in descriptions.items():
            check_alike(first, said, f"node {node}", "another node", (*ALIKE, "mean", "std") if own_data else ALIKE)
        clients = {
            name: (node, count) for node, said in descriptions.items() for name, count in said["clients"].items()
        }
        num_clients = sum(len(said["clients"]) for said in descriptions.values())
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
            {node: said["content"] for node, said in descriptions.items()},
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
        """All settings that a global model depends on that is trained on nodes with data of their own."""
        return {**self.node["settings"], "nodes": sorted(self.contents.values())}


ALIKE = ("spec", "classes", "settings")
"""What server and nodes have to agree on."""


def check_alike(
    one: Mapping[str, Any], other: Mapping[str, Any], here: str, there: str, keys: Sequence[str] = ALIKE
) -> None:
    """Raise ConfigError if two descriptions differ in what server and nodes have to agree on; it names the keys.

    Args:
        one: the first.
        other: the second.
        here: who has said the second.
        there: who has said the first.
        keys: what they have to agree on.
    """
    differing = differing_settings({key: one[key] for key in keys}, {key: other[key] for key in keys})
    if differing:
        raise ConfigError(
            f"Flower: {here} has other settings than {there}; different are: {differing}."
            " HINT: all of them need the same experiment. Nodes with data of their own need the same list of `classes`,"
            " and for feature arrays `data.mean` and `data.std` as numbers, since each would measure its own."
        )


def _check_parts(parts: list[str], num_nodes: int) -> None:
    """Raise ConfigError unless the parts are 0/N, 1/N, ... each once."""
    count = int(parts[0].partition("/")[2])
    missing = sorted({f"{number}/{count}" for number in range(count)} - set(parts))
    if len(parts) < num_nodes:
        hint = "give all of them `partition-id`, or all of them `data-root`"
        problem = f"{len(parts)} of {num_nodes} nodes stand for clients of the experiment, the others have own images"
    elif missing:
        hint = "start one node for each part, and set `min-nodes` to their number"
        problem = f"the nodes have the parts {', '.join(sorted(parts))}; {', '.join(missing)} of the clients is missing"
    elif len(parts) > count:
        hint = "give each node a `partition-id` of its own"
        problem = (
            f"{len(parts)} nodes are connected, but the experiment is in {count} parts: {', '.join(sorted(parts))}"
        )
    else:
        return
    raise ConfigError(f"Flower: {problem}. HINT: {hint}.")
