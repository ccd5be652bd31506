"""Hooks that no shipped method uses in full: each by a method made up for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lpft.methods.base import ComparedBatch, HeadData, Method, Phase
from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.types import State
from tests.methods.fitting import (
    assert_resumed_equals_uninterrupted,
    assert_same_bits,
    fit,
    passes,
    personalize,
    personalizer,
    settings,
)
from tests.toy import toy_features

VAR = "body.1.running_var"
PLAIN = settings(epochs=2, optimizer=partial(torch.optim.SGD, lr=0.05))


class BodyThenAll(Method):
    def phases(self, budget: int) -> list[Phase]:
        return [Phase(budget // 2, "body"), Phase(budget - budget // 2)]


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_a_phase_of_the_body_leaves_the_head(clients: list[int]) -> None:
    """The first half of the epochs leaves the head's bits, with momentum and weight decay; the second does not."""
    features = toy_features(norm=True)
    heads = []

    class Watched(BodyThenAll):
        def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
            return {**memory, f"{phase}": params["head.weight"]}

    module = fit(personalizer(features, clients, Watched(), settings(epochs=4)))
    heads = module.hooks.memory
    start = features.net.state_dict()
    assert torch.equal(heads["0"], start["head.weight"].expand_as(heads["0"]))
    assert not torch.allclose(heads["1"], heads["0"])
    for state in module.stack.states():
        assert not torch.equal(state["body.0.weight"], start["body.0.weight"])
    assert [(r.phase, r.lr_head > 0, r.lr_body > 0) for r in module.records] == [  # type: ignore[operator]
        ("BODY", False, True), ("BODY", False, True), ("FT", True, True), ("FT", True, True),
    ]  # fmt: skip


def test_a_phase_of_the_body_costs_whole_passes_and_can_be_resumed(tmp_path: Path) -> None:
    assert passes(BodyThenAll()) == [6, 6]
    assert not BodyThenAll().leaves_body(6)
    assert_resumed_equals_uninterrupted(BodyThenAll(), [1, 3, 4], tmp_path)


class Doubled(FT):
    """Doubles the variances at the start of training, and adds one at the end."""

    uses_buffers = True

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        assert params.keys() == global_params.keys()
        return {VAR: 2 * global_params[VAR]}, memory

    def finish(self, params: State, global_params: State, memory: State) -> State:
        return {VAR: params[VAR] + 1}


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_buffers_are_read_and_returned(clients: list[int]) -> None:
    features = toy_features(norm=True)
    start = features.net.state_dict()[VAR]
    for state in personalize(features, clients, Doubled(bn="eval"), PLAIN):
        torch.testing.assert_close(state[VAR], 2 * start + 1)


class Counting(FT):
    """Remembers the number of steps."""

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        return params, {"steps": params["head.bias"].new_zeros(())}

    def project(self, params: State, global_params: State, memory: State) -> tuple[State, State]:
        return {}, {"steps": memory["steps"] + 1}


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_project_may_return_memory(clients: list[int]) -> None:
    """Three steps in each of six epochs."""
    module = fit(personalizer(toy_features(), clients, Counting(), settings()))
    assert module.hooks.memory["steps"].tolist() == [18] * len(clients)
    assert_same_bits(Counting(), FT())


class Compared(LPFT):
    """Penalizes nothing, and keeps what it sees."""

    seen: list[ComparedBatch]

    def batch_penalty(self, batch: ComparedBatch, memory: State) -> Tensor:
        self.seen.append(batch)
        return 0 * batch.features.sum()


def test_a_batch_is_seen_under_both_models() -> None:
    """In the first steps both models are the same, but for BatchNorm in training mode."""
    features, method = toy_features(norm=True), Compared(lp_epochs=1)
    method.seen = []
    personalize(features, [1], method, PLAIN)
    assert len(method.seen) == 6  # three steps in either phase
    for batch in method.seen:
        assert batch.features.shape == batch.global_features.shape == (16, 10)
        assert batch.logits.shape == batch.global_logits.shape == (16, 3)
        torch.testing.assert_close(batch.global_logits, features.net.head(batch.global_features))
        assert not batch.global_logits.requires_grad
        assert batch.logits.requires_grad
    first, *_, last = method.seen
    assert torch.equal(first.features, first.global_features)
    torch.testing.assert_close(first.logits, first.global_logits)
    assert not torch.allclose(last.features, last.global_features)


def test_a_head_that_needs_counts_only_gets_no_features() -> None:
    seen: list[HeadData] = []

    class Counts(LPFT):
        counts_only = True

        def start_head(self, head: State, data: HeadData, generator: torch.Generator) -> State:
            seen.append(data)
            return head

    features = toy_features()
    method = Counts(lp_epochs=None, head_init="zero")
    personalize(features, [1], method, PLAIN)
    (data,) = seen
    assert data.features.shape == (0, 10)
    labels, clients = features.data.labels, features.data.clients
    assert data.class_counts.tolist() == labels[clients[1].train].bincount(minlength=3).tolist()
    assert int(data.class_counts.sum()) == 33
    assert int(data.federation_class_counts.sum()) == 20 + 33 + 40 + 24 + 17


@pytest.mark.parametrize("clients", [[1], [1, 2]])
@pytest.mark.parametrize(
    ("hook", "kind"),
    [
        *((hook, "type") for hook in ("penalty", "batch_penalty", "gradient", "mix", "project", "finish")),
        *((hook, "shape") for hook in ("penalty", "batch_penalty", "gradient", "project", "finish")),
    ],  # a network refuses weights of another shape, as of `mix`
)
def test_results_of_the_wrong_shape_or_type_are_refused(hook: str, clients: list[int], kind: str) -> None:
    """Not broadcast: two numbers instead of one would otherwise be added to the losses of two clients."""
    wrong: dict[str, object] = {"penalty": torch.ones(2), "batch_penalty": torch.ones(2)}
    if kind == "type":
        wrong = {}
    elif hook in ("gradient", "project", "finish"):
        wrong = {hook: {"head.bias": torch.ones(1)}}

    def changed(self: Method, *arguments: object) -> object:
        return wrong.get(hook)

    changed.__name__ = hook
    method = type("Changed", (FT,), {hook: changed})()
    with pytest.raises((ValueError, TypeError), match=rf"`{hook}` of the method|`head\.bias`"):
        fit(personalizer(toy_features(norm=True), clients, method, PLAIN)).hooks.finish()
