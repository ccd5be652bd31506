"""The experiment: one typed object for each run."""

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
from lpft.storage.config_file import read_config
from lpft.storage.fingerprint import fingerprint
from lpft.storage.provenance import Provenance
from lpft.storage.run import Run
from lpft.types import DataSpec


@dataclass(frozen=True)
class Selection:
    """The part of an experiment that a command does.

    Args:
        only: names of the methods to run; None: all.
        shard: ``(i, n)``: only entries i, i + n, ... of the fixed list of stacks.
        overwrite: replace results that were made with other settings.
        fallback: write the model that each client should use.
    """

    only: list[str] | None = None
    shard: tuple[int, int] = (0, 1)
    overwrite: bool = False
    fallback: bool = False


@dataclass
class Experiment:
    """Everything that one run needs: its folder, its sections as objects, and the selections of the command.

    Args:
        config: the resolved configuration, without selections.
        data: the clients; set up.
        all_methods: the methods by name, selected or not.
        devices: the section `trainer`.
        provenance: variants of a sweep, the point and tuned settings; software and data are added when it is written.
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
        """The selected methods."""
        only = self.selection.only
        return {name: method for name, method in self.all_methods.items() if only is None or name in only}

    @property
    def tuned_methods(self) -> list[str]:
        """The selected methods that are tuned."""
        return [name for name in self.methods if name in self.tune.grids]

    @property
    def global_seeds(self) -> list[int]:
        """The seeds that need a global model: the experiment's, and those of tuning if a method is tuned."""
        return sorted({*self.seeds, *self.tune.seeds}) if self.tuned_methods else self.seeds

    @cached_property
    def net(self) -> BodyHeadNet:
        """A network for shapes and names; its values do not matter."""
        return build_network(self.network, self.data.spec, self.devices.dtype, seed=0)

    @cached_property
    def global_settings(self) -> Config:
        """All settings that the global models depend on."""
        network, federation = dict(self.config["network"]), dict(self.config["federation"])
        if self.net.weights_hash is not None:  # the file's content counts, not its path
            network["init_args"] = {**network["init_args"], "weights": self.net.weights_hash}
        del federation["init_map"], federation["init_entry"]  # their result counts
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
        """All settings that the results of every reference depend on: no personalization."""
        evaluation = {k: value for k, value in self.config["evaluation"].items() if k != "equivalence"}
        return {**self.global_settings, "evaluation": evaluation}

    @cached_property
    def shared_settings(self) -> Config:
        """All settings that the results of every other method depend on."""
        personalization = {k: value for k, value in self.config["personalization"].items() if k != "save_models"}
        return {**self.reference_settings, "personalization": personalization}

    def method_settings(self, name: str) -> Config:
        """Return all settings that the results of one method depend on."""
        shared = self.reference_settings if isinstance(self.all_methods[name], Reference) else self.shared_settings
        return {**shared, "method": self.config["methods"][name]}

    # References

    @property
    def references(self) -> dict[str, Reference]:
        """The selected methods that do not start from the global model."""
        return {name: method for name, method in self.methods.items() if isinstance(method, Reference)}

    def reference_rounds(self, reference: Reference) -> tuple[int, int]:
        """Return in how many rounds each client, or one that has everything, takes part, and the local epochs."""
        num_clients = sum(len(client.train) > 0 for client in self.data.participants().clients)
        if reference.epochs is None:
            return self.federation.full_rounds(num_clients), self.federation.local_epochs
        if isinstance(reference, InProcess):
            return self.federation.full_rounds(num_clients, reference.epochs), 1
        return reference.epochs, 1

    def reference_training(self, reference: Reference) -> Personalization:
        """Return the settings that the clients of a reference are trained with: those of federated training."""
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
        """Return the training that selected methods need beside the global model's, by name of the method."""
        tasks = {}
        for name, reference in self.references.items():
            if reference.start != "initial":
                task = replace(self.global_task(), run=self.run.reference(name), seeds=self.seeds, title=name)
                tasks[name] = replace(task, **self._reference_training_of(name, reference))
        return tasks

    def _reference_training_of(self, name: str, reference: Reference) -> Config:
        """Return what differs from federated training where a reference's model is trained."""
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
        """Return the settings of federated training without some of its keys, on which a reference does not depend."""
        federation = {key: value for key, value in self.global_settings["federation"].items() if key not in keys}
        return {**self.global_settings, "federation": federation}

    # Tasks

    def global_task(self) -> GlobalTask:
        """Return what federated training needs."""
        return GlobalTask(
            self.run,
            self.global_seeds,
            self.data.participants(),
            self.network,
            self.federation,
            self.devices,
            self.config["federation"]["clients_per_stack"],
            fingerprint(self.global_settings),
        )

    def personal_task(self) -> PersonalTask:
        """Return what personalization needs."""
        return PersonalTask(
            self.run,
            self.seeds,
            self.data,
            self.network,
            self.personalization,
            self.methods,
            self.devices,
            self.config["personalization"]["clients_per_stack"],
            self.config["personalization"]["heads_per_stack"],
            {name: fingerprint(self.method_settings(name)) for name in self.methods},
            self.evaluation,
            {name: self.reference_training(reference) for name, reference in self.references.items()},
        )


def run_folder(config: Mapping[str, Any]) -> Run:
    """Return the run that a configuration is for: `out`, by default ``runs/NAME``.

    Raises:
        ConfigError: if no folder can have this name.
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
    """Instantiate a part of a configuration, such as a network or the methods by name."""
    parser = ExperimentParser()
    parser.add_argument("--value", type=type_)
    return parser.build({"value": config}).value


def load_network(run: Run, path: Path) -> BodyHeadNet:
    """Return a network of a run with the parameters of a model file, in evaluation mode, on the CPU.

    Args:
        run: the run; its config.yaml says which network it is.
        path: a model file of the run, which is there.
    """
    config = read_config(run)
    state, _ = load_model(path)
    network: NetFactory = instantiate(NetFactory, config["network"])
    net = network(DataSpec(**config["provenance"]["spec"]))
    return load_personalized(net.to(state["head.weight"].dtype), state).eval()
