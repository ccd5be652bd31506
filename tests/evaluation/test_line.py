from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpft.clients.stack import ClientStack
from lpft.evaluation.line import evaluate_line
from lpft.evaluation.matrix import Evaluator
from lpft.models.interpolation import interpolate
from tests.evaluation.test_matrix import stack_of
from tests.toy import toy_features, toy_net


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_interpolation_by_hand_and_its_ends_bit_for_bit(seed: int, a: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = {"weight": torch.randn(3, generator=generator), "count": torch.tensor(4)}
    end = {"weight": torch.randn(2, 3, generator=generator), "count": torch.tensor([7, 9])}
    found = interpolate(start, end, a)
    torch.testing.assert_close(found["weight"], (1 - a) * start["weight"] + a * end["weight"], atol=1e-6, rtol=0)
    assert found["count"].tolist() == [7, 9]
    assert torch.equal(interpolate(start, end, 0.0)["weight"], start["weight"].expand(2, 3))
    assert torch.equal(interpolate(start, end, 1.0)["weight"], end["weight"])


@pytest.mark.parametrize("num_clients", [1, 2])
def test_models_on_the_line_are_tested_like_any_other(num_clients: int) -> None:
    features = toy_features(norm=True)
    evaluator, clients = Evaluator(features), [3, 1][:num_clients]
    nets = [toy_net(norm=True, seed=seed).eval() for seed in range(1, num_clients + 1)]
    for net in nets:
        net.body[1].running_mean.add_(0.1)
    stack = stack_of(nets)
    before = {name: tensor.clone() for name, tensor in {**stack.params(), **stack.net_buffers()}.items()}
    points = evaluate_line(evaluator, stack, features.net, clients, 3)
    assert [point.a for point in points] == [0.25, 0.5, 0.75]
    for point in points:
        between = []
        for net in nets:
            own = toy_net(norm=True).eval()
            own.load_state_dict(interpolate(features.net.state_dict(), net.state_dict(), point.a))
            between.append(own)
        expected = evaluator.test(stack_of(between))
        assert torch.equal(point.test.accuracy, expected.accuracy)
        torch.testing.assert_close(point.test.distortion, expected.distortion)
        assert torch.equal(point.val, evaluator.val(stack_of(between), clients))
    assert all(torch.equal(t, before[name]) for name, t in {**stack.params(), **stack.net_buffers()}.items())


def test_probed_heads_are_tested_on_stored_features(monkeypatch: pytest.MonkeyPatch) -> None:
    features = toy_features(norm=True)
    evaluator, stack = Evaluator(features), ClientStack(features.net, 2)
    with torch.no_grad():
        stack.params()["head.weight"].add_(torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(ClientStack, "features", lambda *_: pytest.fail("a body ran"))
    monkeypatch.setattr(Evaluator, "val", lambda *_: torch.zeros(2))
    assert not any(point.test.distortion.any() for point in evaluate_line(evaluator, stack, features.net, [0, 1], 2))
