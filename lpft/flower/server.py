"""The ServerApp: trains the global model of each seed on the nodes, and optionally lets them personalize it."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, fields, replace
from importlib.metadata import version
from statistics import fmean
from typing import Any

from lpft.config.files import ConfigError, config_errors
from lpft.config.loggers import logger_writers
from lpft.config.parser import ExperimentCLI
from lpft.config.saved_settings import compare_settings
from lpft.config.schema import run_folder
from lpft.config.study import open_study
from lpft.federated.fedavg import train_rounds
from lpft.federated.federate import GlobalTask, is_done
from lpft.federated.files import GlobalModelFiles
from lpft.flower.api import Context, Grid, ServerApp
from lpft.flower.fleet import Fleet, RemoteClients, personalize_on_nodes
from lpft.flower.node import NO_SWEEPS, LocalResult, check_methods, comparable_settings, single, spec_record
from lpft.flower.roster import Roster, check_equal
from lpft.flower.settings import RunSettings, log_to_console
from lpft.models.base import build_network
from lpft.models.weights import checksum, load_model
from lpft.reporting.live import LiveLogs
from lpft.reporting.loggers import LoggerWriter
from lpft.runtime.progress import Steps
from lpft.runtime.session import training_session
from lpft.storage.atomic import write_atomically
from lpft.storage.config_file import read_config, write_config
from lpft.storage.fingerprint import fingerprint
from lpft.storage.provenance import Provenance, software
from lpft.storage.run import FLOWER, Run
from lpft.types import DataSpec

log = logging.getLogger("lpft")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train missing global models; then, if the run lists methods, personalize them on the nodes."""
    with training_session(), config_errors():
        log_to_console()
        settings = RunSettings.of(context.run_config)
        serve(Fleet(grid, settings), settings, context.run_id)


def serve(fleet: Fleet, settings: RunSettings, run_id: int) -> None:
    """Train and personalize on the nodes of a Flower run.

    Args:
        fleet: the nodes.
        settings: settings of the run.
        run_id: Flower's number of the run.

    Raises:
        ConfigError: if the experiment is not valid, or the nodes do not fit it.
        NodeError: if nodes are missing or fail; completed rounds are kept, and the same run continues.
    """
    server = Server.open(settings, fleet.describe_nodes())
    for seed in server.task.seeds:
        if not is_done(server.task, seed):
            server.train(fleet, seed, run_id)
    write_config(server.task.run, server.config, replace(server.provenance, flower=server.task.run.flower()))
    results: dict[int, list[LocalResult]] = {}
    for seed in server.seeds if settings.methods else ():
        state, _ = load_model(server.task.run.global_model(seed))
        results[seed] = personalize_on_nodes(fleet, server.roster.nodes, seed, settings.methods, state)
        write_results(server.task.run, results)
    log.info("done: %s", server.task.run.root.resolve())


