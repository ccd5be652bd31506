"""The nodes as the server sees them, and the clients of a federation on these nodes."""

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
"""Seconds between two looks for replies."""


class NodeError(RuntimeError):
    """Nodes are missing, have failed, or do not answer; checkpoints are kept."""


class Fleet:
    """The connected nodes; asks them, and waits for their answers.

    Args:
        grid: Flower's connection.
        settings: how many nodes there have to be, and how long to wait.
    """

    def __init__(self, grid: Grid, settings: RunSettings) -> None:
        self.grid, self.settings = grid, settings

    def meet(self) -> dict[int, dict[str, Any]]:
        """Wait for nodes, and return what each says of itself.

        Raises:
            NodeError: if there are too few, or one of them fails.
        """
        end = time.monotonic() + self.settings.wait
        while len(nodes := sorted(self.grid.get_node_ids())) < self.settings.min_nodes:
            if time.monotonic() > end:
                raise self._too_few(len(nodes))
            time.sleep(LONGEST_PAUSE)
        answers = self.ask("query", {node: records.request() for node in nodes}, "who is here", may_be_gone=True)
        if len(answers) < self.settings.min_nodes:
            raise self._too_few(len(answers))
        return {node: records.description_of(content) for node, content in answers.items()}

    def _too_few(self, number: int) -> NodeError:
        return NodeError(
            f"{number} nodes are connected after {self.settings.wait:g} seconds, but"
            f" `min-nodes={self.settings.min_nodes}`. HINT: start more with `flower-supernode`, or ask for fewer by"
            f" --run-config 'min-nodes={max(1, number)}'."
        )

    def ask(
        self, kind: str, contents: Mapping[int, RecordDict], what: str, may_be_gone: bool = False
    ) -> dict[int, RecordDict]:
        """Send each of some nodes a message, and return their answers.

        Args:
            kind: type of the message, such as ``train``.
            contents: what is sent, by node.
            what: what they are asked for, in messages to people.
            may_be_gone: leave out nodes that have gone; Flower lists them for a minute.

        Raises:
            NodeError: if one of them fails, dies or does not answer in time.
        """
        messages = [Message(content, node, kind, group_id=what) for node, content in contents.items()]
        missing = dict(zip(self.grid.push_messages(messages), contents, strict=True))
        if len(missing) < len(contents) or None in missing:
            raise NodeError(f"{what}: Flower could not send all messages to the nodes.")
        answers: dict[int, RecordDict] = {}
        end, pause = time.monotonic() + self.settings.timeout, 0.05
        while True:
            for reply in self.grid.pull_messages(list(missing)):
                node = missing.pop(reply.metadata.reply_to_message_id)
                if reply.has_error() and may_be_gone and reply.error.code == NODE_UNAVAILABLE:
                    log.warning("node %d has gone and is left out", node)
                    continue
                if reply.has_error():
                    raise NodeError(
                        f"{what}: node {node} has failed: {_reason(reply.error.reason)} HINT: its own log says more."
                        " What is finished is kept: start the same Flower run again to continue."
                    )
                answers[node] = reply.content
            if not missing:
                return answers
            if time.monotonic() > end:
                raise NodeError(
                    f"{what}: {len(missing)} nodes have not answered in {self.settings.timeout:g} seconds:"
                    f" {', '.join(map(str, missing.values()))}. HINT: give them longer by --run-config"
                    " 'timeout=SECONDS'. What is finished is kept: start the same Flower run again to continue."
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
        on_start: called with the number of the first round that is trained.
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
        """Train the clients of a round on their nodes, all at the same time."""
        if self._on_start is not None:
            self._on_start(round_)
            self._on_start = None
        names = [self.roster.names[client] for client in clients]
        wanted: dict[int, list[str]] = {}
        for name in names:
            wanted.setdefault(self.roster.homes[name], []).append(name)
        contents = {
            node: records.request(state, seed=self.seed, clients=at_home, **{"server-round": round_})
            for node, at_home in wanted.items()
        }
        what = f"seed {self.seed}, round {round_}"
        answers = self.fleet.ask("train", contents, what)
        updates = {update.client: update for content in answers.values() for update in records.updates_of(content)}
        if missing := sorted(set(names) - updates.keys()):
            raise NodeError(f"{what}: no update of {', '.join(missing)} has come.")
        return [[client] for client in clients], lambda stacks, _: (self._stacked(stack, updates) for stack in stacks)

    def test(self, state: State, stop: bool) -> tuple[float, bool]:
        """Test a global state on the validation samples of all clients."""
        contents = {node: records.request(state, seed=self.seed) for node in self.roster.nodes}
        answers = self.fleet.ask("evaluate", contents, f"seed {self.seed}, validation")
        counts: dict[str, tuple[int, int]] = {}
        for content in answers.values():
            counts |= records.tested_of(content)
        tested = torch.tensor([counts[name] for name in self.roster.names if name in counts], dtype=torch.float64)
        return mean_accuracy(*tested.view(-1, 2).unbind(1)), stop

    def describe(self, client: int) -> str:
        """Name a client."""
        return self.roster.names[client]

    def _stacked(self, stack: list[int], updates: Mapping[str, ClientUpdate]) -> StackUpdate:
        chosen = [updates[self.roster.names[client]] for client in stack]
        state = {
            name: torch.stack([update.state[name] for update in chosen]).to(self.fabric.device)
            for name in chosen[0].state
        }
        losses = torch.tensor([update.loss for update in chosen], dtype=torch.float64)
        return StackUpdate(stack, state, [update.num_examples for update in chosen], losses)


def personalize_on_nodes(
    fleet: Fleet, nodes: list[int], seed: int, methods: tuple[str, ...], state: State
) -> list[LocalResult]:
    """Let every node personalize a global model for its clients, and return how they do at home, sorted by client."""
    contents = {node: records.request(state, seed=seed, methods=list(methods)) for node in nodes}
    answers = fleet.ask("train.personalize", contents, f"seed {seed}, personalization")
    results = [result for content in answers.values() for result in records.results_of(content)]
    order = {name: number for number, name in enumerate(methods)}
    return sorted(results, key=lambda result: (order.get(result.method, len(order)), result.client))


def _reason(text: str | None) -> str:
    """Return an error without the form that Flower gives it, ``<class 'ValueError'>:<'there is none.'>``."""
    found = re.fullmatch(r"<class '[^']*'>:<'(.*)'>", text or "", re.S)
    return found[1] if found else text or "it has not said why."
