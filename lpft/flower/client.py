"""The ClientApp: trains, tests and personalizes the clients of a node.

It replies to four types of messages: ``query`` (the node's clients), ``train`` (one round), ``evaluate`` (on validation
samples) and ``train.personalize`` (one model per client, which stays on the node; the reply contains only numbers).
Flower's strategies can also send ``train`` and ``evaluate`` to nodes with one client each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lpft.flower import records
from lpft.flower.api import ClientApp, Context, Message, RecordDict
from lpft.flower.node import Node, open_node
from lpft.flower.settings import NodeSettings, RunSettings, log_to_console
from lpft.runtime.session import training_session

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Describe the node's clients."""
    with _node(context) as node:
        return _reply(records.put_description(node.describe()), message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the requested clients for one round; if the message names none (Flower's strategies), the only one."""
    with _node(context) as node:
        config, state = records.config_of(message.content), records.state_of(message.content)
        clients = config.get("clients")
        names = [node.only_client] if clients is None else list(clients)
        updates = node.train(_seed(config, node), int(config["server-round"]), names, state)
        content = records.put_updates(updates) if clients is not None else records.put_update(*updates)
        return _reply(content, message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model on the clients' validation samples."""
    with _node(context) as node:
        config, state = records.config_of(message.content), records.state_of(message.content)
        counts = node.test(_seed(config, node), state)
        return _reply(records.put_counts(counts), message)


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Personalize the global model for each client; the models stay on the node."""
    with _node(context) as node:
        config, state = records.config_of(message.content), records.state_of(message.content)
        results = node.personalize(int(config["seed"]), tuple(config["methods"]), state)
        return _reply(records.put_results(results), message)


def _seed(config: Mapping[str, Any], node: Node) -> int:
    """Return the seed of a message; those of Flower's strategies have none."""
    return int(config.get("seed", node.experiment.seeds[0]))


def _reply(content: RecordDict, message: Message) -> Message:
    return Message(content, reply_to=message)


@contextmanager
def _node(context: Context) -> Iterator[Node]:
    """Open the node in a training session."""
    with training_session():
        log_to_console()
        yield open_node(RunSettings.of(context.run_config), NodeSettings.of(context.node_config))
