from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from lpft.clients.features import GlobalFeatures
from lpft.clients.stack import ClientStack
from lpft.evaluation.matrix import Evaluator
from tests.toy import toy_data, toy_features, toy_net


def stack_of(nets: list[torch.nn.Module]) -> ClientStack:
    stack = ClientStack(nets[0], len(nets))  # type: ignore[arg-type]
    states = [net.state_dict() for net in nets]
    stack.write({name: torch.stack([state[name] for state in states]) for name in states[0]})
    return stack


@pytest.mark.parametrize("count", [1, 3])
def test_every_model_on_every_client_as_scikit_learn_counts(count: int) -> None:
    features = toy_features(norm=True)
    nets = [toy_net(norm=True, seed=seed).eval() for seed in range(count)]
    result = Evaluator(features).test(stack_of(nets).train())
    data = features.data
    for k, net in enumerate(nets):
        for j, client in enumerate(data.clients):
            images = data.normalize(data.images[client.test], torch.float64)
            expected = 100 * accuracy_score(data.labels[client.test], net(images).argmax(1))
            assert result.accuracy[k, j] == pytest.approx(expected)
            moved = (net.body(images) - features.net.body(images)).norm(dim=1).mean().detach()
            assert result.distortion[k, j] == pytest.approx(float(moved))


def test_probed_heads_are_tested_on_stored_features(monkeypatch: pytest.MonkeyPatch) -> None:
    features = toy_features()
    evaluator, stack = Evaluator(features), ClientStack(features.net, 2)
    with torch.no_grad():
        stack.params()["head.weight"].add_(torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0)))
    stored = evaluator.test(stack)
    monkeypatch.setattr(evaluator, "shares_body", lambda stack: False)
    full = evaluator.test(stack)
    assert torch.equal(stored.accuracy, full.accuracy)
    assert not stored.distortion.any()
    torch.testing.assert_close(full.distortion, stored.distortion, atol=1e-14, rtol=0)
    sets = [features.data.clients[client].val for client in (0, 3)]
    known = torch.stack([features.of(samples) for samples in sets])
    for one, other in zip(evaluator.hits(stack, sets, known), evaluator.hits(stack, sets), strict=True):
        assert torch.equal(one, other)


def test_theta_g_is_tested_like_any_model() -> None:
    features = toy_features()
    evaluator = Evaluator(features)
    assert torch.equal(evaluator.test(ClientStack(features.net, 1)).accuracy[0], evaluator.global_accuracy)


def test_validation_looks_at_the_clients_own_samples() -> None:
    features = toy_features()
    nets = [toy_net(seed=seed).eval() for seed in (1, 2)]
    data = features.data
    expected = [
        100 * accuracy_score(data.labels[i], net(data.normalize(data.images[i], torch.float64)).argmax(1))
        for net, i in zip(nets, (data.clients[4].val, data.clients[0].val), strict=True)
    ]
    assert Evaluator(features).val(stack_of(nets), [4, 0]).tolist() == pytest.approx(expected)


def test_empty_test_sets_are_nan() -> None:
    data = toy_data(counts=(10, 10), num_test=(5, 0))
    evaluator = Evaluator(GlobalFeatures(toy_net(), data, torch.device("cpu")))
    result = evaluator.test(ClientStack(evaluator.global_features.net, 1))
    assert result.accuracy.isnan().tolist() == [[False, True]]
    assert result.distortion.isnan().tolist() == [[False, True]]
    assert evaluator.val(ClientStack(evaluator.global_features.net, 1), [0]).isnan().tolist() == [False]


def test_modes_are_restored() -> None:
    features = toy_features(norm=True)
    stack = ClientStack(features.net, 2).train()
    stack.freeze_body(True)
    Evaluator(features).test(stack)
    assert stack.module.training
    assert not stack.module.body.training


