"""The experiment: the configuration of one run as a typed object."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lpft.config.files import ConfigError
from lpft.config.parser import Config, ExperimentParser
from lpft.data.datamodule import FederatedDataModule
from lpft.evaluation.settings import EvaluationSettings
from lpft.federated.federate import GlobalTask
from lpft.federated.settings import Federation
from lpft.methods.base import Method
from lpft.methods.federated import InProcess
from lpft.methods.references import Reference
from lpft.models.base import BodyHeadNet, NetFactory, build_network
from lpft.models.lora import load_personalized
from lpft.models.weights import checksum, load_model
from lpft.personalization.jobs import PersonalTask
from lpft.personalization.settings import Personalization
from lpft.personalization.tuning import Tuning
from lpft.runtime.devices import Devices
from lpft.storage.client_result import DamagedFileError
from lpft.storage.config_file import read_config
from lpft.storage.fingerprint import fingerprint
from lpft.storage.provenance import Provenance
from lpft.storage.run import Run
from lpft.types import DataSpec


@dataclass(frozen=True)
class Selection:
    """The part of an experiment that a command runs.

    Args:
        only: names of the methods to run; None for all.
        shard: ``(i, n)`` selects entries i, i + n, i + 2n, ... of the list of stacks.
        overwrite: whether to replace results that were made with other settings.
        fallback: whether to write the model that each client should use.
    """

    only: list[str] | None = None
    shard: tuple[int, int] = (0, 1)
    overwrite: bool = False
    fallback: bool = False


@dataclass
class Experiment:
    """The configuration of one run: its folder, every section as an object, and the selection of the command.

    Args:
        command: name of the command, such as ``run``.
        config: the resolved configuration as JSON, without the selection.
        run: folder of the run.
        seeds: seeds of the run.
        data: the clients; already set up.
        network: builds the network.
        federation: settings of federated training.
        personalization: settings of personalization.
        evaluation: settings of tests and comparisons.
        all_methods: all methods by name, selected or not.
        devices: the section `trainer`.
        tune: the section `tune`.
        provenance: variants and point of a sweep, and tuned settings; software and data are added when it is written.
        selection: the part that the command runs.
    """

    command: str
    config: Config
    run: Run
    seeds: list[int]
    data: FederatedDataModule
    network: NetFactory
    federation: Federation
    personalization: Personalization
    evaluation: EvaluationSettings
    all_methods: dict[str, Method]
    devices: Devices
    tune: Tuning
    provenance: Provenance
    selection: Selection

    @cached_property
    def methods(self) -> dict[str, Method]:
        """The selected methods by name."""
        only = self.selection.only
        return {name: method for name, method in self.all_methods.items() if only is None or name in only}

    @property
    def tuned_methods(self) -> list[str]:
        """Names of the selected methods that are tuned."""
        return [name for name in self.methods if name in self.tune.grids]

    @property
    def global_seeds(self) -> list[int]:
        """All seeds that need a global model: those of the run and, if a method is tuned, those of the trials."""
        return sorted({*self.seeds, *self.tune.seeds}) if self.tuned_methods else self.seeds

    @cached_property
    def net(self) -> BodyHeadNet:
        """A network with seed 0, used for the names and shapes of its parameters."""
        return build_network(self.network, self.data.spec, self.devices.dtype, seed=0)

    @cached_property
    def global_settings(self) -> Config:
        """All settings that the global models depend on."""
        network, federation = dict(self.config["network"]), dict(self.config["federation"])
        if self.net.weights_hash is not None:  # the content of the file matters, not its path
            network["init_args"] = {**network["init_args"], "weights": self.net.weights_hash}
        del federation["init_map"], federation["init_entry"]  # the checksum below covers their effect
        if federation["init"] is None:
            del federation["init_head"]
        else:
            federation["init"] = checksum(self.federation.read_init(self.net))
        data = {
            "content": self.data.arrays.content_hash,
            "num_classes": self.data.spec.num_classes,
            **self.data.normalize.settings(),
        }
        if self.data.held_out:
            data["held_out"] = self.data.held_out
        if self.data.kept is not None:
            data["keep"] = self.data.kept
        augment = {} if self.config["augment"] is None else {"augment": self.config["augment"]}
        precision = {"precision": self.devices.precision}
        return {"data": data, **augment, "network": network, "federation": federation, "trainer": precision}

    @cached_property
    def reference_settings(self) -> Config:
        """All settings that the results of references depend on: those of personalization are not among them."""
        evaluation = {k: value for k, value in self.config["evaluation"].items() if k != "equivalence"}
        return {**self.global_settings, "evaluation": evaluation}

    @cached_property
    def shared_settings(self) -> Config:
        """All settings that the results of all other methods depend on."""
        personalization = {k: value for k, value in self.config["personalization"].items() if k != "save_models"}
        return {**self.reference_settings, "personalization": personalization}

    def method_settings(self, name: str) -> Config:
        """Return all settings that the results of one method depend on."""
        shared = self.reference_settings if isinstance(self.all_methods[name], Reference) else self.shared_settings
        return {**shared, "method": self.config["methods"][name]}

    # References

    @property
    def references(self) -> dict[str, Reference]:
        """The selected methods that are references, by name: they do not start from the global model."""
        return {name: method for name, method in self.methods.items() if isinstance(method, Reference)}

    def reference_rounds(self, reference: Reference) -> tuple[int, int]:
        """Return the number of rounds that each client of a reference takes part in, and the local epochs per round.

        On pooled data there is a single client.
        """
        num_clients = sum(len(client.train) > 0 for client in self.data.participants().clients)
        if reference.epochs is None:
            return self.federation.full_rounds(num_clients), self.federation.local_epochs
        if isinstance(reference, InProcess):
            return self.federation.full_rounds(num_clients, reference.epochs), 1
        return reference.epochs, 1

    def reference_training(self, reference: Reference) -> Personalization:
        """Return the training settings of a reference's clients, derived from those of federated training."""
        rounds, local_epochs = self.reference_rounds(reference)
        passes = reference.algorithm.passes(local_epochs) if isinstance(reference, InProcess) else local_epochs
        return Personalization(
            epochs=round(rounds * passes),
            batch_size=self.federation.batch_size,
            optimizer=self.federation.optimizer,
            clients_per_stack=self.config["federation"]["clients_per_stack"],
            save_models=self.personalization.save_models,
        )

    def reference_tasks(self) -> dict[str, GlobalTask]:
        """Return the training of every model that a selected reference starts from, by name of the method."""
        tasks = {}
        for name, reference in self.references.items():
            if reference.start != "initial":
                task = replace(self.global_task(), run=self.run.reference(name), seeds=self.seeds, title=name)
                tasks[name] = replace(task, **self._reference_changes(name, reference))
        return tasks

    def _reference_changes(self, name: str, reference: Reference) -> Config:
        """Return the fields of `GlobalTask` in which the training of a reference differs from federated training."""
        federation = copy.copy(self.federation)
        federation.init = None
        if isinstance(reference, InProcess):
            federation.algorithm = reference.algorithm
            if reference.epochs is not None:
                federation.rounds, federation.local_epochs = reference.epochs, 1
            settings = {**self._global_settings_without("algorithm"), "method": self.config["methods"][name]}
            return {"settings": federation, "fingerprint": fingerprint(settings)}
        federation.rounds, federation.local_epochs = self.reference_rounds(reference)
        federation.participation, federation.algorithm, federation.server_optimizer = 1.0, None, None
        settings = self._global_settings_without("algorithm", "server_optimizer")
        settings["pooled"] = [federation.rounds, federation.local_epochs]
        return {
            "data": self.data.pooled(),
            "settings": federation,
            "clients_per_stack": 1,
            "fingerprint": fingerprint(settings),
        }

    def _global_settings_without(self, *keys: str) -> Config:
        """Return the global settings without some keys of `federation` that a reference does not depend on."""
        federation = {key: value for key, value in self.global_settings["federation"].items() if key not in keys}
        return {**self.global_settings, "federation": federation}

    # Tasks

    def global_task(self) -> GlobalTask:
        """Return the task of federated training."""
        return GlobalTask(
            run=self.run,
            seeds=self.global_seeds,
            data=self.data.participants(),
            network=self.network,
            settings=self.federation,
            devices=self.devices,
            clients_per_stack=self.config["federation"]["clients_per_stack"],
            fingerprint=fingerprint(self.global_settings),
        )

    def personal_task(self) -> PersonalTask:
        """Return the task of personalization."""
        return PersonalTask(
            run=self.run,
            seeds=self.seeds,
            data=self.data,
            network=self.network,
            settings=self.personalization,
            methods=self.methods,
            devices=self.devices,
            clients_per_stack=self.config["personalization"]["clients_per_stack"],
            heads_per_stack=self.config["personalization"]["heads_per_stack"],
            fingerprints={name: fingerprint(self.method_settings(name)) for name in self.methods},
            evaluation=self.evaluation,
            own_settings={name: self.reference_training(reference) for name, reference in self.references.items()},
        )


