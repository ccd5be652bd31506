"""The work of a node: describe, train, test and personalize its clients. This module does not depend on Flower."""

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

LOCAL_KEYS = ("clients_per_stack", "init", "init_head")
"""Keys of `federation` that may differ between server and nodes."""

NO_SWEEPS = "Flower: sweeps are not supported. HINT: remove `sweep`, and start one Flower run for each of its points."


@dataclass(frozen=True)
class ClientUpdate:
    """The result of one client's local training.

    Args:
        client: name of the client.
        state: state of its network.
        num_examples: number of its training samples.
        loss: its mean loss in the last local epoch.
    """

    client: str
    state: State
    num_examples: int
    loss: float


@dataclass(frozen=True)
class LocalResult:
    """The evaluation of one client's personalized model on its own samples: everything that leaves the node.

    Accuracies are in percent.

    Args:
        client: name of the client.
        method: name of the method.
        status: ok, diverged, no_train or no_test.
        local_before: accuracy of the global model on the client's test samples.
        local_after: accuracy of the personalized model on the client's test samples.
        val_before: accuracy of the global model on the client's validation samples.
        val_after: accuracy of the personalized model on the client's validation samples.
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
    """The clients of one node in an experiment; they are trained on one device.

    Only personalization writes files.

    Args:
        run: settings of the Flower run.
        node: settings of the node.

    Raises:
        ConfigError: if the experiment is not valid, or the node's data are missing.
    """

    def __init__(self, run: RunSettings, node: NodeSettings) -> None:
        self.run, self.node = run, node
        self._arguments = [
            f"--config={run.experiment}",
            *run.arguments,
            *node.arguments,
            "--trainer.devices=1",
            "--loggers=null",
        ]
        self.experiment = single(open_study("plan", [*self._arguments, *_init(None), "--overwrite"]).experiments)
        self._federation: dict[int, FedAvg] = {}

    def describe(self) -> dict[str, Any]:
        """Return the names and numbers that the server needs, without data."""
        experiment, federation = self.experiment, self._clients(self.experiment.seeds[0])
        data = federation.data
        counts = zip(data.clients, federation.num_samples, strict=True)
        return {
            "part": self.node.part,
            "clients": {client.name: {"train": count, "val": len(client.val)} for client, count in counts},
            "spec": spec_record(experiment.data.spec),
            "classes": list(experiment.data.source.class_names),
            "mean": list(experiment.data.normalize.mean),
            "std": list(experiment.data.normalize.std),
            "crop": getattr(experiment.data.source, "crop", None),
            "features": experiment.data.source.feature_record(),
            "settings": comparable_settings(experiment, own_data=self.node.part is None),
            "content": experiment.data.arrays.content_hash,
        }

    def train(self, seed: int, round_: int, clients: list[str], state: State) -> Iterator[ClientUpdate]:
        """Train clients from the global state like `lpft federate`.

        Raises:
            ValueError: if the state does not fit the network.
        """
        federation = self._clients(seed)
        state = self._checked(federation, state)
        positions = {client.name: number for number, client in enumerate(federation.data.clients)}
        stacks, train = federation.cohort(sorted(positions[name] for name in clients), state, round_)
        for update in train(stacks, state):
            for k, client in enumerate(update.clients):
                client_state = {name: tensor[k].clone() for name, tensor in update.state.items()}
                name, count = federation.data.clients[client].name, update.num_examples[k]
                yield ClientUpdate(name, client_state, count, float(update.losses[k].double()))

    def test(self, seed: int, state: State) -> dict[str, tuple[int, int]]:
        """Count the validation samples that a state classifies correctly.

        Returns:
            Correct predictions and validation samples, by name of the client, without clients that have none.

        Raises:
            ValueError: if the state does not fit the network.
        """
        federation = self._clients(seed)
        test = federation.test
        correct = test.correct(self._checked(federation, state))
        counts = zip(correct.tolist(), test.sizes.tolist(), strict=True)
        return {name: (int(hits), int(size)) for name, (hits, size) in zip(test.names, counts, strict=True)}

    def personalize(self, seed: int, methods: tuple[str, ...], state: State) -> list[LocalResult]:
        """Personalize the global model for each client in a run folder on this node, and return the evaluations.

        Raises:
            ConfigError: if a method does not start from the global model.
            ValueError: if the state does not fit the network.
            RunFailed: if a stack of clients has failed.
        """
        state = self._checked(self._clients(seed), state)
        check_methods(methods, self.experiment.all_methods)
        received = self.out / "received" / f"seed_{seed}.safetensors"
        save_model(received, state, fingerprint({"received": seed}))
        study = open_study(
            "run",
            [
                *self._arguments,
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
        """Name of the only client; ConfigError if there are several."""
        names = [client.name for client in self.experiment.global_task().data.clients]
        if len(names) != 1:
            raise ConfigError(
                f"Flower's strategies expect one model from each node, but this node has {len(names)} clients."
                " HINT: start one node per client, or use `lpft.flower.server:app`, which averages clients."
            )
        return names[0]

    @property
    def out(self) -> Path:
        """Run folder of this node."""
        if self.node.out is not None:
            return Path(self.node.out).expanduser()
        first = file_name(self.experiment.data.clients[0].name)
        return self.experiment.run.root / "nodes" / (self.node.part or first).replace("/", "_of_")

    def _results(self, experiment: Experiment, seed: int) -> Iterator[LocalResult]:
        for name in experiment.methods:
            for client in experiment.data.clients:
                result = read_client_result(experiment.run.cell(seed, name, client.name))
                counts = result.num_train, result.num_val, result.num_test
                accuracies = result.local_before, result.local, result.val_before, result.val_after
                yield LocalResult(client.name, name, result.status, *accuracies, *counts)

    def _clients(self, seed: int) -> FedAvg:
        """Return the FedAvg object of a seed, which is kept for later rounds in the same process."""
        if seed not in self._federation:
            task = self.experiment.global_task()
            net = build_network(task.network, task.data.spec, task.devices.dtype, seed)
            fabric = task.devices.fabric()
            self._federation[seed] = FedAvg(fabric, net, task.data, task.settings, task.clients_per_stack, seed)
        return self._federation[seed]

    def _checked(self, federation: FedAvg, state: State) -> State:
        """Return a state on the device; ValueError if it does not fit the network."""
        reference = federation.net.state_dict()
        expected, received = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (reference, state))
        if received != expected:
            names = expected.keys() | received.keys()
            first, *others = sorted(name for name in names if expected.get(name) != received.get(name))
            raise ValueError(
                f"The server's model is not a {type(federation.net).__name__}: the shape of {first} is"
                f" {received.get(first, 'missing')} on the server and {expected.get(first, 'missing')} on the node"
                + (f", and {len(others)} others differ." if others else ".")
                + " HINT: all nodes and the server need the same `network` and classes."
            )
        device = federation.fabric.device  # Flower's strategies also average counters, which are then not integers
        return {name: state[name].to(device, tensor.dtype) for name, tensor in reference.items()}


def _init(path: Path | None) -> list[str]:
    """Return arguments to start from the model in a file, or from no model."""
    value = "null" if path is None else str(path)
    return [
        f"--federation.init={value}",
        *(f"--federation.init_{key}" for key in ("entry=null", "map=null", "head=keep")),
    ]


@lru_cache(maxsize=256)
def open_node(run: RunSettings, node: NodeSettings) -> Node:
    """Return a node, kept for later messages: Flower's simulation engine runs many nodes in one process."""
    return Node(run, node)


