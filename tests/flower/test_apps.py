"""ServerApp and ClientApp, with Flower's messages but without its processes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("flwr", reason="needs the extra `flower`")

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from lpft.config.files import ConfigError
from lpft.config.schema import load_network
from lpft.config.study import open_study
from lpft.flower import client, records, server
from lpft.flower.fleet import NodeError
from lpft.flower.node import LocalResult
from lpft.models.base import build_network
from lpft.models.weights import load_model, save_model
from lpft.storage.run import Run
from tests.commands import TOY, lpft, table, toy
from tests.shapes import save_shapes
from tests.toy import largest_difference, same_bits

pytestmark = pytest.mark.flower

ONE_BY_ONE = ("--federation.clients_per_stack=1", "--seeds=[0]")


class Nodes(Grid):
    """Nodes in this process: messages are answered when they are sent.

    Args:
        config: the run configuration.
        nodes: the node configurations.
        fails: tells, by type and number of a message, whether its node dies of it.
    """

    def __init__(
        self, config: dict[str, Any], *nodes: dict[str, Any], fails: Callable[[str, int], bool] = lambda *_: False
    ):
        self.config, self.nodes, self.fails = config, dict(enumerate(nodes, start=1)), fails
        self.gone: set[int] = set()
        self.asked: list[Message] = []
        self.replies: dict[str, Message] = {}

    def run_server(self) -> None:
        server.app(self, Context(7, 0, {}, RecordDict(), self.config))

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            self.asked.append(message)
            number = str(len(self.asked))
            message.metadata.__dict__["_message_id"] = number
            node = message.metadata.dst_node_id
            try:
                if self.fails(message.metadata.message_type, len(self.asked)):
                    raise RuntimeError("the power is gone")
                reply = client.app(message, Context(7, node, self.nodes[node], RecordDict(), self.config))
                if node in self.gone:
                    reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "no heartbeat"), reply_to=message)
            except Exception as error:
                reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
            self.replies[number] = reply
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.replies[number] for number in message_ids]

    @property
    def kinds(self) -> list[str]:
        return [message.metadata.message_type for message in self.asked]


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 7)


def config(experiment: Path | str, out: Path, *words: str, **more: Any) -> dict[str, Any]:
    return {"experiment": str(experiment), "settings": shlex.join([f"--out={out}", *words]), "wait": 0, **more}


def two_nodes(out: Path, *words: str, fails: Callable[[str, int], bool] = lambda *_: False, **more: Any) -> Nodes:
    parts = ({"partition-id": k, "num-partitions": 2} for k in range(2))
    return Nodes(config(TOY, out, *ONE_BY_ONE, *words, **more), *parts, fails=fails)


def test_a_model_that_flower_trained_is_personalized_like_one_of_lpft(tmp_path: Path) -> None:
    grid = two_nodes(tmp_path / "flower", methods="lpft")
    grid.run_server()
    assert grid.kinds == [*["query"] * 2, *(["train"] * 2 + ["evaluate"] * 2) * 3, *["train.personalize"] * 2]
    run = toy("personalize", tmp_path / "flower", *ONE_BY_ONE)
    reference = toy("federate", tmp_path / "lpft", *ONE_BY_ONE)
    toy("personalize", tmp_path / "lpft", *ONE_BY_ONE)
    assert outcome_of_global(run) == outcome_of_global(reference)
    assert {**cells(run)} == {**cells(reference)}
    noted = yaml.safe_load(run.config.read_text())["provenance"]["flower"]["0"]
    assert (noted["from_round"], noted["run_id"]) == (1, "7")
    assert sorted(noted["nodes"].values()) == [["c0", "c2", "c4"], ["c1", "c3"]]
    assert yaml.safe_load(reference.config.read_text())["provenance"]["flower"] == {}
    local = {row["client"]: row["local"] for row in table(run.method_file(0, "lpft", "clients.csv"))}
    assert {row["client"]: row["local_after"] for row in table(run.nodes)} == local

    again = two_nodes(tmp_path / "flower")
    again.run_server()
    assert again.kinds == ["query"] * 2  # nothing is trained twice


def outcome_of_global(run: Run) -> tuple[bytes, list[dict[str, str]]]:
    return run.global_model(0).read_bytes(), table(run.global_file(0, "history.csv"))


def cells(run: Run) -> dict[str, Any]:
    found = {}
    for path in run.root.glob("seed_0/*/cells/*.json"):
        cell = json.loads(path.read_text())
        found["/".join(path.parts[-3:])] = {k: v for k, v in cell.items() if k not in ("seconds", "checksum")}
    return found


def test_only_numbers_leave_a_node_that_personalizes(tmp_path: Path) -> None:
    grid = two_nodes(tmp_path, methods="none,lpft")
    grid.run_server()
    for message in grid.asked:
        reply = grid.replies[message.metadata.message_id].content
        if message.metadata.message_type == "train":
            assert len(reply.array_records) in (2, 3)  # a model for each client
        else:
            assert not reply.array_records
    content = grid.replies[grid.asked[-1].metadata.message_id].content
    assert set(content) == {"names", "metrics"}
    assert {len(values) for values in content["metrics"].values()} == {4}  # two methods, two clients


def test_a_run_whose_node_dies_is_continued(tmp_path: Path) -> None:
    """The node dies of the second round's message; what it had done before counts."""
    with pytest.raises(NodeError, match=r"round 2: node 2 failed: the power is gone.*start the same"):
        two_nodes(tmp_path / "a", fails=lambda kind, number: kind == "train" and number == 8).run_server()
    assert not Run(tmp_path / "a").global_model(0).exists()
    grid = two_nodes(tmp_path / "a")
    grid.nodes[3], grid.gone = grid.nodes[2], {3}  # the node has been started anew, and Flower lists the old one, too
    grid.run_server()
    assert grid.kinds.count("train") == 4
    whole = two_nodes(tmp_path / "b")
    whole.run_server()
    assert outcome_of_global(Run(tmp_path / "a")) == outcome_of_global(Run(tmp_path / "b"))
    assert Run(tmp_path / "a").flower()["0"]["from_round"] == 2