@pytest.mark.parametrize("count", [1, 2])
def test_hits_are_those_of_each_models_own_samples(count: int) -> None:
    features = toy_features()
    nets = [toy_net(seed=seed).eval() for seed in range(1, count + 1)]
    data = features.data
    sets = [data.clients[4].train, data.clients[0].train[:3]][:count]
    hits = Evaluator(features).hits(stack_of(nets), sets)
    for net, index, found in zip(nets, sets, hits, strict=True):
        images = data.normalize(data.images[index], torch.float64)
        assert torch.equal(found, net(images).argmax(1) == data.labels[index])


def test_a_body_that_differs_only_in_a_buffer_is_not_the_global_models() -> None:
    features = toy_features(norm=True)
    evaluator, stack = Evaluator(features), ClientStack(features.net, 2)
    assert evaluator.shares_body(stack)
    assert not evaluator.test(stack).distortion.any()
    buffer = next(name for name in stack.net_buffers() if name.endswith("running_mean"))
    stack.write({buffer: stack.net_buffers()[buffer] + 0.1})
    assert not evaluator.shares_body(stack)
    assert (evaluator.test(stack).distortion > 0).all()


def test_choices_are_made_on_the_validation_sets_of_all_clients() -> None:
    features = toy_features(norm=True)
    nets = [toy_net(norm=True, seed=seed).eval() for seed in range(2)]
    data = features.data
    result = Evaluator(features).on_val.test(stack_of(nets)).accuracy
    for k, net in enumerate(nets):
        for j, client in enumerate(data.clients):
            images = data.normalize(data.images[client.val], torch.float64)
            assert result[k, j] == pytest.approx(100 * accuracy_score(data.labels[client.val], net(images).argmax(1)))


@pytest.mark.parametrize("norm", [False, True])
def test_a_sample_of_clients_is_part_of_the_whole_matrix(norm: bool) -> None:
    features = toy_features(norm=norm)
    stack = stack_of([toy_net(norm=norm, seed=seed).eval() for seed in (1, 2)])
    whole = Evaluator(features).test(stack)
    some = Evaluator(features, drawn=[0, 3], own=[4, 3])
    for found, full in ((some.test(stack), whole), (some.test_with_scores(stack, [4, 3])[0], whole)):
        assert found.accuracy.isnan().tolist() == [[False, True, True, False, False], [False, True, True, False, True]]
        assert found.distortion.isnan().tolist() == found.accuracy.isnan().tolist()
        tested = ~found.accuracy.isnan()
        assert torch.equal(found.accuracy[tested], full.accuracy[tested])
        torch.testing.assert_close(found.distortion[tested], full.distortion[tested])


def test_scores_of_models_are_those_of_their_predictions() -> None:
    features = toy_features(norm=True)
    nets = [toy_net(norm=True, seed=seed).eval() for seed in (1, 2)]
    evaluation, scores = Evaluator(features).test_with_scores(stack_of(nets), [0, 2])
    assert torch.equal(evaluation.accuracy, Evaluator(features).test(stack_of(nets)).accuracy)
    data = features.data
    for k, net in enumerate(nets):
        for j, client in enumerate(data.clients):
            logits = net(data.normalize(data.images[client.test], torch.float64)).detach()
            expected = torch.nn.functional.cross_entropy(logits, data.labels[client.test])
            assert scores["nll"][k, j] == pytest.approx(float(expected), rel=1e-5)
            balanced = balanced_accuracy_score(data.labels[client.test], logits.argmax(1))
            assert scores["balanced_accuracy"][k, j] == pytest.approx(100 * balanced)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc"])
def test_another_metric_replaces_accuracy(metric: Any) -> None:
    features = toy_features()
    evaluator = Evaluator(features, metric=metric)
    stack = stack_of([toy_net(seed=seed).eval() for seed in (1, 2)])
    evaluation, scores = evaluator.test_with_scores(stack, [0, 1])
    assert torch.equal(evaluation.accuracy, scores[metric])
    assert torch.equal(evaluator.test(stack).accuracy, scores[metric])
    own = evaluator.test(ClientStack(features.net, 1)).accuracy
    assert torch.equal(evaluator.global_evaluation.accuracy, own)
    assert not torch.equal(own, Evaluator(features).global_evaluation.accuracy)
