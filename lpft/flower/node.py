"""What a node does with its clients: describe, train, test and personalize them. Nothing here knows of Flower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.schema import Experiment
from lpft.config.study import open_study
from lpft.federated.fedavg import FedAvg
from lpft.flower.settings import NodeSettings, RunSettings
from lpft.methods.base import Method
from lpft.methods.references import Reference
from lpft.models.base import build_network
from lpft.models.weights import save_model
from lpft.pipeline import run as run_pipeline
from lpft.storage.fingerprint import fingerprint
from lpft.storage.run import file_name, read_client_result
from lpft.types import DataSpec, State

OF_A_MACHINE = ("clients_per_stack", "init", "init_head")
"""Keys of `federation` that server and nodes need not agree on."""


@dataclass(frozen=True)
class ClientUpdate:
    """What one client sends back after local training.

    Args:
        client: its name.
        state: its network.
        num_examples: number of its training samples.
        loss: its mean loss in the last local epoch.
    """

    client: str
    state: State
    num_examples: int
    loss: float


@dataclass(frozen=True)
class LocalResult:
    """How one client's personalized model does at home; all that leaves the node. Accuracies are in percent.

    Args:
        client: its name.
        method: name of the method.
        status: ok, diverged, no_train or no_test.
        local_before: accuracy of the global model on the client's test samples.
        local_after: the same of the personalized one.
        val_before: accuracy of the global model on its validation samples.
        val_after: the same of the personalized one.
        num_train: number of training samples.
        num_val: number of validation samples.
        num_test: number of test samples.
    """

    client: str
    method: str
    status: str
    local_before: float | None
    local_after: float | None
    val_before: float | None
    val_after: float | None
    num_train: int
    num_val: int
    num_test: int


class Node:
    """The clients of one node, and the experiment that they take part in.

    It trains on one device, and writes nothing but what is personalized.

    Args:
        run: what the run is told.
        node: what the node is told.

    Raises:
        ConfigError: if the experiment is not valid, or the node's data are not there.
    """

    def __init__(self, run: RunSettings, node: NodeSettings) -> None:
        self.run, self.node = run, node
        self._words = [f"--config={run.experiment}", *run.words, *node.words, "--trainer.devices=1", "--loggers=null"]
        self.experiment = single(open_study("plan", [*self._words, *_init(None), "--overwrite"]).experiments)
        self._federation: dict[int, FedAvg] = {}

    def describe(self) -> dict[str, Any]:
        """Return what the server has to know: names and numbers, no data."""
        experiment, federation = self.experiment, self._clients(self.experiment.seeds[0])
        data = federation.data
        counts = zip(data.clients, federation.num_samples, strict=True)
        return {
            "part": self.node.part,
            "clients": {client.name: {"train": count, "val": len(client.val)} for client, count in counts},
            "spec": known_spec(experiment.data.spec),
            "classes": list(experiment.data.source.class_names),
            "mean": list(experiment.data.normalize.mean),
            "std": list(experiment.data.normalize.std),
            "crop": getattr(experiment.data.source, "crop", None),
            "features": experiment.data.source.feature_record(),
            "settings": comparable_settings(experiment, own_data=self.node.part is None),
            "content": experiment.data.arrays.content_hash,
        }

    def train(self, seed: int, round_: int, clients: list[str], state: State) -> Iterator[ClientUpdate]:
        """Train clients from the global state, as `lpft federate` does.

        Raises:
            ValueError: if the state is not one of this network.
        """
        federation = self._clients(seed)
        state = self._checked(federation, state)
        positions = {client.name: number for number, client in enumerate(federation.data.clients)}
        stacks, train = federation.cohort(sorted(positions[name] for name in clients), state, round_)
        for update in train(stacks, state):
            for k, client in enumerate(update.clients):
                own = {name: tensor[k].clone() for name, tensor in update.state.items()}
                name, count = federation.data.clients[client].name, update.num_examples[k]
                yield ClientUpdate(name, own, count, float(update.losses[k].double()))

    def test(self, seed: int, state: State) -> dict[str, tuple[int, int]]:
        """Return, of every client with validation samples, how many of them a state is right about, and their number.

        Raises:
            ValueError: if the state is not one of this network.
        """
        federation = self._clients(seed)
        test = federation.test
        correct = test.correct(self._checked(federation, state))
        counts = zip(correct.tolist(), test.sizes.tolist(), strict=True)
        return {name: (int(right), int(size)) for name, (right, size) in zip(test.names, counts, strict=True)}

    def personalize(self, seed: int, methods: tuple[str, ...], state: State) -> list[LocalResult]:
        """Personalize the global model for every client, in a run folder on this node, and return how they do at home.

        Raises:
            ValueError: if the state is not one of this network, or a method needs more than it.
            RunFailed: if a stack of clients has failed.
        """
        state = self._checked(self._clients(seed), state)
        check_methods(methods, self.experiment.all_methods)
        received = self.out / "received" / f"seed_{seed}.safetensors"
        save_model(received, state, fingerprint({"received": seed}))
        study = open_study(
            "run",
            [
                *self._words,
                f"--out={self.out}",
                f"--seeds=[{seed}]",
                f"--only={','.join(methods)}",
                *_init(received),
                "--overwrite",
            ],
        )
        run_pipeline(study)
        return list(self._results(single(study.experiments), seed))

    @property
    def only_client(self) -> str:
        """Name of the node's client; raise ConfigError if there are several."""
        names = [client.name for client in self.experiment.global_task().data.clients]
        if len(names) != 1:
            raise ConfigError(
                f"Flower's own strategies take one model from each node, but this one has {len(names)} clients."
                " HINT: start a node for each client, or use `lpft.flower.server:app`, which averages clients."
            )
        return names[0]

    @property
    def out(self) -> Path:
        """The folder of this node's own run."""
        if self.node.out is not None:
            return Path(self.node.out).expanduser()
        first = file_name(self.experiment.data.clients[0].name)
        return self.experiment.run.root / "nodes" / (self.node.part or first).replace("/", "_of_")

    def _results(self, experiment: Experiment, seed: int) -> Iterator[LocalResult]:
        for name in experiment.methods:
            for client in experiment.data.clients:
                cell = read_client_result(experiment.run.cell(seed, name, client.name))
                counts = cell.num_train, cell.num_val, cell.num_test
                accuracies = cell.local_before, cell.local, cell.val_before, cell.val_after
                yield LocalResult(client.name, name, cell.status, *accuracies, *counts)

    def _clients(self, seed: int) -> FedAvg:
        """Return what trains and tests this node's clients; kept for the next round, where the process is."""
        if seed not in self._federation:
            task = self.experiment.global_task()
            net = build_network(task.network, task.data.spec, task.devices.dtype, seed)
            fabric = task.devices.fabric()
            self._federation[seed] = FedAvg(fabric, net, task.data, task.settings, task.clients_per_stack, seed)
        return self._federation[seed]

    def _checked(self, federation: FedAvg, state: State) -> State:
        """Return a state on the device; raise ValueError if it is not one of the network."""
        like = federation.net.state_dict()
        shapes, given = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (like, state))
        if given != shapes:
            wrong = sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name))
            raise ValueError(
                f"The model from the server is not one of {type(federation.net).__name__}: the shape of {wrong[0]} is"
                f" {given.get(wrong[0], 'missing')} there and {shapes.get(wrong[0], 'missing')} here"
                + (f", and {len(wrong) - 1} others differ." if len(wrong) > 1 else ".")
                + " HINT: all nodes and the server need the same `network` and classes."
            )
        device = federation.fabric.device  # Flower's strategies average counters, too: then they are no integers
        return {name: state[name].to(device, tensor.dtype) for name, tensor in like.items()}