def test_nodes_that_do_not_fit_are_refused_before_training(tmp_path: Path) -> None:
    grid = two_nodes(tmp_path / "a")
    grid.nodes[2]["settings"] = "--network.norm=false"
    with pytest.raises(ConfigError, match=r"settings.network.init_args.norm.*same experiment"):
        grid.run_server()
    with pytest.raises(ConfigError, match=r"methods=lfpt.*none, ft, lpft"):
        two_nodes(tmp_path / "a", methods="lfpt,ft").run_server()
    with pytest.raises(NodeError, match=r"2 nodes are connected.*min-nodes=3"):
        two_nodes(tmp_path / "b", **{"min-nodes": 3}).run_server()
    grid = two_nodes(tmp_path / "c")
    grid.nodes[2]["partition-id"] = 5
    with pytest.raises(NodeError, match="partition-id=5"):
        grid.run_server()
    assert not list(tmp_path.glob("*/seed_0/global/*.pt"))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sites, the folder of each in a folder of its own, and in one folder together; an experiment."""
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate(("north", "south")):
        for root in (folder / "together", folder / f"at_{name}"):
            save_shapes(root / name, 12 + 6 * seed, seed=seed, classes={"cat": "circle", "dog": "square"})
    source = {"class_path": "lpft.data.sources.Sites", "init_args": {"root": "nowhere", "classes": ["cat", "dog"]}}
    experiment = {
        **yaml.safe_load(Path(TOY).read_text()),
        "data": {"source": source, "image_size": 8, "channels": 1},
        "federation": {"rounds": 2, "batch_size": 8, "clients_per_stack": 1},
        "seeds": [0],
    }
    (folder / "sites.yaml").write_text(yaml.safe_dump(experiment))
    return folder, folder / "sites.yaml"


def test_separate_sites_train_the_same_model_as_shared_data(sites: tuple[Path, Path], tmp_path: Path) -> None:
    folder, experiment = sites
    out = tmp_path / "flower"
    nodes = [{"data-root": str(folder / f"at_{n}"), "out": str(tmp_path / n)} for n in ("south", "north")]
    Nodes(config(experiment, out, methods="lpft"), *nodes).run_server()
    reference = Run(tmp_path / "together")
    words = ("-c", experiment, "--out", reference.root, "--data.source.root", folder / "together")
    lpft("federate", *words)
    (model, _), (expected, _) = load_model(Run(out).global_model(0)), load_model(reference.global_model(0))
    assert same_bits(model, expected)
    rows = table(Run(out).nodes)
    assert [row["client"] for row in rows] == ["north", "south"]
    assert (tmp_path / "north" / "seed_0" / "lpft" / "models" / "north.safetensors").exists()
    assert not list(out.glob("**/models"))
    net = load_network(Run(out), Run(out).global_model(0))  # without any data
    assert same_bits(net.state_dict(), expected)
    lpft("export", tmp_path / "north", "--client", "north", "--to", tmp_path / "exported")
    image = next((folder / "together" / "north").rglob("*.png"))
    lpft("predict", tmp_path / "exported", image, "--to", tmp_path / "predicted.csv")
    assert table(tmp_path / "predicted.csv")[0]["class"] in ("cat", "dog")


def test_a_model_from_a_file_is_personalized_on_the_nodes(tmp_path: Path) -> None:
    first = two_nodes(tmp_path / "a", "--federation.rounds=1")
    first.run_server()
    state, _ = load_model(Run(tmp_path / "a").global_model(0))
    save_model(
        tmp_path / "given.safetensors",
        {name: t + 0.01 for name, t in state.items() if t.is_floating_point()}
        | {name: t for name, t in state.items() if not t.is_floating_point()},
        "elsewhere",
    )
    grid = two_nodes(tmp_path / "b", f"--federation.init={tmp_path / 'given.safetensors'}", methods="none")
    grid.run_server()
    assert "train" not in grid.kinds
    assert Run(tmp_path / "b").flower() == {}
    received, _ = load_model(tmp_path / "b" / "nodes" / "0_of_2" / "received" / "seed_0.safetensors")
    given, _ = load_model(tmp_path / "given.safetensors")
    assert largest_difference(received, given) == 0
    assert torch.isfinite(received["head.weight"]).all()


def test_nodes_answer_flowers_own_strategies(tmp_path: Path) -> None:
    """Three rounds of Flower's FedAvg, a node for each client, are those of lpft within rounding."""
    reference = toy("federate", tmp_path / "lpft", *ONE_BY_ONE)
    (experiment,) = open_study("plan", [f"--config={TOY}", f"--out={tmp_path}", *ONE_BY_ONE]).experiments
    net = build_network(experiment.network, experiment.data.spec, torch.float32, 0)
    parts = ({"partition-id": k, "num-partitions": 5} for k in range(5))
    grid = Nodes(config(TOY, tmp_path, *ONE_BY_ONE), *parts)
    result = FedAvg().start(grid, ArrayRecord(net.state_dict()), num_rounds=3)
    expected, _ = load_model(reference.global_model(0))
    found = result.arrays.to_torch_state_dict()
    assert all(
        torch.allclose(found[name].float(), t, atol=1e-6) for name, t in expected.items() if t.is_floating_point()
    )
    assert 0 < result.evaluate_metrics_clientapp[3]["accuracy"] <= 100
    two = two_nodes(tmp_path)
    FedAvg().start(two, ArrayRecord(net.state_dict()), num_rounds=1)
    assert "one model from each node" in next(iter(two.replies.values())).error.reason


