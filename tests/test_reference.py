"""A run against a second implementation: plain loops in float64 that share only data and network with the engine.

Whatever is wrong would have to be wrong twice: seeds, cohorts, batches, weights, norm statistics, phases, what is
tested on what, and every figure of a cell and of results.csv that follows from it.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lpft.storage.run import Run, read_client_result
from tests.commands import TOY, lpft
from tests.toy import ToyNet, toy_module

SEEDS, ROUNDS, LOCAL_EPOCHS, SHARE, EPOCHS = (0, 3), 4, 2, 0.6, 3
COUNTS, TESTS = (20, 33, 40, 24, 17, 5, 0), (12, 7, 20, 9, 12, 4, 6)
FEDERATION = {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.01}
PERSONALIZATION = {"lr": 0.003, "momentum": 0.9, "weight_decay": 0.02}
LP_LR, LP_EPOCHS = 0.05, {"none": 0, "ft": 0, "lpft": 1, "lp": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("reference")
    config = yaml.safe_load(Path(TOY).read_text())
    config["seeds"] = list(SEEDS)
    config["data"]["source"]["init_args"] = {"counts": list(COUNTS), "num_test": list(TESTS)}
    config["federation"] |= {"rounds": ROUNDS, "local_epochs": LOCAL_EPOCHS, "participation": SHARE}
    config["federation"]["optimizer"]["init_args"] = FEDERATION
    config["personalization"] |= {"epochs": EPOCHS, "batch_size": 8, "eval_every": 1, "clients_per_stack": 3}
    config["personalization"]["optimizer"]["init_args"] = PERSONALIZATION
    for name in ("lpft", "lp"):
        probing = {"lp_epochs": LP_EPOCHS[name], "lp_lr": LP_LR}
        config["methods"][name] = {"class_path": "lpft.methods.lpft.LPFT", "init_args": probing}
    config["trainer"] |= {"precision": "64-true", "devices": 2}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for stage in ("federate", "personalize"):
        lpft(stage, "-c", folder / "config.yaml", "--out", folder / "run")
    return Run(folder / "run")


class World:
    """The toy clients, and what one does with them by hand."""

    def __init__(self, seed: int) -> None:
        self.seed, self.data = seed, toy_module(counts=COUNTS, num_test=TESTS)
        self.data.setup()
        self.clients = self.data.clients
        self.x, self.y = (self.data.images.double() / 255 - 0.5) / 0.5, self.data.labels

    def draw(self, *key: Any) -> torch.Generator:
        return torch.Generator().manual_seed(_number(self.seed, *key))

    def batches(self, client: int, size: int, *key: Any) -> Iterator[Tensor]:
        own = self.clients[client].train
        order = torch.randperm(len(own), generator=self.draw(*key, self.clients[client].name)).tolist()
        for step in range(math.ceil(len(own) / size)):
            yield own[[order[(step * size + i) % len(own)] for i in range(size)]]

    def step(self, net: nn.Module, optimizer: torch.optim.Optimizer, index: Tensor) -> list[float]:
        optimizer.zero_grad()
        losses = cross_entropy(net(self.x[index]), self.y[index], reduction="none")
        losses.mean().backward()
        optimizer.step()
        return losses.tolist()

    def federate(self) -> tuple[nn.Module, list[list[float]]]:
        """Return theta_G, and round, train loss, val accuracy and size of the cohort of every round."""
        with torch.random.fork_rng():
            torch.manual_seed(_number(self.seed, "network"))
            net, history = ToyNet(self.data.spec, norm=True).double(), []
        able = [i for i, count in enumerate(COUNTS) if count]
        for number in range(1, ROUNDS + 1):
            drawn = torch.randperm(len(able), generator=self.draw("cohort", number))[: round(SHARE * len(able))]
            states, losses = [], []
            for client in [able[i] for i in drawn]:
                own = copy.deepcopy(net).train()
                optimizer = torch.optim.SGD(own.parameters(), **FEDERATION)
                for epoch in range(LOCAL_EPOCHS):
                    seen: list[float] = []
                    for index in self.batches(client, 16, "federate", number, epoch):
                        seen += self.step(own, optimizer, index)
                losses.append(np.mean(seen[: COUNTS[client]]))  # what fills up the last batch has been counted
                states.append((COUNTS[client], own.state_dict()))
            total = sum(count for count, _ in states)
            for name, tensor in net.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(sum(count / total * state[name] for count, state in states))
            val = np.mean([self.accuracy(net, client.val) for client in self.clients])
            history.append([number, np.mean(losses), val, len(states)])
        return net, history

    def personalize(self, theta: nn.Module, client: int, method: str, epochs: int = EPOCHS) -> nn.Module:
        net = copy.deepcopy(theta)
        for epoch in range(epochs if COUNTS[client] and method != "none" else 0):
            probing = epoch < LP_EPOCHS[method]
            if epoch in (0, LP_EPOCHS[method]):
                trained, rate = (net.head, {"lr": LP_LR}) if probing else (net, {})
                optimizer = torch.optim.SGD(trained.parameters(), **PERSONALIZATION | rate)
            for index in self.batches(client, 8, "personalize", epoch):
                net.train()
                net.body.train(not probing)
                net.zero_grad()
                self.step(net, optimizer, index)
        return net

    @torch.no_grad()
    def accuracy(self, net: nn.Module, index: Tensor) -> float:
        return 100 * float((net.eval()(self.x[index]).argmax(1) == self.y[index]).double().mean())

    @torch.no_grad()
    def distance(self, net: nn.Module, theta: nn.Module, index: Tensor) -> float:
        moved = net.eval().body(self.x[index]) - theta.eval().body(self.x[index])
        return float(moved.norm(dim=1).mean())


def _number(*key: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def _agree(state: dict[str, Tensor], net: nn.Module) -> None:
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_agrees_with_plain_loops(run: Run, seed: int) -> None:
    world = World(seed)
    theta, history = world.federate()
    _agree(load_file(run.global_model(seed)), theta)
    rows = list(csv.DictReader(run.global_file(seed, "history.csv").open()))
    found = [[float(row[key]) for key in ("round", "train_loss", "val_accuracy", "num_clients")] for row in rows]
    assert np.array(found) == pytest.approx(np.array(history), abs=1e-6)

    tests, vals = ([getattr(client, split) for client in world.clients] for split in ("test", "val"))
    before = [world.accuracy(theta, index) for index in tests]
    results = {
        row["method"]: row for row in csv.DictReader((run.root / "results.csv").open()) if row["seed"] == str(seed)
    }
    for method in LP_EPOCHS:
        nets = [world.personalize(theta, client, method) for client in range(len(COUNTS))]
        matrix = np.array([[world.accuracy(net, index) for index in tests] for net in nets])
        assert 20 < matrix.mean() < 95, "what is always wrong or always right tells nothing"
        moved = np.array([[world.distance(net, theta, index) for index in tests] for net in nets])
        for i, net in enumerate(nets):
            own = world.clients[i]
            cell = read_client_result(run.cell(seed, method, own.name))
            _agree(load_file(run.model(seed, method, own.name)), net)
            assert cell.accuracy == pytest.approx(matrix[i])
            assert (cell.local_before, cell.val_before) == pytest.approx((before[i], world.accuracy(theta, own.val)))
            assert cell.val_after == pytest.approx(world.accuracy(net, own.val))
            assert cell.val_global == pytest.approx(np.mean([world.accuracy(net, index) for index in vals]))
            with torch.no_grad():
                norm = float(theta.body(world.x[own.test]).norm(dim=1).mean())
            expected = (moved[i, i], np.average(moved[i], weights=TESTS), moved[i, i] / norm)
            assert (cell.distortion_own, cell.distortion_all, cell.distortion_relative) == pytest.approx(expected)
            if COUNTS[i]:
                assert cell.train_accuracy == pytest.approx(world.accuracy(net, own.train))
            if method == "lpft" and COUNTS[i]:
                for epoch in range(EPOCHS + 1):
                    on_the_way, row = world.personalize(theta, i, method, epoch), cell.epochs[epoch]
                    accuracies = [world.accuracy(on_the_way, index) for index in tests]
                    expected = (accuracies[i], np.mean(accuracies), min(accuracies[:i] + accuracies[i + 1 :]))
                    assert (row["local"], row["global_all"], row["worst"]) == pytest.approx(expected)
        local, others = matrix.diagonal(), matrix[~np.eye(len(COUNTS), dtype=bool)].reshape(len(COUNTS), -1)
        figures = {
            "local": local.mean(), "global_all": matrix.mean(), "global_others": others.mean(),
            "cstd_row": matrix.std(1).mean(), "cstd_local": local.std(), "worst_row": others.min(1).mean(),
            "worst_local": local.min(), "worst_pair": matrix.min(), "hurt_share": (local < before).mean(),
        }  # fmt: skip
        assert {name: float(results[method][name]) for name in figures} == pytest.approx(figures)