def run_folder(config: Mapping[str, Any]) -> Run:
    """Return the run of a configuration: the folder `out`, by default ``runs/NAME``.

    Raises:
        ConfigError: if the name is not a valid name of a folder.
    """
    name, out = config["name"], config["out"]
    if out is None and (name in (".", "..") or Path(name).name != name or not name):
        raise ConfigError(f"`name: {name}` cannot be a folder of `runs`. HINT: name the folder with `--out`.")
    folder = Path(out or Path("runs") / name).expanduser()
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"`out: {str(folder)!r}` is not valid UTF-8, which the files of a run are written in. HINT: choose another"
            " folder, or a UTF-8 locale such as `LC_ALL=C.UTF-8`."
        ) from None
    return Run(folder)


def instantiate(type_: Any, config: Any) -> Any:
    """Instantiate a part of a configuration.

    Args:
        type_: the type hint that the configuration is parsed by, such as ``dict[str, Method]``.
        config: the part, resolved.
    """
    parser = ExperimentParser()
    parser.add_argument("--value", type=type_)
    return parser.build({"value": config}).value


def load_network(run: Run, path: Path) -> BodyHeadNet:
    """Load a model file of a run as a network, in evaluation mode, on the CPU.

    Args:
        run: the run; its config.yaml describes the network.
        path: an existing model file of the run.

    Raises:
        ValueError: if the model or config.yaml is damaged.
    """
    config = read_config(run)
    try:
        state, _ = load_model(path)
        settings, spec = config["network"], DataSpec(**config["provenance"]["spec"])
    except DamagedFileError as error:
        raise ValueError(damaged(path, error)) from error
    except (KeyError, TypeError) as error:
        raise ValueError(damaged(run.config, "it does not describe the network")) from error
    network: NetFactory = instantiate(NetFactory, settings)
    net = network(spec)
    return load_personalized(net.to(state["head.weight"].dtype), state).eval()


def damaged(path: Path, reason: object) -> str:
    """Return the message for a damaged file of a run."""
    return f"{path} is damaged: {reason}. HINT: run the command that computed it again, which repairs it."
