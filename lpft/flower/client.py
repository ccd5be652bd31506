"""The ClientApp: trains, tests and personalizes a node's clients where their data are.

It answers four messages: ``query`` (who is here), ``train`` (one round), ``evaluate`` (validation samples) and
``train.personalize`` (every client gets a model of its own, which stays on the node; numbers alone are sent back).
``train`` and ``evaluate`` may also come from Flower's own strategies, to nodes of one client each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lpft.flower import records
from lpft.flower.api import ClientApp, Context, Message, RecordDict
from lpft.flower.node import Node, open_node
from lpft.flower.settings import NodeSettings, RunSettings, speak
from lpft.runtime.session import training_session

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which clients are here."""
    with _node(context) as node:
        return _reply(records.put_description(node.describe()), message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the clients that a round asks for; for a strategy of Flower's, which names none, the only one."""
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
        tested = node.test(_seed(config, node), state)
        return _reply(records.put_tested(tested), message)


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Personalize the global model for every client, and keep the models here."""
    with _node(context) as node:
        config, state = records.config_of(message.content), records.state_of(message.content)
        results = node.personalize(int(config["seed"]), tuple(config["methods"]), state)
        return _reply(records.put_results(results), message)


def _seed(config: Mapping[str, Any], node: Node) -> int:
    """Return the seed that a message is for; a strategy of Flower's names none."""
    return int(config.get("seed", node.experiment.seeds[0]))


def _reply(content: RecordDict, message: Message) -> Message:
    return Message(content, reply_to=message)


@contextmanager
def _node(context: Context) -> Iterator[Node]:
    """Open the node in a process that is prepared for heavy work."""
    with training_session():
        speak()
        yield open_node(RunSettings.of(context.run_config), NodeSettings.of(context.node_config))