def comparable_settings(experiment: Experiment, own_data: bool) -> dict[str, Any]:
    """Return the settings of training that have to be equal on the server and all nodes.

    Args:
        experiment: the experiment.
        own_data: whether each node has its own data.
    """
    settings = experiment.global_settings
    federation = {key: value for key, value in settings["federation"].items() if key not in LOCAL_KEYS}
    local = {"keep", "held_out", *({"content"} if own_data else ())}
    return {**settings, "federation": federation, "data": {k: v for k, v in settings["data"].items() if k not in local}}


def spec_record(spec: DataSpec) -> dict[str, int]:
    """Return a `DataSpec` as JSON values."""
    return {key: int(value) for key, value in asdict(spec).items() if value is not None}


def single(experiments: list[Experiment]) -> Experiment:
    """Return the only experiment of a study.

    Raises:
        ConfigError: if it is a sweep, or its algorithm is not supported with Flower.
    """
    if len(experiments) != 1:
        raise ConfigError(NO_SWEEPS)
    experiment = experiments[0]
    check_algorithm(experiment)
    return experiment


def check_methods(names: Sequence[str], methods: Mapping[str, Method]) -> None:
    """Raise ConfigError unless nodes can personalize with all of these methods.

    Args:
        names: names of the methods.
        methods: the experiment's methods by name.
    """
    possible = [name for name, method in methods.items() if not isinstance(method, Reference)]
    if wrong := [name for name in names if name not in possible]:
        raise ConfigError(
            f"`methods={','.join(wrong)}` are not methods that start from the global model."
            f" HINT: choose from {', '.join(possible)}."
        )


def check_algorithm(experiment: Experiment) -> None:
    """Raise ConfigError if clients keep tensors between rounds, which nodes do not store."""
    algorithm = experiment.federation.algorithm
    if algorithm is not None and (algorithm.averages_memory or algorithm.memory(experiment.net)):
        raise ConfigError(
            f"`federation.algorithm`: with {type(algorithm).__name__} clients keep tensors between rounds, which is"
            " not supported with Flower. HINT: use FedAvg (null) or FedProx, or train with `lpft federate`."
        )
