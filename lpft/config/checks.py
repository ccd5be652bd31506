"""Checks that the sections of an experiment fit together, made before anything is trained."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import get_args

from torch.optim import Optimizer

from lpft.clients.single_values import single_value_layers, untrainable_clients
from lpft.clients.stack import check_elementwise
from lpft.clients.stack_size import clients_per_stack, heads_per_stack, size_to_join
from lpft.clients.trial import stacking_problem
from lpft.config.schema import Experiment
from lpft.config.sweep import alternatives, untuned_values
from lpft.data.messages import shortened
from lpft.data.sources.sites import Sites
from lpft.federated.aggregation import LIMIT, WeightedMean
from lpft.federated.algorithms.base import Algorithm, Part
from lpft.federated.cohort import cohort_size
from lpft.federated.server import check_server_optimizer, check_steps
from lpft.methods.base import check_phases, check_type_of_phases
from lpft.methods.federated import InProcess
from lpft.methods.references import Reference
from lpft.models.base import check_trains
from lpft.reporting.verdicts import load_verdicts
from lpft.runtime.once import log_once
from lpft.storage.config_file import read_config
from lpft.storage.fingerprint import digest
from lpft.storage.run import check_client_names, check_method_names

log = logging.getLogger("lpft")


def check_settings(experiment: Experiment) -> None:
    """Check everything that does not need data; raise ValueError if settings contradict each other or the machine."""
    if experiment.command not in ("plan", "prepare"):  # they use no device
        experiment.devices.check()
    _check_seeds(experiment.seeds, "seeds")
    _check_seeds(experiment.tune.seeds, "tune.seeds")
    _check_methods(experiment)
    _check_only(experiment)
    _check_references(experiment)
    _check_grids(experiment)
    load_verdicts(experiment.config)
    if experiment.selection.fallback and not experiment.personalization.save_models:
        raise ValueError("`--fallback` needs the models. HINT: set `--personalization.save_models true`.")


def check_experiment(experiment: Experiment) -> None:
    """Check methods and optimizers against data and network; raise ValueError if they are incompatible."""
    check_client_names(client.name for client in experiment.data.clients)
    if experiment.tune.grids and not any(len(client.val) for client in experiment.data.participants().clients):
        raise ValueError(
            "`tune` chooses by validation data, but no client has any."
            " HINT: give the clients validation samples, or remove `tune`."
        )
    for name, method in experiment.methods.items():
        check_phases(name, method, experiment.net, experiment.personalization.epochs, experiment.data.spec)
    _check_optimizers(experiment)
    _check_values(experiment)
    _check_class_order(experiment)
    _check_norm(experiment)


def resolve_stacks(experiment: Experiment, problems: dict[str, str | None]) -> None:
    """Replace ``clients_per_stack: auto`` with the number in the run's config.yaml or, if it is new, a computed one.

    If a network cannot be trained in stacks, its clients are trained one by one.

    Args:
        experiment: the experiment; its settings are modified.
        problems: for networks that were tried before, why they cannot be trained in stacks, or None if they can.
            Results are added, so that runs with the same network try it once.

    Raises:
        ValueError: if a size of stacks is given as a number but the network cannot be trained in stacks, or if it
            cannot be trained at all.
    """
    saved_config = {} if experiment.selection.overwrite else read_config(experiment.run)
    num_clients, num_participants = (
        sum(len(client.train) > 0 for client in data.clients)
        for data in (experiment.data, experiment.data.participants())
    )
    cohort = cohort_size(num_participants, experiment.federation.participation)
    net, spec, kind = experiment.net, experiment.data.spec, experiment.devices.kind
    for section, num_trained in {"federation": cohort, "personalization": num_clients}.items():
        settings = experiment.config[section] = dict(experiment.config[section])
        saved = saved_config.get(section, {})
        configured = settings["clients_per_stack"]
        setting = saved.get("clients_per_stack", "auto") if configured == "auto" else configured
        size = clients_per_stack(setting, net, spec, settings["batch_size"], num_trained, kind)
        if setting == "auto" and section == "federation" and kind == "cpu":
            size = size_to_join(size, net, settings["batch_size"])
        sizes = {"clients_per_stack": size}
        if "heads_per_stack" in settings:
            heads = settings["heads_per_stack"]
            if heads == "auto":
                heads = saved.get("heads_per_stack", "auto") if configured == "auto" else configured
            sizes["heads_per_stack"] = heads_per_stack(heads, net, settings["batch_size"], num_trained, kind)
        if max(sizes.values()) > 1:
            sizes = _stackable(experiment, section, sizes, problems)
        settings.update(sizes)


def _stackable(
    experiment: Experiment, section: str, sizes: dict[str, int], problems: dict[str, str | None]
) -> dict[str, int]:
    """Return the sizes of stacks, or sizes of 1 if the network cannot be trained in stacks."""
    name, spec = type(experiment.net).__name__, experiment.data.spec
    network = {"network": experiment.config["network"], "spec": asdict(spec), "dtype": str(experiment.devices.dtype)}
    key_of_network = digest(network)
    if key_of_network not in problems:
        problems[key_of_network] = stacking_problem(experiment.net, spec)
    problem = problems[key_of_network]
    if problem is None:
        return sizes
    for key, size in sizes.items():
        if size > 1 and experiment.config[section][key] != "auto":
            raise ValueError(
                f"`{section}.{key}={size}`: clients of {name} cannot be trained in stacks: {problem}."
                f" HINT: set `--{section}.{key} 1`."
            )
    log_once(
        logging.INFO,
        f"{name}'s clients are trained one by one, which may take longer, since stacks do not work: {problem}",
    )
    return dict.fromkeys(sizes, 1)


def _check_norm(experiment: Experiment) -> None:
    """Refuse batches in which a BatchNorm layer has no variance; warn about clients whose batches never have any."""
    layers = single_value_layers(experiment.net, experiment.data.spec)
    epochs = experiment.personalization.epochs
    training = {
        "federation": experiment.federation.init is None or bool(experiment.references),
        "personalization": any(
            method.trains_norm(epochs)
            for name, method in experiment.methods.items()
            if name not in experiment.references
        ),
    }
    if not layers or not any(training.values()):
        return
    reason = (
        f"{layers[0]} of {type(experiment.net).__name__}, a BatchNorm layer, gets one value for each channel and image"
    )
    for section, trains in training.items():
        if trains and experiment.config[section]["batch_size"] == 1:
            raise ValueError(
                f"`{section}.batch_size=1`: {reason}, so a batch has no variance."
                f" HINT: set `--{section}.batch_size 2` or more, or choose a network without BatchNorm."
            )
    clients = experiment.data.clients
    untrainable = [clients[position].name for position in untrainable_clients(experiment.net, experiment.data)]
    participants = {client.name for client in experiment.data.participants().clients if len(client.train)}
    if training["federation"] and participants <= set(untrainable):
        raise ValueError(
            f"No client can be trained: each has only copies of one image, and {reason}."
            " HINT: choose a network without BatchNorm, or `augment` images."
        )
    if untrainable:
        log.warning(
            "All training images of %s are the same, and %s, so their batches have no variance for any `batch_size`:"
            " these clients take no part in federated training, and their models are diverged if BatchNorm is trained.",
            shortened(untrainable),
            reason,
        )


def _check_values(experiment: Experiment) -> None:
    """Refuse networks with initial values that the aggregator takes for those of a diverged client."""
    if experiment.federation.init is not None:
        return
    state = {name: t for name, t in experiment.net.state_dict().items() if t.is_floating_point()}
    large = [name for name, t in state.items() if (t.abs() >= LIMIT).any()]
    if large and isinstance(experiment.federation.aggregator(experiment.federation.weighting), WeightedMean):
        raise ValueError(
            f"{type(experiment.net).__name__} has initial values of {LIMIT:.0f} or more, which count as diverged:"
            f" {', '.join(large[:5])}. HINT: store masks as booleans, and use `masked_fill` in `forward`."
        )


def _check_class_order(experiment: Experiment) -> None:
    """Warn if a model from a file may order its classes differently from the source: numbered folders are ambiguous."""
    source = experiment.data.source
    if experiment.federation.init is None or not isinstance(source, Sites) or source.imagefolder_order is None:
        return
    orders = [json.dumps(list(order), ensure_ascii=False) for order in (source.class_names, source.imagefolder_order)]
    log.warning(
        "The outputs of `federation.init` are assumed to be the classes %s. A model trained with torchvision's"
        " ImageFolder has the order %s. HINT: set the correct order with `--data.source.classes '[...]'`.", *orders,
    )  # fmt: skip


def _check_seeds(seeds: list[int], key: str) -> None:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        raise ValueError(f"`{key}={seeds}` must be distinct integers from 0 to 2**63 - 1. HINT: [0, 1, 2].")


def _check_methods(experiment: Experiment) -> None:
    if not experiment.all_methods:
        raise ValueError("`methods` is empty. HINT: name at least one, such as {ft: {class_path: lpft.methods.ft.FT}}.")
    check_method_names(experiment.all_methods)
    for name, method in experiment.all_methods.items():
        try:
            check_type_of_phases(method, experiment.personalization.epochs)
        except ValueError as error:
            raise ValueError(f"Method `{name}`: {error}") from error
    rows = {*experiment.all_methods, *(f"{name}_tuned" for name in experiment.tune.grids)}
    rows |= {variant["method"] for variant in experiment.provenance.variants.values()}
    for pair in experiment.config["compare"]:
        if len(pair) != 2:
            raise ValueError(f"`compare` has {pair}, which is not a pair of methods. HINT: compare: [[lpft, ft]].")
        for name in sorted({*pair} - rows):
            log_once(logging.INFO, f"`compare` has {pair}, which is skipped, since no method is called `{name}`")


def _check_references(experiment: Experiment) -> None:
    for name, method in experiment.all_methods.items():
        if isinstance(method, Reference) and method.epochs is None and experiment.federation.init is not None:
            raise ValueError(
                f"Method `{name}` trains for as long as federated training, but the global model is from a file,"
                f" `federation.init={experiment.federation.init}`."
                f" HINT: set its passes over the data with `--methods.{name}.epochs N`, or remove `{name}`."
            )
        if isinstance(method, Reference) and name in experiment.tune.grids:
            raise ValueError(
                f"`tune.grids.{name}` is a reference, which is trained like the global model and cannot be tuned."
                " HINT: remove it from `tune.grids`."
            )


def _check_only(experiment: Experiment) -> None:
    only = experiment.selection.only
    unknown = [name for name in only or [] if name not in experiment.all_methods]
    if unknown or only == []:
        raise ValueError(
            f"`--only {','.join(only or [])}` names no method{' ' * bool(unknown)}{', '.join(map(repr, unknown))}."
            f" HINT: the methods of this experiment are {', '.join(experiment.all_methods)}."
        )


def _check_grids(experiment: Experiment) -> None:
    tune = experiment.tune
    unknown = [name for name in tune.grids if name not in experiment.all_methods]
    if unknown:
        raise ValueError(
            f"`tune.grids.{unknown[0]}` is not a method. HINT: the methods are {', '.join(experiment.all_methods)}."
        )
    for name, grid in tune.grids.items():
        size = len(alternatives(grid, untuned_values(experiment.config, name)))
        if size < tune.trials - 1:
            raise ValueError(
                f"`tune.grids.{name}` has {size} combinations in addition to the untuned settings, too few for"
                f" `tune.trials={tune.trials}`: every method has the same number of trials."
                f" HINT: add values, or set `--tune.trials {size + 1}`."
            )


def _check_algorithms(experiment: Experiment, optimizer: Optimizer) -> None:
    """Check the algorithm of federated training, and those of references that train their own, against the network."""
    federation, algorithms = experiment.federation, {}
    if federation.init is None or federation.algorithm is not None:
        algorithms["federation.algorithm"] = federation.algorithm or Algorithm()
    for name, method in experiment.references.items():
        if isinstance(method, InProcess):
            algorithms[f"methods.{name}"] = method.algorithm
    for key, algorithm in algorithms.items():
        try:
            algorithm.check(experiment.net, optimizer)
            for part in _parts(algorithm, federation.local_epochs):
                check_trains(experiment.net, part)
        except ValueError as error:
            raise ValueError(f"`{key}`: {error}") from error


def _parts(algorithm: Algorithm, local_epochs: int) -> list[Part]:
    """Return the parts that an algorithm trains; raise ValueError if there are none, or others than `Part`."""
    parts = algorithm.epochs(local_epochs)
    if not isinstance(parts, list) or not parts or set(parts) - set(get_args(Part)):
        raise ValueError(
            f"`epochs` returned {parts!r}, but must return a list with the part that is trained in each epoch."
            f" HINT: a part is one of {', '.join(map(repr, get_args(Part)))}."
        )
    return parts


def _check_optimizers(experiment: Experiment) -> None:
    """Build every optimizer once, so that invalid settings fail before any training."""
    net = experiment.net
    groups = [{"name": name, "params": getattr(net, name).parameters()} for name in ("head", "body")]
    for section, make, params in (
        ("federation", experiment.federation.optimizer, net.parameters()),
        ("personalization", experiment.personalization.optimizer, groups),
    ):
        try:
            check_steps(make)
            optimizer = make(params)
            if "lr" not in optimizer.param_groups[0]:
                raise ValueError(
                    f"{type(optimizer).__name__} has no setting `lr`, which phases and algorithms need."
                    " HINT: call its learning rate `lr`, as in torch.optim."
                )
            settings = experiment.config[section]
            check_elementwise(optimizer, max(settings["clients_per_stack"], settings.get("heads_per_stack", 1)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{section}.optimizer` cannot be used: {error}") from error
        if section == "federation":
            _check_algorithms(experiment, optimizer)
        if not optimizer.param_groups[0]["lr"] > 0:
            raise ValueError(f"`{section}.optimizer` has learning rate 0. HINT: give it one above 0.")
    if experiment.federation.server_optimizer is not None:
        try:
            check_server_optimizer(experiment.federation.server_optimizer)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`federation.server_optimizer` cannot be used: {error}") from error
