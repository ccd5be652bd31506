"""Contents of Flower's messages: states, numbers and names as its records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from lpft.flower.api import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from lpft.flower.node import ClientUpdate, LocalResult
from lpft.types import State

ARRAYS, CONFIG, METRICS, NAMES = "arrays", "config", "metrics", "names"
"""Names of the records; Flower's strategies use the first three."""


def request(state: State | None = None, **config: Any) -> RecordDict:
    """Return the content of a message to a node: a global state and settings."""
    content = RecordDict({CONFIG: ConfigRecord(config)})
    if state is not None:
        content[ARRAYS] = ArrayRecord(torch_state_dict=state)
    return content


def config_of(content: RecordDict) -> Mapping[str, Any]:
    """Return the settings in a message."""
    return content.config_records[CONFIG]


def state_of(content: RecordDict) -> State:
    """Return the global state in a message."""
    return dict(content.array_records[ARRAYS].to_torch_state_dict())


def put_description(description: Mapping[str, Any]) -> RecordDict:
    """Return the content of a reply with a node's description."""
    return RecordDict({CONFIG: ConfigRecord({"description": json.dumps(description)})})


def description_of(content: RecordDict) -> dict[str, Any]:
    """Return the node's description in a reply."""
    description: dict[str, Any] = json.loads(str(config_of(content)["description"]))
    return description


def put_updates(updates: Iterable[ClientUpdate]) -> RecordDict:
    """Return the content of a reply with the updates of clients: one record of arrays for each, and their losses."""
    content, names, counts, losses = RecordDict(), [], [], []
    for number, update in enumerate(updates):
        content[f"{ARRAYS}-{number}"] = ArrayRecord(torch_state_dict=update.state)
        names.append(update.client)
        counts.append(update.num_examples)
        losses.append(update.loss)
    content[NAMES] = ConfigRecord({"client": names})
    content[METRICS] = MetricRecord({"num-examples": counts, "train-loss": losses})
    return content


def put_update(update: ClientUpdate) -> RecordDict:
    """Return the content of a reply with the update of a node's only client, as Flower's strategies expect it."""
    metrics: dict[str, Any] = {"num-examples": update.num_examples, "train-loss": update.loss}
    return RecordDict({ARRAYS: ArrayRecord(torch_state_dict=update.state), METRICS: MetricRecord(metrics)})


def updates_of(content: RecordDict) -> list[ClientUpdate]:
    """Return the updates in a reply."""
    names, metrics = _list(content.config_records[NAMES]["client"]), content.metric_records[METRICS]
    numbers = zip(names, _list(metrics["num-examples"]), _list(metrics["train-loss"]), strict=True)
    return [
        ClientUpdate(name, dict(content.array_records[f"{ARRAYS}-{k}"].to_torch_state_dict()), int(count), float(loss))
        for k, (name, count, loss) in enumerate(numbers)
    ]


def put_counts(counts: Mapping[str, tuple[int, int]]) -> RecordDict:
    """Return the content of a reply with each client's correct predictions and samples, see `Node.test`.

    The node's number of samples and accuracy are for Flower's strategies.
    """
    correct, sizes = [hits for hits, _ in counts.values()], [size for _, size in counts.values()]
    of_node: dict[str, Any] = {"num-examples": sum(sizes), "accuracy": 100 * sum(correct) / max(1, sum(sizes))}
    return RecordDict(
        {
            NAMES: ConfigRecord({"client": list(counts), "correct": correct, "of": sizes}),
            METRICS: MetricRecord(of_node),
        }
    )


def counts_of(content: RecordDict) -> dict[str, tuple[int, int]]:
    """Return the counts in a reply, see `put_counts`."""
    names = content.config_records[NAMES]
    counts = zip(_list(names["correct"]), _list(names["of"]), strict=True)
    return dict(zip(_list(names["client"]), counts, strict=True))


TEXT_FIELDS = ("client", "method", "status")


def put_results(results: Iterable[LocalResult]) -> RecordDict:
    """Return the content of a reply with the results of personalization."""
    rows = list(results)
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(LocalResult)}
    numbers: dict[str, Any] = {
        name: [math.nan if value is None else float(value) for value in values]
        for name, values in columns.items()
        if name not in TEXT_FIELDS
    }
    return RecordDict(
        {NAMES: ConfigRecord({name: columns[name] for name in TEXT_FIELDS}), METRICS: MetricRecord(numbers)}
    )


def results_of(content: RecordDict) -> list[LocalResult]:
    """Return the results in a reply."""
    columns = {**content.config_records[NAMES], **content.metric_records[METRICS]}
    names = [field.name for field in fields(LocalResult)]
    rows = zip(*(_list(columns[name]) for name in names), strict=True)
    return [LocalResult(**{name: _value(name, value) for name, value in zip(names, row, strict=True)}) for row in rows]


def _list(value: Any) -> list[Any]:
    return list(value)


def _value(name: str, value: Any) -> Any:
    if name in TEXT_FIELDS:
        return value
    if name.startswith("num_"):
        return int(value)
    return None if math.isnan(value) else value