@dataclass
class Server:
    """The server's view of an experiment.

    Args:
        config: the resolved experiment.
        provenance: provenance of the results.
        task: the global models to train.
        spec: specification of the data.
        roster: the clients and their nodes.
        seeds: seeds of the models to personalize; `task` may contain others, for tuning.
        loggers: loggers in addition to TensorBoard.
    """

    config: dict[str, Any]
    provenance: Provenance
    task: GlobalTask
    spec: DataSpec
    roster: Roster
    seeds: list[int]
    loggers: list[LoggerWriter]

    @classmethod
    def open(cls, settings: RunSettings, descriptions: dict[int, dict[str, Any]]) -> Server:
        """Open the experiment, with the data if the nodes share them, and compare it with the nodes' descriptions."""
        arguments = [f"--config={settings.experiment}", *settings.arguments, "--trainer.devices=1"]
        if all(description["part"] is None for description in descriptions.values()):
            return cls._without_data(arguments, Roster.of(descriptions), settings.methods)
        study = open_study("federate", arguments)
        experiment = single(study.experiments)
        check_methods(settings.methods, experiment.all_methods)
        task = experiment.global_task()
        roster = Roster.of(descriptions, [client.name for client in task.data.clients])
        description = {
            "spec": spec_record(task.data.spec),
            "classes": list(task.data.source.class_names),
            "settings": comparable_settings(experiment, own_data=False),
        }
        check_equal(description, roster.node, "a node", "the server")
        config = read_config(experiment.run)
        return cls(
            config,
            Provenance(**config.pop("provenance")),
            task,
            task.data.spec,
            roster,
            experiment.seeds,
            study.loggers,
        )

    @classmethod
    def _without_data(cls, arguments: list[str], roster: Roster, methods: Sequence[str]) -> Server:
        """Open an experiment whose data are only on the nodes."""
        cli = ExperimentCLI("federate", arguments)
        config = cli.resolved()
        if config["sweep"]:
            raise ConfigError(NO_SWEEPS)
        parts, run, spec = cli.parser.build(config), run_folder(config), DataSpec(**roster.spec)
        check_methods(methods, parts.methods)
        init = parts.federation.init
        if init is not None:
            init = checksum(parts.federation.read_init(build_network(parts.network, spec, parts.trainer.dtype, seed=0)))
        settings_hash = fingerprint({**roster.settings, "init": init})
        task = GlobalTask(
            run, parts.seeds, parts.data, parts.network, parts.federation, parts.trainer, 1, settings_hash
        )
        from_node = {key: roster.node[key] for key in ("spec", "classes", "mean", "std", "crop", "features")}
        provenance = Provenance(
            **software(), device=parts.trainer.kind, clients=roster.names, settings=settings_hash, **from_node
        )
        selections = {"overwrite", "only", "provenance"}
        config = {key: value for key, value in config.items() if key not in selections} | {"out": str(run.root)}
        for seed in task.seeds:
            saved = run.global_file(seed, "settings.json")
            if saved.exists() and not parts.overwrite:
                compare_settings(saved.parent, json.loads(saved.read_text(encoding="utf-8")), roster.settings)
            run.write_settings(seed, "global", roster.settings)
        return cls(config, provenance, task, spec, roster, parts.seeds, logger_writers(cli.loggers()))

    def train(self, fleet: Fleet, seed: int, run_id: int) -> None:
        """Train the global model of a seed on the nodes, or use the model in `federation.init`."""
        task, fabric = self.task, self.task.devices.fabric()
        net = build_network(task.network, self.spec, task.devices.dtype, seed)

        def record_nodes(first_round: int) -> None:
            clients = {str(node): self.roster.at(node) for node in self.roster.nodes}
            record = {"flwr": version("flwr"), "run_id": str(run_id), "from_round": first_round, "nodes": clients}
            write_atomically(task.run.global_file(seed, FLOWER), json.dumps(record, indent=1) + "\n")

        with closing(LiveLogs(task.run, self.loggers)) as logs:
            steps = Steps(f"flower seed {seed}", task.settings.rounds, "round")
            files = GlobalModelFiles(fabric, task.run, seed, task.fingerprint, steps, logs)
            if task.settings.init is not None:
                files.take({**net.state_dict(), **task.settings.read_init(net)})
                return
            clients = RemoteClients(fleet, self.roster, net, fabric, seed, record_nodes)
            start = time.monotonic()
            train_rounds(fabric, net, clients, task.settings, seed, files)
        log.info("seed %d: the global model was trained in %.0f seconds", seed, time.monotonic() - start)


def write_results(run: Run, results: dict[int, list[LocalResult]]) -> None:
    """Write the results of personalized models, one row per seed, method and client, and log the means."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", *(field.name for field in fields(LocalResult))])
    for seed, rows in results.items():
        writer.writerows([seed, *("" if value is None else value for value in astuple(row))] for row in rows)
    write_atomically(run.nodes, text.getvalue())
    seed, latest = list(results.items())[-1]
    for method in dict.fromkeys(result.method for result in latest):
        accuracies = [(r.local_before, r.local_after) for r in latest if r.method == method]
        pairs = [(before, after) for before, after in accuracies if before is not None and after is not None]
        if pairs:
            before, after = (fmean(values) for values in zip(*pairs, strict=True))
            worse = sum(b > a for b, a in pairs)
            log.info(
                "seed %d, %s: accuracy at home %.2f%% -> %.2f%%, mean over %d clients; lower for %d of them",
                *(seed, method, before, after, len(pairs), worse),
            )
