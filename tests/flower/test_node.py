"""What nodes do with their clients adds up to what `lpft federate` does, bit for bit; nothing of Flower is needed."""

from __future__ import annotations

import importlib
import itertools
import shlex
import sys
from pathlib import Path

import pytest
import torch

from lpft.config.files import ConfigError
from lpft.config.study import open_study
from lpft.federated.algorithms import Algorithm
from lpft.federated.fedavg import mean_accuracy, train_rounds
from lpft.federated.federate import train_global_models
from lpft.federated.files import GlobalModelFiles
from lpft.federated.memory import ClientMemory
from lpft.flower.app_folder import write_app
from lpft.flower.node import Node
from lpft.flower.roster import Roster
from lpft.flower.settings import NodeSettings, RunSettings
from lpft.models.base import build_network
from lpft.models.weights import load_model
from lpft.runtime.progress import Steps
from lpft.storage.run import Run
from lpft.types import StackUpdate, State
from tests.commands import TOY, table
from tests.toy import same_bits

DIGITS = Path(__file__).parents[2] / "configs" / "digits.yaml"


def nodes(out: Path, *words: str, parts: tuple[str, ...] = ("0/2", "1/2")) -> list[Node]:
    run = RunSettings.of({"experiment": TOY, "settings": shlex.join([f"--out={out}", "--seeds=[0]", *words])})
    numbers = [part.split("/") for part in parts]
    return [Node(run, NodeSettings.of({"partition-id": k, "num-partitions": n})) for k, n in numbers]


class OnNodes:
    """Clients on nodes in this process, as `RemoteClients` has them on others."""

    def __init__(self, nodes: list[Node], seed: int) -> None:
        self.nodes, self.seed = nodes, seed
        order = [f"c{number}" for number in range(5)]
        self.roster = Roster.of({number: node.describe() for number, node in enumerate(nodes)}, order)
        self.num_samples = self.roster.num_samples
        self.memory = ClientMemory(Algorithm(), nodes[0].experiment.net, len(order), torch.device("cpu"))

    def cohort(self, clients, state, round_):
        updates = {}
        for number, node in enumerate(self.nodes):
            at_home = [self.roster.names[k] for k in clients if self.roster.homes[self.roster.names[k]] == number]
            updates |= {update.client: update for update in node.train(self.seed, round_, at_home, state)}
        return [[client] for client in clients], lambda stacks, _: (
            self.stacked(updates[self.roster.names[stack[0]]], stack) for stack in stacks
        )

    @staticmethod
    def stacked(update, stack) -> StackUpdate:
        state = {name: tensor.unsqueeze(0) for name, tensor in update.state.items()}
        return StackUpdate(stack, state, [update.num_examples], torch.tensor([update.loss], dtype=torch.float64))

    def test(self, state: State, stop: bool) -> tuple[float, bool]:
        counts = dict(itertools.chain(*(node.test(self.seed, state).items() for node in self.nodes)))
        return mean_accuracy(*torch.tensor([counts[name] for name in self.roster.names]).double().unbind(1)), stop

    def describe(self, client: int) -> str:
        return self.roster.names[client]


@pytest.mark.parametrize(
    ("more", "exact"),
    [
        (("--federation.clients_per_stack=1", "--federation.participation=0.6"), True),
        (("--federation.server_optimizer=SGD", "--federation.server_optimizer.momentum=0.9"), False),
    ],
)
def test_rounds_on_nodes_are_those_of_lpft(tmp_path: Path, more: tuple[str, ...], exact: bool) -> None:
    """Client by client the bits are the same; in stacks, which nodes cut otherwise, they are within rounding."""
    words = ("--trainer.precision=64-true", *more)
    reference = open_study("federate", [f"--config={TOY}", f"--out={tmp_path / 'a'}", "--seeds=[0]", *words])
    task = reference.experiments[0].global_task()
    assert train_global_models(task) == []
    here = nodes(tmp_path / "b", *words)
    net, fabric = build_network(task.network, task.data.spec, task.devices.dtype, 0), task.devices.fabric()
    run = Run(tmp_path / "b")
    files = GlobalModelFiles(fabric, run, 0, task.fingerprint, Steps("flower", task.settings.rounds, "round"))
    assert train_rounds(fabric, net, OnNodes(here, 0), task.settings, 0, files)
    expected, _ = load_model(task.run.global_model(0))
    found, _ = load_model(run.global_model(0))
    if exact:
        assert same_bits(found, expected)
        assert table(run.global_file(0, "history.csv")) == table(task.run.global_file(0, "history.csv"))
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_node_personalizes_its_clients_and_returns_only_numbers(tmp_path: Path) -> None:
    (node,) = nodes(tmp_path / "run", parts=("1/2",))
    state = build_network(node.experiment.network, node.experiment.data.spec, torch.float32, 0).state_dict()
    results = node.personalize(0, ("none", "lpft"), state)
    assert [(result.method, result.client) for result in results] == [
        (method, client) for method in ("none", "lpft") for client in ("c1", "c3")
    ]
    none, lpft = (results[:2], results[2:])
    assert all(result.local_after == result.local_before for result in none)
    assert [(r.num_train, r.num_val, r.num_test) for r in lpft] == [(33, 6, 12), (24, 6, 12)]
    assert sorted(path.stem for path in node.out.glob("seed_0/lpft/models/*")) == ["c1", "c3"]
    assert not list((tmp_path / "run").glob("seed_*"))
    assert node.out == tmp_path / "run" / "nodes" / "1_of_2"


