from __future__ import annotations

import pytest
import torch

from lpft.evaluation.matrix import Evaluator
from lpft.methods.rotated import Rotated
from lpft.models.lora import load_personalized
from lpft.models.rotation import random_orthogonal, rotate_features
from lpft.runtime.seeding import generator
from tests.methods.fitting import fit, passes, personalizer, settings
from tests.toy import largest_difference, toy_features, toy_net


def test_the_matrix_is_orthogonal() -> None:
    q = random_orthogonal(7, generator(0))
    torch.testing.assert_close(q @ q.T, torch.eye(7, dtype=torch.float64))
    assert not torch.allclose(q, random_orthogonal(7, generator(1)))


def test_a_quarter_turn_by_hand() -> None:
    """Q turns (a, b) into (-b, a), and a row (u, v) of the head into (-v, u)."""
    net, x = toy_net(), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    net.body.append(torch.nn.Linear(10, 2))
    net.head = torch.nn.Linear(2, 3)
    net.double()
    turned = rotate_features(net, torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))
    features = net.body(x)
    torch.testing.assert_close(turned.body(x), torch.stack([-features[:, 1], features[:, 0]], dim=1))
    weight = net.head.weight
    torch.testing.assert_close(turned.head.weight, torch.stack([-weight[:, 1], weight[:, 0]], dim=1))
    torch.testing.assert_close(turned(x), net(x))


@pytest.mark.parametrize("clients", [[1], [1, 2]])
@pytest.mark.parametrize("norm", [False, True])
def test_predictions_stay_and_features_move_far(clients: list[int], norm: bool) -> None:
    features = toy_features(norm)
    evaluator = Evaluator(features)
    stack = fit(personalizer(features, clients, Rotated(), settings())).stack
    evaluation = evaluator.test(stack)
    assert torch.equal(evaluation.accuracy, evaluator.global_evaluation.accuracy.expand(len(clients), -1))
    ratio = evaluation.distortion / evaluator.global_norms
    assert ratio.min() > 1
    assert ratio.max() < 2


def test_a_saved_model_can_be_loaded_and_rotates() -> None:
    features, x = toy_features(norm=True), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    (state,) = fit(personalizer(features, [1], Rotated(), settings())).stack.states()
    loaded = load_personalized(toy_net(norm=True, seed=5), state).eval()
    torch.testing.assert_close(loaded(x), features.net(x))
    assert not torch.allclose(loaded.body(x), features.net.body(x), rtol=0.1)
    assert largest_difference(dict(loaded.state_dict()), state) == 0


def test_plain_bodies_rotate_in_stacks_as_well() -> None:
    from lpft.clients.stack import ClientStack
    from lpft.models.mlp import MLP
    from lpft.types import DataSpec

    net, x = MLP(DataSpec(1, 8, 3)), torch.randn(4, 1, 8, 8)
    rotated = rotate_features(net, random_orthogonal(net.head.in_features, generator(0)))
    features = ClientStack(rotated, 2).features(x, shared=True)
    torch.testing.assert_close(features, rotated.body(x).expand_as(features))


def test_it_costs_nothing() -> None:
    assert passes(Rotated()) == [0, 0]
