"""Accuracy by group: by hand, against scikit-learn, and alike for stacks, probed heads and the global model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import recall_score

from lpft.clients.features import GlobalFeatures
from lpft.clients.stack import ClientStack
from lpft.data.datamodule import FederatedDataModule
from lpft.evaluation.groups import by_group, worst_group
from lpft.evaluation.matrix import Evaluator
from lpft.models.weights import load_model
from lpft.storage.run import read_client_result
from tests.commands import table, toy
from tests.evaluation.test_matrix import stack_of
from tests.toy import ToySource, toy_net

NAMES = ("left", "right", "nobody")


class Grouped(ToySource):
    """Toy clients whose samples are of group 0, of group 1, or (every third) of none; nobody is of group 2."""

    def draw(self, rng: np.random.Generator, client: int, split: str, num: int) -> tuple[np.ndarray, ...]:
        images = rng.integers(0, 256, (num, 1, 8, 8)).astype(np.uint8)
        return images, rng.integers(0, 3, num), np.arange(num) % 3 - 1

    def table(self) -> pd.DataFrame:
        table = super().table()
        return table.assign(group=pd.Categorical.from_codes(table["group"], pd.Index(NAMES)))


def grouped(**settings: object) -> FederatedDataModule:
    data = FederatedDataModule(Grouped(**settings))  # type: ignore[arg-type]
    data.setup()
    return data


def test_by_hand() -> None:
    """Model 1 of two: 1 of 4 men and 2 of 2 women at home; with the other client's 3 of 4 and 0 of 1."""
    found = by_group(["men", "women"], np.array([[3, 0], [1, 2]]), np.array([[4, 1], [4, 2]]), own=1)
    assert found == {
        "men": {"local": 25.0, "all": 50.0, "num_local": 4, "num_all": 8},
        "women": {"local": 100.0, "all": pytest.approx(200 / 3), "num_local": 2, "num_all": 3},
    }
    assert (worst_group(found, "local"), worst_group(found, "all")) == (25.0, 50.0)


def test_a_group_without_samples_is_not_the_worst() -> None:
    found = by_group(["men", "women"], np.array([[0, 2]]), np.array([[0, 3]]), own=0)
    assert found["men"] == {"local": None, "all": None, "num_local": 0, "num_all": 0}
    assert worst_group(found, "local") == pytest.approx(200 / 3)
    nothing = by_group(["men"], np.zeros((1, 1), int), np.zeros((1, 1), int), own=0)
    assert worst_group(nothing, "all") is None


@pytest.mark.parametrize("count", [1, 3])
def test_counted_as_scikit_learn_does(count: int) -> None:
    """Among the samples of a group, accuracy is the recall of the class "predicted right"."""
    data = grouped()
    features = GlobalFeatures(toy_net(norm=True), data, torch.device("cpu"))
    nets = [toy_net(norm=True, seed=seed).eval() for seed in range(count)]
    evaluator = Evaluator(features)
    result = evaluator.test(stack_of(nets))
    sets = [client.test for client in data.clients]
    for k, net in enumerate(nets):
        found = by_group(NAMES, result.group_hits[k].numpy(), evaluator.group_sizes.numpy(), own=k)
        for where, index in (("local", sets[k]), ("all", torch.cat(sets))):
            with torch.no_grad():
                predicted = net(data.normalize(data.images[index], torch.float64)).argmax(1)
            right = (predicted == data.labels[index]).numpy()
            per_group = recall_score(
                data.arrays.groups[index] + 1,
                np.where(right, data.arrays.groups[index] + 1, -1),
                average=None,
                labels=[1, 2],
            )
            assert [found[name][where] for name in NAMES[:2]] == pytest.approx(100 * per_group)
            assert found["nobody"][where] is None
            assert found["left"][f"num_{where}"] == int((data.arrays.groups[index] == 0).sum())


