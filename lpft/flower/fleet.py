"""Communication of the server with the nodes, and training of the clients on these nodes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.fabric import Fabric

from lpft.federated.algorithms import Algorithm
from lpft.federated.fedavg import Training, mean_accuracy
from lpft.federated.memory import ClientMemory
from lpft.flower import records
from lpft.flower.api import NODE_UNAVAILABLE, Grid, Message, RecordDict
from lpft.flower.node import ClientUpdate, LocalResult
from lpft.flower.roster import Roster
from lpft.flower.settings import RunSettings
from lpft.models.base import BodyHeadNet
from lpft.types import StackUpdate, State

log = logging.getLogger("lpft")

LONGEST_PAUSE = 1.0
"""Maximum time between two requests for replies, in seconds."""


class NodeError(RuntimeError):
    """Nodes are missing, have failed or do not reply; checkpoints are kept."""


class Fleet:
    """The connected nodes: sends messages to them, and waits for replies.

    Args:
        grid: Flower's connection.
        settings: the required number of nodes and the timeouts.
    """

    def __init__(self, grid: Grid, settings: RunSettings) -> None:
        self.grid, self.settings = grid, settings

    def describe_nodes(self) -> dict[int, dict[str, Any]]:
        """Wait for the required number of nodes, and return their descriptions by node.

        Raises:
            NodeError: if there are too few nodes, or one of them fails.
        """
        end = time.monotonic() + self.settings.wait
        while len(nodes := sorted(self.grid.get_node_ids())) < self.settings.min_nodes:
            if time.monotonic() > end:
                raise self._too_few(len(nodes))
            time.sleep(LONGEST_PAUSE)
        replies = self.ask("query", {node: records.request() for node in nodes}, "descriptions", skip_unavailable=True)
        if len(replies) < self.settings.min_nodes:
            raise self._too_few(len(replies))
        return {node: records.description_of(content) for node, content in replies.items()}

    def _too_few(self, number: int) -> NodeError:
        return NodeError(
            f"{number} nodes are connected after {self.settings.wait:g} seconds, but"
            f" `min-nodes={self.settings.min_nodes}`. HINT: start more with `flower-supernode`, or require fewer with"
            f" --run-config 'min-nodes={max(1, number)}'."
        )

    def ask(
        self, kind: str, contents: Mapping[int, RecordDict], purpose: str, skip_unavailable: bool = False
    ) -> dict[int, RecordDict]:
        """Send messages to nodes, and return their replies by node.

        Args:
            kind: type of the messages, such as ``train``.
            contents: contents of the messages by node.
            purpose: what is requested, for error messages.
            skip_unavailable: leave out nodes that have disconnected, which Flower lists for another minute.

        Raises:
            NodeError: if a node fails, disconnects or does not reply in time.
        """
        messages = [Message(content, node, kind, group_id=purpose) for node, content in contents.items()]
        pending = dict(zip(self.grid.push_messages(messages), contents, strict=True))
        if len(pending) < len(contents) or None in pending:
            raise NodeError(f"{purpose}: Flower could not send all messages to the nodes.")
        replies: dict[int, RecordDict] = {}
        end, pause = time.monotonic() + self.settings.timeout, 0.05
        while True:
            for reply in self.grid.pull_messages(list(pending)):
                node = pending.pop(reply.metadata.reply_to_message_id)
                if reply.has_error() and skip_unavailable and reply.error.code == NODE_UNAVAILABLE:
                    log.warning("node %d has disconnected and is left out", node)
                    continue
                if reply.has_error():
                    raise NodeError(
                        f"{purpose}: node {node} failed: {_reason(reply.error.reason)} HINT: see the log of the node."
                        " Completed rounds are kept: start the same Flower run again to continue."
                    )
                replies[node] = reply.content
            if not pending:
                return replies
            if time.monotonic() > end:
                raise NodeError(
                    f"{purpose}: {len(pending)} nodes did not reply within {self.settings.timeout:g} seconds:"
                    f" {', '.join(map(str, pending.values()))}. HINT: wait longer with --run-config"
                    " 'timeout=SECONDS'. Completed rounds are kept: start the same Flower run again to continue."
                )
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 1.2 * pause)


class RemoteClients:
    """Clients on nodes, for `lpft.federated.fedavg.train_rounds`.

    Args:
        fleet: the nodes.
        roster: which client is where.
        net: the initial network.
        fabric: the server's device.
        seed: seed of the run.
        on_start: called with the number of the first trained round.
    """

    def __init__(
        self,
        fleet: Fleet,
        roster: Roster,
        net: BodyHeadNet,
        fabric: Fabric,
        seed: int,
        on_start: Callable[[int], None],
    ) -> None:
        self.fleet, self.roster, self.fabric, self.seed = fleet, roster, fabric, seed
        self.num_samples = roster.num_samples
        self.memory = ClientMemory(Algorithm(), net, len(roster.names), fabric.device)
        self._on_start: Callable[[int], None] | None = on_start

    def cohort(self, clients: list[int], state: State, round_: int) -> tuple[list[list[int]], Training]:
        """Train the clients of a round, on all nodes at the same time."""
        if self._on_start is not None:
            self._on_start(round_)
            self._on_start = None
        names = [self.roster.names[client] for client in clients]
        by_node: dict[int, list[str]] = {}
        for name in names:
            by_node.setdefault(self.roster.homes[name], []).append(name)
        contents = {
            node: records.request(state, seed=self.seed, clients=clients_of_node, **{"server-round": round_})
            for node, clients_of_node in by_node.items()
        }
        purpose = f"seed {self.seed}, round {round_}"
        replies = self.fleet.ask("train", contents, purpose)
        updates = {update.client: update for content in replies.values() for update in records.updates_of(content)}
        if missing := sorted(set(names) - updates.keys()):
            raise NodeError(f"{purpose}: no update was received for {', '.join(missing)}.")
        return [[client] for client in clients], lambda stacks, _: (self._stacked(stack, updates) for stack in stacks)

    def test(self, state: State, stop: bool) -> tuple[float, bool]:
        """Test a global state on the validation samples of all clients."""
        contents = {node: records.request(state, seed=self.seed) for node in self.roster.nodes}
        replies = self.fleet.ask("evaluate", contents, f"seed {self.seed}, validation")
        counts: dict[str, tuple[int, int]] = {}
        for content in replies.values():
            counts |= records.counts_of(content)
        in_order = torch.tensor([counts[name] for name in self.roster.names if name in counts], dtype=torch.float64)
        return mean_accuracy(*in_order.view(-1, 2).unbind(1)), stop

    def describe(self, client: int) -> str:
        """Return the name of a client."""
        return self.roster.names[client]

    def _stacked(self, stack: list[int], updates: Mapping[str, ClientUpdate]) -> StackUpdate:
        of_clients = [updates[self.roster.names[client]] for client in stack]
        state = {
            name: torch.stack([update.state[name] for update in of_clients]).to(self.fabric.device)
            for name in of_clients[0].state
        }
        losses = torch.tensor([update.loss for update in of_clients], dtype=torch.float64)
        return StackUpdate(stack, state, [update.num_examples for update in of_clients], losses)


def personalize_on_nodes(
    fleet: Fleet, nodes: list[int], seed: int, methods: tuple[str, ...], state: State
) -> list[LocalResult]:
    """Let each node personalize a global model for its clients, and return the results sorted by method and client."""
    contents = {node: records.request(state, seed=seed, methods=list(methods)) for node in nodes}
    replies = fleet.ask("train.personalize", contents, f"seed {seed}, personalization")
    results = [result for content in replies.values() for result in records.results_of(content)]
    order = {name: number for number, name in enumerate(methods)}
    return sorted(results, key=lambda result: (order.get(result.method, len(order)), result.client))


def _reason(text: str | None) -> str:
    """Return the message of an error in Flower's form, ``<class 'ValueError'>:<'message'>``."""
    match = re.fullmatch(r"<class '[^']*'>:<'(.*)'>", text or "", re.S)
    return match[1] if match else text or "unknown reason."