def _init(path: Path | None) -> list[str]:
    """Return the settings by which training starts from a whole model, or from none: what the server starts from."""
    value = "null" if path is None else str(path)
    return [
        f"--federation.init={value}",
        *(f"--federation.init_{key}" for key in ("entry=null", "map=null", "head=keep")),
    ]


@lru_cache(maxsize=256)
def open_node(run: RunSettings, node: NodeSettings) -> Node:
    """Return a node; Flower's simulation engine asks for many in the same process, round after round."""
    return Node(run, node)


def comparable_settings(experiment: Experiment, own_data: bool) -> dict[str, Any]:
    """Return the settings of training that server and nodes have to agree on, without those that are a machine's own.

    Args:
        experiment: the experiment.
        own_data: whether every node has data of its own.
    """
    settings = experiment.global_settings
    federation = {key: value for key, value in settings["federation"].items() if key not in OF_A_MACHINE}
    local = {"keep", "held_out", *({"content"} if own_data else ())}
    return {**settings, "federation": federation, "data": {k: v for k, v in settings["data"].items() if k not in local}}


def known_spec(spec: DataSpec) -> dict[str, int]:
    """Return what a network has to know about the data, as JSON has it."""
    return {key: int(value) for key, value in asdict(spec).items() if value is not None}


def single(experiments: list[Experiment]) -> Experiment:
    """Return the only experiment of a study.

    Raises:
        ConfigError: if it is a sweep, or trains the global model in a way that Flower's messages do not carry.
    """
    if len(experiments) != 1:
        raise ConfigError(
            "A sweep is several experiments. HINT: remove `sweep`, and start one Flower run for each of its points."
        )
    experiment = experiments[0]
    check_algorithm(experiment)
    return experiment


def check_methods(names: Sequence[str], methods: Mapping[str, Method]) -> None:
    """Raise ConfigError unless all names are those of methods that nodes can personalize with.

    Args:
        names: the names.
        methods: the experiment's methods, by name.
    """
    possible = [name for name, method in methods.items() if not isinstance(method, Reference)]
    if wrong := [name for name in names if name not in possible]:
        raise ConfigError(
            f"`methods={','.join(wrong)}` of the run are not methods that nodes can start from the global model."
            f" HINT: choose from {', '.join(possible)}."
        )


def check_algorithm(experiment: Experiment) -> None:
    """Raise ConfigError if clients keep something between rounds: on a node nobody does."""
    algorithm = experiment.federation.algorithm
    if algorithm is not None and (algorithm.averages_memory or algorithm.memory(experiment.net)):
        raise ConfigError(
            f"`federation.algorithm`: with {type(algorithm).__name__} clients keep something between rounds, which is"
            " not done through Flower. HINT: use FedAvg (null) or FedProx, or train with `lpft federate`."
        )