def test_a_stack_counts_like_its_models_one_by_one() -> None:
    features = GlobalFeatures(toy_net(), grouped(), torch.device("cpu"))
    nets = [toy_net(seed=seed).eval() for seed in range(3)]
    evaluator = Evaluator(features)
    together = evaluator.test(stack_of(nets))
    alone = [evaluator.test(stack_of([net])) for net in nets]
    assert torch.equal(together.group_hits, torch.cat([each.group_hits for each in alone]))
    assert torch.equal(together.accuracy, torch.cat([each.accuracy for each in alone]))


def test_groups_do_not_change_the_matrix() -> None:
    data = grouped()
    net, nets = toy_net(), [toy_net(seed=seed).eval() for seed in range(2)]
    with_groups = Evaluator(GlobalFeatures(net, data, torch.device("cpu"))).test(stack_of(nets))
    assert data.arrays is not None
    data.arrays = replace(data.arrays, group_names=(), groups=torch.full_like(data.arrays.groups, -1))
    without = Evaluator(GlobalFeatures(net, data, torch.device("cpu"))).test(stack_of(nets))
    assert torch.equal(with_groups.accuracy, without.accuracy)
    assert torch.equal(with_groups.distortion, without.distortion)
    assert without.group_hits.shape == (2, 5, 0)


def test_probed_heads_and_the_global_model_are_counted_like_any_model(monkeypatch: pytest.MonkeyPatch) -> None:
    features = GlobalFeatures(toy_net(), grouped(), torch.device("cpu"))
    evaluator, stack = Evaluator(features), ClientStack(features.net, 2)
    probed = evaluator.test(stack)
    monkeypatch.setattr(evaluator, "shares_body", lambda stack: False)
    full = evaluator.test(stack)
    assert torch.equal(full.group_hits, probed.group_hits)
    assert torch.equal(evaluator.global_evaluation.group_hits[0], probed.group_hits[0])
    assert probed.group_hits.any()


def test_a_client_without_test_samples_has_no_group() -> None:
    evaluator = Evaluator(GlobalFeatures(toy_net(), grouped(counts=(10, 10), num_test=(6, 0)), torch.device("cpu")))
    result = evaluator.test(ClientStack(evaluator.global_features.net, 2))
    assert evaluator.group_sizes.tolist() == [[2, 2, 0], [0, 0, 0]]
    found = by_group(NAMES, result.group_hits[1].numpy(), evaluator.group_sizes.numpy(), own=1)
    assert worst_group(found, "local") is None
    assert worst_group(found, "all") is not None


def test_client_results_agree_with_their_models(out: Path) -> None:
    """The saved models, tested again one by one; a client that has diverged holds what theta_G does."""
    settings = ("--seeds", "[0]", "--data.source", "tests.evaluation.test_groups.Grouped", "--federation.rounds", 1)
    wild = ("--methods.wild", "lpft.methods.ft.FT", "--methods.wild.lr", 1e30)
    toy("federate", out, *settings)
    run = toy("personalize", out, *settings, *wild)
    data = grouped()
    start = toy_net(norm=True, dtype=torch.float32)
    start.load_state_dict(load_model(run.global_model(0))[0])
    evaluator = Evaluator(GlobalFeatures(start, data, torch.device("cpu")))
    statuses = set()
    for method in ("none", "ft", "lpft", "wild"):
        for k, client in enumerate(data.clients):
            cell = read_client_result(run.cell(0, method, client.name))
            net = toy_net(norm=True, dtype=torch.float32).eval()
            net.load_state_dict(load_model(run.model(0, method, client.name))[0])
            hits = evaluator.test(stack_of([net])).group_hits[0].numpy()
            assert cell.groups == by_group(NAMES, hits, evaluator.group_sizes.numpy(), own=k)
            statuses.add((method, cell.status))
            if cell.status == "diverged":
                assert cell.groups == read_client_result(run.cell(0, "none", client.name)).groups
    assert ("wild", "diverged") in statuses
    rows = table(run.method_file(0, "lpft", "clients.csv"))
    cell = read_client_result(run.cell(0, "lpft", "c0"))
    assert float(rows[0]["group_all/right"]) == cell.groups["right"]["all"]  # type: ignore[index]
    assert rows[0]["group_all/nobody"] == ""
    assert "worst_group_all" in table(run.root / "results.csv")[0]
