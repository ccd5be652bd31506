from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lpft.evaluation.matrix import Evaluator
from lpft.methods import logistic_head as logistic
from lpft.methods.base import HeadData, Phase
from lpft.methods.ft import FT
from lpft.methods.heads import least_squares_head
from lpft.methods.logistic_head import logistic_head
from lpft.methods.lpft import LPFT
from tests.methods.fitting import (
    LP_LR,
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    fit,
    passes,
    personalize,
    personalizer,
    settings,
)
from tests.toy import largest_difference, same_bits, toy_features


@pytest.fixture(autouse=True)
def _few_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "STRENGTHS", np.logspace(-1, 1, 3))  # all hundred take seconds
    monkeypatch.setattr(logistic, "MAX_ITER", 20)


STILL = settings(epochs=1)
VARIANTS: list[dict[str, Any]] = [
    {"head_init": "random"},
    {"head_init": "zero"},
    {"head_init": "lstsq"},
    {"lp_solver": "logreg"},
    {"bn": "eval"},
    {"flood": 0.5},
]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_stacked_equals_one_by_one(variant: dict[str, Any], norm: bool) -> None:
    assert_stacked_equals_one_by_one(LPFT(lp_epochs=2, lp_lr=LP_LR, **variant), norm, epochs=3)


@pytest.mark.parametrize("variant", VARIANTS[:4], ids=str)
def test_only_the_head_differs_where_only_the_head_is_trained(variant: dict[str, Any]) -> None:
    features = toy_features(norm=True, dtype=torch.float32)
    module = fit(personalizer(features, [1, 2], LPFT(lp_epochs=None, **variant), STILL))
    assert Evaluator(features).shares_body(module.stack)
    start = dict(features.net.state_dict())
    for state in module.stack.states():
        body = {name for name in state if name.startswith("body.")}
        assert same_bits({name: state[name] for name in body}, {name: start[name] for name in body})
        assert not torch.equal(state["head.weight"], start["head.weight"])


@pytest.mark.parametrize(
    ("method", "solve"),
    [
        (LPFT(lp_epochs=None, lp_solver="logreg"), logistic_head),
        (LPFT(lp_epochs=None, lp_lr=1e-30, head_init="lstsq"), least_squares_head),
    ],
)
def test_heads_are_solved_for_on_theta_gs_features(method: LPFT, solve: Any) -> None:
    features = toy_features(norm=True)
    data, client = features.data, features.data.clients[1]
    (state,) = personalize(features, [1], method, STILL)
    of_train, of_val = data.labels[client.train], data.labels[client.val]
    counts = of_train.bincount(minlength=3)  # not used
    known = HeadData(features.train(1), of_train, features.of(client.val), of_val, counts, counts)
    for name, tensor in solve(dict(features.net.head.state_dict()), known).items():
        torch.testing.assert_close(state[f"head.{name}"], tensor)


def test_every_client_and_seed_has_a_random_head_of_its_own() -> None:
    def drawn(clients: list[int], seed: int) -> list[torch.Tensor]:
        method = LPFT(lp_epochs=None, lp_lr=1e-30, head_init="random")
        states = fit(personalizer(toy_features(), clients, method, STILL, seed)).stack.states()
        return [state["head.weight"] for state in states]

    one, two = drawn([1, 2], seed=0)
    assert not torch.allclose(one, two)
    assert torch.equal(drawn([2], seed=0)[0], two)
    assert not torch.allclose(drawn([2], seed=1)[0], two)


def test_a_solved_head_is_what_fine_tuning_starts_from() -> None:
    features = toy_features()
    (tuned,) = personalize(features, [1], LPFT(lp_epochs=0, lp_solver="logreg", lr=1e-30), STILL)
    (solved,) = personalize(features, [1], LPFT(lp_epochs=None, lp_solver="logreg"), STILL)
    assert largest_difference(tuned, solved) < 1e-20
    assert largest_difference(tuned, dict(features.net.state_dict())) > 1e-3


def test_a_solved_head_has_no_epochs() -> None:
    assert LPFT(lp_epochs=5, lp_solver="logreg").phases(15) == [Phase(10)]
    assert LPFT(lp_epochs=0, lp_solver="logreg").phases(15) == [Phase(15)]
    assert LPFT(lp_epochs=None, lp_solver="logreg").phases(15) == []


def test_evaluation_mode_holds_in_the_second_phase() -> None:
    assert LPFT(bn="eval").phases(15) == [Phase(5, "head", 1e-2), Phase(10, bn="eval")]
    assert_same_bits(LPFT(lp_epochs=0, bn="eval"), FT(bn="eval"))
    features = toy_features(norm=True)
    (state,) = personalize(features, [1], LPFT(lp_epochs=2, bn="eval"), settings(epochs=3))
    assert torch.equal(state["body.1.running_var"], features.net.state_dict()["body.1.running_var"])


def test_flooding_holds_in_both_phases() -> None:
    """The level is above all losses: training ascends all along, where without it it descends."""
    plain, flooded = (
        [record.train_loss[0] for record in fit(personalizer(toy_features(), [1], method, settings())).records]
        for method in (LPFT(lp_epochs=3, lp_lr=LP_LR), LPFT(lp_epochs=3, lp_lr=LP_LR, flood=50.0))
    )
    assert plain[0] > plain[2] > plain[5]
    assert flooded[0] < flooded[2]  # the head alone
    assert 1.5 * flooded[3] < flooded[5]  # everything


def test_a_head_of_its_own_costs_a_forward_pass() -> None:
    """Over 33 or 40 training samples, which gives the features of the probing phase, too, and 6 to choose by."""
    assert passes(LPFT(lp_epochs=0, head_init="lstsq")) == pytest.approx([6 + 39 / 33 / 3, 6 + 46 / 40 / 3])
    assert passes(LPFT(lp_epochs=2, lp_solver="logreg")) == pytest.approx([4 + 39 / 33 / 3, 4 + 46 / 40 / 3])
    assert passes(LPFT(lp_epochs=2, lp_solver="logreg"), num_val=0) == pytest.approx([4 + 1 / 3] * 2)


def test_two_wishes_for_the_head_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`lp_solver=logreg`.*`head_init=zero`.*HINT"):
        LPFT(lp_solver="logreg", head_init="zero")
