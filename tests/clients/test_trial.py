from __future__ import annotations

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lpft
from lpft.clients.stack import ClientStack, sample_losses
from lpft.clients.trial import stacking_problem
from lpft.config.files import ConfigError
from lpft.config.study import open_study
from lpft.models.base import BodyHeadNet, build_network
from lpft.types import DataSpec
from tests.awkward import BODIES, Awkward
from tests.toy import largest_difference

pytestmark = pytest.mark.usefixtures("undrawn")

SPEC = DataSpec(1, 8, 3)
ONE_BY_ONE = {
    "LooksAtValues", "Item", "OldSpectralNorm", "SpectralNorm", "ReplacedBuffer", "Checkpointed", "OwnFunction",
    "Recurrent", "NoMomentum",
}  # fmt: skip
RANDOM = {"Noise", "OwnGenerator", "Attention"}
METHODS = (
    "none",
    "ft",
    "lpft",
    "adabn",
    "sparse",
    "lss",
    "soup",
    "stats_mix",
    "wise_ft",
    "lora",
    "adapters",
    "rotated",
)


def awkward(body: str, dtype: torch.dtype = torch.float64) -> BodyHeadNet:
    return build_network(partial(Awkward, body=body), SPEC, dtype, seed=0)


@pytest.mark.parametrize("body", BODIES)
def test_stacking_is_tried_before_training(body: str) -> None:
    assert (stacking_problem(awkward(body), SPEC) is not None) == (body in ONE_BY_ONE)


@pytest.mark.parametrize("body", sorted(BODIES.keys() - ONE_BY_ONE - RANDOM))
def test_stacks_equal_clients_one_by_one(body: str) -> None:
    net = awkward(body)
    images = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])

    def trained(clients: list[int]) -> list[dict[str, torch.Tensor]]:
        stack = ClientStack(net, len(clients)).train()
        optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            sample_losses(stack(images[clients]), labels[clients]).mean(1).sum().backward()
            optimizer.step()
        return stack.states()

    for together, alone in zip(trained([0, 1]), [*trained([0]), *trained([1])], strict=True):
        assert together.keys() == net.state_dict().keys()
        assert largest_difference(together, alone) < 1e-9


def test_the_trial_leaves_no_trace() -> None:
    net = awkward("ChangedBuffer")
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    stacking_problem(net, SPEC)
    assert largest_difference(before, dict(net.state_dict())) == 0
    assert torch.equal(random, torch.get_rng_state())


def experiment(
    body: str, out: Path, clients_per_stack: object, num_clients: int = 2, methods: tuple[str, ...] = ()
) -> Any:
    folder = Path(__file__).parents[2] / "configs" / "methods"
    chosen = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in methods or ("ft", "lp")}
    source = {"counts": [20] * num_clients, "num_test": 4, "num_val": 3}
    return {
        "out": str(out),
        "seeds": [0],
        "data": {"source": {"class_path": "tests.toy.ToySource", "init_args": source}},
        "network": {"class_path": "tests.awkward.Awkward", "init_args": {"body": body}},
        "federation": {"rounds": 1, "batch_size": 16, "clients_per_stack": clients_per_stack},
        "personalization": {"epochs": 5, "batch_size": 16, "clients_per_stack": clients_per_stack},
        "methods": chosen,
        "trainer": {"accelerator": "cpu", "devices": 1},
    }


@pytest.mark.parametrize(("body", "works"), [("LooksAtValues", False), ("WeightNorm", True)])
def test_auto_trains_unstackable_networks_one_by_one(
    body: str, works: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lpft"):
        study = open_study("run", experiment(body, tmp_path, "auto", num_clients=16))
    config = study.experiments[0].config
    sizes = [config["federation"]["clients_per_stack"], config["personalization"]["clients_per_stack"]]
    assert [*sizes, config["personalization"]["heads_per_stack"]] == ([4] * 3 if works else [1] * 3)
    assert sum("trained one by one" in record.message for record in caplog.records) == (not works)


@pytest.mark.parametrize("body", ["LooksAtValues", "OldSpectralNorm", "Recurrent"])
def test_impossible_stacks_are_refused_before_training(body: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"federation\.clients_per_stack=2.*HINT.*clients_per_stack 1"):
        lpft.run(experiment(body, tmp_path, 2))
    assert not list(tmp_path.glob("seed_*"))


@pytest.mark.parametrize(("body", "size"), [("LooksAtValues", 1), ("Tied", 1), ("Tied", 2), ("WeightNorm", 2)])
def test_every_kind_of_method_personalizes_them(body: str, size: int, tmp_path: Path) -> None:
    results = lpft.run(experiment(body, tmp_path, size, methods=METHODS))
    assert set(results.clients["status"]) == {"ok"}
    assert set(results.clients["method"]) == set(METHODS)
