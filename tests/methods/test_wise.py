from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from lpft.methods.base import Method
from lpft.methods.ft import FT, NoFineTuning
from lpft.methods.lpft import LPFT
from lpft.methods.wise import WiseFT, WiseLPFT
from tests.methods.fitting import (
    LP_LR,
    assert_same_bits,
    assert_stacked_equals_one_by_one,
    passes,
    personalize,
)
from tests.toy import same_bits, toy_features

PARENTS: list[tuple[Any, Any, dict[str, Any]]] = [
    (WiseFT, FT, {}),
    (WiseLPFT, LPFT, {"lp_epochs": 2, "lp_lr": LP_LR}),
]


@pytest.mark.parametrize(("method", "parent", "more"), PARENTS)
@pytest.mark.parametrize("norm", [False, True])
def test_the_whole_way_is_the_parent_bit_for_bit(method: Any, parent: Any, more: dict[str, Any], norm: bool) -> None:
    assert_same_bits(method(a=1.0, **more), parent(**more), norm)


@pytest.mark.parametrize(("method", "parent", "more"), PARENTS)
@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_no_way_is_the_global_model(method: Any, parent: Any, more: dict[str, Any], clients: list[int]) -> None:
    features = toy_features(norm=True)
    ends = [personalize(features, clients, one) for one in (method(a=0.0, **more), parent(**more), NoFineTuning())]
    counter = "body.1.num_batches_tracked"
    for stayed, moved, start in zip(*ends, strict=True):
        assert same_bits(stayed, {**start, counter: moved[counter]})


def test_half_way_with_statistics_by_hand() -> None:
    features = toy_features(norm=True)
    start, (moved,), (half,) = (
        features.net.state_dict(),
        personalize(features, [1], FT()),
        personalize(features, [1], WiseFT()),
    )
    for name in ("body.1.running_var", "body.6.weight", "head.bias"):
        torch.testing.assert_close(half[name], (start[name] + moved[name]) / 2)


def choose(accuracies: list[float]) -> float:
    """The weight after ten candidates, a = 1.0, 0.9, ..., 0.1, on the line from 0 to 1."""
    method, start, memory = WiseFT(a="val"), {"w": torch.tensor(0.0)}, {}
    params = {"w": torch.tensor(1.0)}
    for number, accuracy in enumerate(accuracies):
        params = method.candidate(number, params, start, memory)
        assert float(params["w"]) == pytest.approx(1 - number / 10)
        memory = method.judge(number, params, start, memory, torch.tensor(accuracy))
    return float(method.finish(params, start, memory)["w"])


def test_the_best_on_validation_data_is_chosen_of_equal_ones_the_nearest() -> None:
    assert choose([50.0, 60, 70, 80, 70, 60, 50, 50, 50, 50]) == pytest.approx(0.7)
    assert choose([50.0, 80, 70, 80, 70, 60, 50, 50, 50, 50]) == pytest.approx(0.7)
    assert choose([80.0, 70, 70, 70, 70, 60, 50, 50, 50, 50]) == 1
    assert choose([math.nan] * 10) == 0.5


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_the_choice_is_one_of_ten_models_on_the_line(clients: list[int]) -> None:
    features = toy_features(norm=True)
    start = features.net.state_dict()
    trained, chosen = (personalize(features, clients, method) for method in (FT(), WiseFT(a="val")))
    for full, state in zip(trained, chosen, strict=True):
        way = full["head.weight"] - start["head.weight"]
        a = float((state["head.weight"] - start["head.weight"]).norm() / way.norm())
        assert 10 * a == pytest.approx(round(10 * a), abs=1e-4)
        torch.testing.assert_close(state["body.1.running_mean"] - start["body.1.running_mean"],
                                   a * (full["body.1.running_mean"] - start["body.1.running_mean"]))  # fmt: skip


@pytest.mark.parametrize("a", [0.3, "val"])
def test_stacked_equals_one_by_one(a: Any) -> None:
    assert_stacked_equals_one_by_one(WiseFT(a=a), norm=True, tolerance=1e-7)


def test_a_choice_is_paid_for_on_validation_data() -> None:
    assert passes(WiseFT(epochs=4)) == [4, 4]
    assert passes(WiseFT(a="val", epochs=4)) == pytest.approx([4 + 10 * 6 / 33 / 3, 4 + 10 * 6 / 40 / 3])


@pytest.mark.parametrize(("text", "a"), [("val", "val"), ("0.25", 0.25)])
def test_settings_are_those_of_both_parts(text: str, a: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=Method)
    args = ["--method=lpft.methods.wise.WiseLPFT", f"--method.a={text}", "--method.lp_epochs=3", "--method.flood=0.1"]
    method = parser.instantiate(parser.parse_args(args)).method
    assert (method.a, method.lp_epochs, method.flood) == (a, 3, 0.1)