def test_a_model_of_another_network_is_refused(tmp_path: Path) -> None:
    (node,) = nodes(tmp_path, parts=("0/1",))
    with pytest.raises(ValueError, match=r"head.bias is missing.*same `network`"):
        node.test(0, {name: t for name, t in node.experiment.net.state_dict().items() if name != "head.bias"})


@pytest.mark.parametrize("algorithm", ["Scaffold", "Ditto"])
def test_algorithms_with_memory_are_refused(tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(ConfigError, match=f"{algorithm}.*lpft federate"):
        nodes(tmp_path, f"--federation.algorithm=lpft.federated.algorithms.{algorithm}", parts=("0/2",))


def test_the_shipped_app_is_that_of_the_digits(tmp_path: Path) -> None:
    write_app(tmp_path / "app")
    words = [f"--config={tmp_path / 'app' / 'experiment.yaml'}", f"--out={tmp_path / 'run'}"]
    (shipped,) = open_study("plan", words).experiments
    (digits,) = open_study("plan", [f"--config={DIGITS}", f"--out={tmp_path / 'run'}"]).experiments
    assert shipped.global_settings["network"] == digits.global_settings["network"]
    assert shipped.global_settings["data"] == digits.global_settings["data"]
    assert shipped.config["personalization"] == {**digits.config["personalization"], "eval_every": 0}
    with pytest.raises(FileExistsError, match="HINT"):
        write_app(tmp_path / "app")


def test_other_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no experiment 'nowhere.yaml'"):
        RunSettings.of({"experiment": "nowhere.yaml"})
    with pytest.raises(ConfigError, match=r"partition-id=2.*num-partitions=2"):
        NodeSettings.of({"partition-id": 2, "num-partitions": 2})
    with pytest.raises(ConfigError, match="partition-id=0"):
        NodeSettings.of({})
    with pytest.raises(ConfigError, match=r"leaves no client.*there are 5"):
        nodes(tmp_path, parts=("5/6",))
    with pytest.raises(ConfigError, match="`sweep`"):
        nodes(tmp_path, '--sweep={"federation.rounds":[1,2]}', parts=("0/2",))


def description(part: str | None, *clients: str, **more: object) -> dict[str, object]:
    counts = {name: {"train": 3, "val": 1} for name in clients}
    same = {"spec": {"num_classes": 2}, "classes": ["x", "y"], "settings": {"network": "A"}}
    same |= {"content": str(clients), "mean": [0.5], "std": [0.5]}
    return {"part": part, "clients": counts, **same, **more}


def test_clients_are_in_the_order_of_the_experiment_or_of_their_names() -> None:
    shared = {7: description("1/2", "b", "d"), 8: description("0/2", "a", "c")}
    assert Roster.of(shared, ["d", "c", "b", "a"]).names == ["d", "c", "b", "a"]
    own = Roster.of({7: description(None, "north"), 8: description(None, "east")})
    assert (own.names, own.homes, own.own_data) == (["east", "north"], {"east": 8, "north": 7}, True)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([description("2/3", "b")], "0/3, 2/3; missing: 1/3"),
        ([description("1/3", "b"), description("2/3", "c"), description("2/3", "c")], "4 nodes are connected"),
        ([description(None, "b")], "1 of 2 nodes"),
        (
            [description("1/3", "b", settings={"network": "B"}), description("2/3", "c")],
            '`settings.network` .*"B" here',
        ),
        ([description("1/3", "b", classes=["y", "x"]), description("2/3", "c")], "classes"),
        ([description("1/3", "b", spec={"num_classes": 3}), description("2/3", "c")], "spec.num_classes"),
    ],
)
def test_nodes_that_do_not_fit_together_are_refused(others: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        Roster.of(dict(enumerate([description("0/3", "a"), *others])))


def test_missing_files_and_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flwr", "flwr.app"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "lpft.flower.api", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"lpft\[flower\]"):
        importlib.import_module("lpft.flower.api")


def test_nodes_with_different_standardization_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`mean` .*data.mean"):
        Roster.of({1: description(None, "north", mean=[1.0]), 2: description(None, "south", mean=[2.0])})


def test_sites_with_equal_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 clients, but only 1 names"):
        Roster.of({1: description(None, "north"), 2: description(None, "north")})


def test_a_node_may_have_no_clients_to_train(tmp_path: Path) -> None:
    held_out = '--data.held_out=["c0","c2","c4"]'
    idle, other = nodes(tmp_path, held_out)
    assert idle.describe()["clients"] == {}
    assert list(other.describe()["clients"]) == ["c1", "c3"]
    assert Roster.of({1: idle.describe(), 2: other.describe()}, ["c1", "c3"]).names == ["c1", "c3"]
    state = other.experiment.net.state_dict()
    assert [result.client for result in idle.personalize(0, ("none",), state)] == ["c0", "c2", "c4"]
