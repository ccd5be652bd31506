from __future__ import annotations

import pytest
import torch

from lpft.evaluation.matrix import Evaluator
from lpft.personalization.results import TrainedStack, evaluate_stack
from tests.evaluation.test_matrix import stack_of
from tests.toy import toy_features, toy_net


def test_hits_before_and_after_are_those_of_the_clients_own_samples() -> None:
    features = toy_features()
    evaluator, nets = Evaluator(features), [toy_net(seed=seed).eval() for seed in (1, 2)]
    evaluated = evaluate_stack(evaluator, TrainedStack(stack_of(nets), features.net, [], [0.0, 0.0]), [4, 0])
    for k, client in enumerate((4, 0)):
        val = [features.data.clients[client].val]
        (before,) = evaluator.hits(stack_of([features.net]), val)
        (after,) = evaluator.hits(stack_of([nets[k]]), val)
        assert torch.equal(evaluated.val_before[k], before)
        assert torch.equal(evaluated.val_after[k], after)
        (train,) = evaluator.hits(stack_of([nets[k]]), [features.data.clients[client].train])
        assert torch.equal(evaluated.train[k], train)


@pytest.mark.parametrize("value", [torch.nan, 1e308])
def test_the_global_model_replaces_a_diverged_network(value: float) -> None:
    """Finite parameters are not enough: the features may overflow."""
    features = toy_features()
    evaluator, stack = Evaluator(features), stack_of([toy_net(seed=seed).eval() for seed in (1, 2)])
    for name in ("body.0.weight", "body.6.weight"):
        stack.params()[name].data[1] = value
    evaluated = evaluate_stack(evaluator, TrainedStack(stack, features.net, [], [0.0, 0.0]), [0, 1])
    assert evaluated.finite == [True, False]
    assert not evaluated.shares_body
    assert evaluated.test.accuracy[1].tolist() == pytest.approx(evaluator.global_accuracy.tolist())
    assert all(torch.equal(t, evaluated.states[1][name]) for name, t in features.net.state_dict().items())