def test_records_are_restored() -> None:
    """Through Flower's encoding; what a node without clients or without test samples has to say, too."""

    def sent(content: RecordDict) -> RecordDict:
        return RecordDict({name: type(record).inflate(record.deflate()) for name, record in content.items()})

    for tested in ({}, {"c0": (1, 2), "ø": (0, 3)}):
        assert records.counts_of(sent(records.put_counts(tested))) == tested
    for results in ([], [LocalResult("ø", "lpft", "no_test", None, None, 50.0, 75.0, 3, 4, 0)]):
        assert records.results_of(sent(records.put_results(results))) == results


def test_feature_arrays_go_through_flower_like_images(tmp_path: Path) -> None:
    experiment = {
        **yaml.safe_load(Path(TOY).read_text()),
        "data": {
            "source": {"class_path": "lpft.data.sources.SklearnTable", "init_args": {"name": "wine"}},
            "clients": {"class_path": "lpft.data.partition.Iid", "init_args": {"num_clients": 3}},
        },
        "network": {"class_path": "lpft.models.mlp.MLP", "init_args": {"widths": [8]}},
    }
    (tmp_path / "wine.yaml").write_text(yaml.safe_dump(experiment))
    parts = ({"partition-id": k, "num-partitions": 2} for k in range(2))
    Nodes(config(tmp_path / "wine.yaml", tmp_path / "flower", *ONE_BY_ONE, methods="lpft"), *parts).run_server()
    lpft("federate", "-c", tmp_path / "wine.yaml", "--out", tmp_path / "lpft", *ONE_BY_ONE)
    assert outcome_of_global(Run(tmp_path / "flower")) == outcome_of_global(Run(tmp_path / "lpft"))
    assert [row["status"] for row in table(Run(tmp_path / "flower").nodes)] == ["ok"] * 3
