"""Flower's records: states, numbers and names in its messages."""

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
"""Names of the records; the first three are those of Flower's own strategies."""


def request(state: State | None = None, **config: Any) -> RecordDict:
    """Make the content of a message to a node: a global state, and what to do with it."""
    content = RecordDict({CONFIG: ConfigRecord(config)})
    if state is not None:
        content[ARRAYS] = ArrayRecord(torch_state_dict=state)
    return content


def config_of(content: RecordDict) -> Mapping[str, Any]:
    """Return what a node is to do."""
    return content.config_records[CONFIG]


def state_of(content: RecordDict) -> State:
    """Return the global state that a message carries."""
    return dict(content.array_records[ARRAYS].to_torch_state_dict())


def put_description(description: Mapping[str, Any]) -> RecordDict:
    """Make the reply of a node that describes itself."""
    return RecordDict({CONFIG: ConfigRecord({"description": json.dumps(description)})})


def description_of(content: RecordDict) -> dict[str, Any]:
    """Return what a node says of itself."""
    description: dict[str, Any] = json.loads(str(config_of(content)["description"]))
    return description


def put_updates(updates: Iterable[ClientUpdate]) -> RecordDict:
    """Make the reply of a node that has trained clients: a record of arrays for each, and their losses."""
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
    """Make the reply of a node that has trained its only client, in the form that Flower's own strategies take."""
    metrics: dict[str, Any] = {"num-examples": update.num_examples, "train-loss": update.loss}
    return RecordDict({ARRAYS: ArrayRecord(torch_state_dict=update.state), METRICS: MetricRecord(metrics)})


def updates_of(content: RecordDict) -> list[ClientUpdate]:
    """Return the updates that a reply carries."""
    names, metrics = _list(content.config_records[NAMES]["client"]), content.metric_records[METRICS]
    numbers = zip(names, _list(metrics["num-examples"]), _list(metrics["train-loss"]), strict=True)
    return [
        ClientUpdate(name, dict(content.array_records[f"{ARRAYS}-{k}"].to_torch_state_dict()), int(count), float(loss))
        for k, (name, count, loss) in enumerate(numbers)
    ]


def put_tested(tested: Mapping[str, tuple[int, int]]) -> RecordDict:
    """Make the reply of a node that has tested a state: of every client, how many samples are right, of how many.

    The other numbers are the node's own, for Flower's own strategies.
    """
    correct, sizes = [right for right, _ in tested.values()], [size for _, size in tested.values()]
    of_node: dict[str, Any] = {"num-examples": sum(sizes), "accuracy": 100 * sum(correct) / max(1, sum(sizes))}
    return RecordDict(
        {
            NAMES: ConfigRecord({"client": list(tested), "correct": correct, "of": sizes}),
            METRICS: MetricRecord(of_node),
        }
    )


def tested_of(content: RecordDict) -> dict[str, tuple[int, int]]:
    """Return what a reply says of the clients' validation samples."""
    said = content.config_records[NAMES]
    counts = zip(_list(said["correct"]), _list(said["of"]), strict=True)
    return dict(zip(_list(said["client"]), counts, strict=True))


WORDS = ("client", "method", "status")


def put_results(results: Iterable[LocalResult]) -> RecordDict:
    """Make the reply of a node that has personalized its clients: names and numbers alone."""
    rows = list(results)
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(LocalResult)}
    numbers: dict[str, Any] = {
        name: [math.nan if value is None else float(value) for value in values]
        for name, values in columns.items()
        if name not in WORDS
    }
    return RecordDict({NAMES: ConfigRecord({name: columns[name] for name in WORDS}), METRICS: MetricRecord(numbers)})


def results_of(content: RecordDict) -> list[LocalResult]:
    """Return the results that a reply carries."""
    columns = {**content.config_records[NAMES], **content.metric_records[METRICS]}
    names = [field.name for field in fields(LocalResult)]
    rows = zip(*(_list(columns[name]) for name in names), strict=True)
    return [LocalResult(**{name: _value(name, value) for name, value in zip(names, row, strict=True)}) for row in rows]


def _list(value: Any) -> list[Any]:
    return list(value)


def _value(name: str, value: Any) -> Any:
    if name in WORDS:
        return value
    if name.startswith("num_"):
        return int(value)
    return None if math.isnan(value) else value
