"""Time of personalizing many clients, compared with a plain loop over models in the same run.

    python benchmarks/personalize.py [--quick] [--networks cnn mlp] [--methods ft lp] [--devices 2] [--repeats 3]

Clients have 200 generated images in 10 classes: 135 for training, 15 for validation, and 50 for testing every
personalized model. The plain loop is hand-written code: a copy of the global model per client, a DataLoader over a
TensorDataset, an optimizer, and finally a forward pass for every model and test set. It uses the same batches, so both
compute the same accuracy matrix, up to rounding. `lpft` also computes and saves distortion, accuracy on training and
validation data, models, one file per client, and tables. ``--curve 9`` adds the default of experiments: tests of nine
models between the global and each personalized one, which the plain loop does not run. ``--kernels`` also times only
the steps and forward passes of `ft` and `lp`, on prepared data: `of_kernels` is the time of `lpft` as a multiple of
this time, `speedup_of_kernels` the largest speed-up over the plain loop that these kernels allow.

Prints one line of JSON for every network and method. Times are the minimum of several runs, wall-clock and CPU (of one
process only). On a busy machine, use the CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lpft.clients.batches import StackSamples, num_steps
from lpft.clients.stack import ClientStack, sample_losses
from lpft.config.schema import Experiment
from lpft.config.study import Study, open_study
from lpft.models.base import BodyHeadNet
from lpft.models.weights import load_model
from lpft.pipeline import federate, personalize
from lpft.runtime.session import training_session
from lpft.storage.run import read_client_result

BATCH, LR, MOMENTUM, LP_LR, MU, SPARSITY = 32, 1e-3, 0.9, 1e-2, 0.1, 0.9
SEED = 0
NETWORKS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "cnn": (1, 28, {"class_path": "lpft.models.cnn.SmallCNN"}),
    "cnn_bn": (1, 28, {"class_path": "lpft.models.cnn.SmallCNN", "init_args": {"norm": True}}),
    "digits": (3, 16, {"class_path": "lpft.models.cnn.SmallCNN", "init_args": {"norm": True}}),
    "tiny": (3, 16, {"class_path": "lpft.models.cnn.SmallCNN", "init_args": {"width": 4, "features": 16}}),
    "mlp": (1, 28, {"class_path": "lpft.models.mlp.MLP"}),
}
"""Channels and size of the images, and the network."""
METHODS: dict[str, dict[str, Any]] = {
    "none": {"class_path": "lpft.methods.ft.NoFineTuning"},
    "lp": {"class_path": "lpft.methods.lpft.LPFT", "init_args": {"lp_epochs": None, "lp_lr": LP_LR}},
    "ft": {"class_path": "lpft.methods.ft.FT"},
    "prox": {"class_path": "lpft.methods.prox.ProximalFT", "init_args": {"mu": MU}},
    "sparse": {"class_path": "lpft.methods.sparse.SparseFT", "init_args": {"sparsity": SPARSITY}},
    "lpft": {"class_path": "lpft.methods.lpft.LPFT", "init_args": {"lp_epochs": 5, "lp_lr": LP_LR}},
}


# The data


def save_images(path: Path, num_clients: int, channels: int, size: int) -> None:
    """Write images whose classes are patterns; brightness, contrast and noise depend on the client."""
    rng = np.random.default_rng(SEED)
    patterns = rng.normal(size=(10, size // 4, size // 4, channels)).repeat(4, axis=1).repeat(4, axis=2)
    labels = rng.integers(10, size=(num_clients, 200))
    contrast, brightness = (
        rng.uniform(10, 40, (num_clients, 1, 1, 1, 1)),
        rng.uniform(90, 160, (num_clients, 1, 1, 1, 1)),
    )
    images = (
        brightness + contrast * patterns[labels] + rng.normal(scale=30, size=(num_clients, 200, size, size, channels))
    )
    images = images.clip(0, 255).astype(np.uint8).reshape(-1, size, size, channels)
    writers = np.array([f"{client:03}" for client in range(num_clients)]).repeat(200)
    np.savez(path, x_train=images[..., 0] if channels == 1 else images, y_train=labels.flatten(), writers=writers)


def configuration(
    folder: Path, network: str, num_clients: int, epochs: int, devices: int, curve: int = 0
) -> dict[str, Any]:
    """Return an experiment without methods; its global model is trained for two rounds."""
    channels, size, factory = NETWORKS[network]
    save_images(folder / "images.npz", num_clients, channels, size)
    domain = {"path": str(folder / "images.npz"), "group": "writers", "x_test": None, "y_test": None}
    source = {"class_path": "lpft.data.sources.arrays.Arrays", "init_args": {"domains": {"c": domain}}}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": LR, "momentum": MOMENTUM}}
    data = {"source": source, "image_size": size, "channels": channels, "cache_dir": str(folder / "cache")}
    return {
        "name": network,
        "seeds": [SEED],
        "data": {**data, "val_share": 0.1, "test_share": 0.25},
        "network": factory,
        "federation": {"rounds": 2},
        "personalization": {"epochs": epochs, "batch_size": BATCH, "optimizer": optimizer},
        "evaluation": {"curve": curve},
        "trainer": {"accelerator": "cpu", "devices": devices},
    }


def open_quietly(command: str, config: dict[str, Any]) -> Study:
    """Open a study without warnings about the synthetic data."""
    with contextlib.redirect_stderr(io.StringIO()):
        return open_study(command, config)


# The plain loop


@dataclass
class PlainLoop:
    """Personalizes one client at a time, as hand-written code would.

    Args:
        experiment: the clients and the order of their batches.
        net: the global model.
    """

    experiment: Experiment
    net: BodyHeadNet

    def __post_init__(self) -> None:
        """Normalize all images once, as `transforms` does before a TensorDataset is created."""
        data = self.experiment.data
        self.images, self.labels = data.normalize(data.images), data.labels
        self.epochs = self.experiment.personalization.epochs

    def matrix(self, method: str) -> np.ndarray:
        """Return the accuracy matrix in percent, ``(C, C)``."""
        num_clients = len(self.experiment.data.clients)
        if method == "none":
            return np.tile(self.test(self.net), (num_clients, 1))
        return np.stack([self.test(getattr(self, method)(client)) for client in range(num_clients)])

    def lp(self, client: int) -> BodyHeadNet:
        """Train the head."""
        net = copy.deepcopy(self.net)
        self.probe(net, client, range(self.epochs))
        return net

    def ft(self, client: int) -> BodyHeadNet:
        """Train everything."""
        net = copy.deepcopy(self.net)
        self.tune(net, client, range(self.epochs))
        return net

    def lpft(self, client: int) -> BodyHeadNet:
        """Train the head for five epochs, then everything."""
        net = copy.deepcopy(self.net)
        self.probe(net, client, range(5))
        self.tune(net, client, range(5, self.epochs))
        return net

    def prox(self, client: int) -> BodyHeadNet:
        """Train everything with a penalty on the distance from the global model."""
        net = copy.deepcopy(self.net)
        start = [p.detach().clone() for p in net.parameters()]

        def penalty() -> Tensor:
            return MU / 2 * sum((p - s).pow(2).sum() for p, s in zip(net.parameters(), start, strict=True))

        self.tune(net, client, range(self.epochs), penalty=penalty)
        return net

    def sparse(self, client: int) -> BodyHeadNet:
        """Train the entries with the largest saliency."""
        net = copy.deepcopy(self.net)
        start = [p.detach().clone() for p in net.parameters()]
        masks = self.masks(net, client)

        def mask_gradients() -> None:
            for p, mask in zip(net.parameters(), masks, strict=True):
                p.grad.mul_(mask)

        @torch.no_grad()
        def put_back() -> None:
            for p, s, mask in zip(net.parameters(), start, masks, strict=True):
                p.copy_(torch.where(mask, p, s))

        self.tune(net, client, range(self.epochs), before_step=mask_gradients, after_step=put_back)
        return net

    def masks(self, net: BodyHeadNet, client: int) -> list[Tensor]:
        """Return which entries sparse fine-tuning trains."""
        net.eval()
        batches = list(self.loader(client, "prepare"))[:10]
        for x, y in batches:
            (F.cross_entropy(net(x), y) / len(batches)).backward()
        names = [name for name, _ in net.named_parameters()]
        saliency = [(p.grad * p).detach().abs() for p in net.parameters()]
        chosen = torch.cat([s.flatten() for name, s in zip(names, saliency, strict=True) if name != "head.bias"])
        threshold = chosen.topk(round((1 - SPARSITY) * len(chosen))).values[-1]
        return [s >= (threshold if name != "head.bias" else -1) for name, s in zip(names, saliency, strict=True)]

    def probe(self, net: BodyHeadNet, client: int, epochs: range) -> None:
        """Train the head on images with a frozen body."""
        net.eval()
        net.body.requires_grad_(False)
        self.fit(net, client, epochs, torch.optim.SGD(net.head.parameters(), LP_LR, MOMENTUM))
        net.body.requires_grad_(True)

    def tune(self, net: BodyHeadNet, client: int, epochs: range, **hooks: Callable[[], Any]) -> None:
        """Train everything."""
        net.train()
        self.fit(net, client, epochs, torch.optim.SGD(net.parameters(), LR, MOMENTUM), **hooks)

    def fit(
        self,
        net: BodyHeadNet,
        client: int,
        epochs: range,
        optimizer: torch.optim.Optimizer,
        penalty: Callable[[], Tensor] | None = None,
        before_step: Callable[[], None] = lambda: None,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train for some epochs."""
        criterion = nn.CrossEntropyLoss()
        for epoch in epochs:
            for x, y in self.loader(client, "personalize", epoch):
                optimizer.zero_grad()
                loss = criterion(net(x), y)
                if penalty is not None:
                    loss = loss + penalty()
                loss.backward()
                before_step()
                optimizer.step()
                after_step()

    def loader(self, client: int, *key: int | str) -> DataLoader:
        """Return the batches of one pass, in the order in which `lpft` draws them."""
        data = self.experiment.data
        train = data.clients[client].train
        order = StackSamples.of(data, [client], BATCH).epoch(SEED, *key)[:, 0].tolist()
        return DataLoader(TensorDataset(self.images[train], self.labels[train]), batch_sampler=order)

    @torch.no_grad()
    def test(self, net: BodyHeadNet) -> np.ndarray:
        """Return the accuracy on every client's test set, percent, ``(C,)``."""
        net.eval()
        accuracies = []
        for client in self.experiment.data.clients:
            correct = 0
            tests = TensorDataset(self.images[client.test], self.labels[client.test])
            for x, y in DataLoader(tests, batch_size=256):
                correct += int((net(x).argmax(1) == y).sum())
            accuracies.append(100 * correct / len(tests))
        return np.array(accuracies)


# The kernels


def kernels(experiment: Experiment, net: BodyHeadNet, method: str) -> None:
    """Run the necessary kernels of `ft` and `lp` on prepared data, in the stacks that lpft uses.

    A step for every batch of every client, and a forward pass of every model (lp: of every head) on all test images.
    """
    data, settings = experiment.data, experiment.config["personalization"]
    images, labels = data.normalize(data.images), data.labels
    clients, test = data.clients, torch.cat([client.test for client in data.clients])
    epochs = settings["epochs"]
    single = ClientStack(net, 1).eval()
    tests = images[test].contiguous(memory_format=torch.channels_last).split(128)
    size = min(settings["heads_per_stack" if method == "lp" else "clients_per_stack"], len(clients))
    index = torch.stack([client.train[:BATCH] for client in clients[:size]])
    x, y = images[index], labels[index]
    if size == 1:
        x = x[0].contiguous(memory_format=torch.channels_last).unsqueeze(0)
    steps = epochs * num_steps(len(clients[0].train), BATCH)
    with torch.no_grad():
        if method == "lp":
            tests = [single.features(part, shared=True)[0] for part in tests]
            for client in clients:
                single.features(images[client.train].contiguous(memory_format=torch.channels_last), shared=True)
            x = torch.stack([single.features(part, shared=True)[0] for part in x])
    for _ in range(-(-len(clients) // size)):
        stack = ClientStack(net, size).train()
        run = stack.classify if method == "lp" else stack
        optimizer = torch.optim.SGD(stack.part("head") if method == "lp" else stack.parameters(), LR, MOMENTUM)
        for _ in range(steps):
            optimizer.zero_grad()
            sample_losses(run(x), y).mean(1).sum().backward()
            optimizer.step()
        stack.eval()
        with torch.no_grad():
            for part in tests:
                features = part if method == "lp" else stack.features(part, shared=True)
                stack.classify(features, shared=method == "lp").argmax(-1)


# The comparison


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall-clock and CPU seconds of a call, and its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - processor, result


def by_lpft(config: dict[str, Any], method: str, model: Path) -> tuple[float, float, np.ndarray]:
    """Personalize all clients into an empty folder; settings and data are read before the clock starts."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        whole = {**config, "out": folder, "methods": {method: METHODS[method]}, "federation": {"init": str(model)}}
        federate(open_study("federate", whole))
        study = open_study("personalize", whole)
        wall, processor, _ = timed(lambda: personalize(study))
        run, clients = study.run, study.experiments[0].data.clients
        matrix = np.array([read_client_result(run.cell(SEED, method, client.name)).accuracy for client in clients])
    return wall, processor, matrix


def compare(network: str, methods: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of a network's methods."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(folder, network, options.clients, options.epochs, options.devices, options.curve)
        study = open_quietly("federate", {**config, "out": str(folder / "run"), "methods": METHODS})
        with contextlib.redirect_stderr(io.StringIO()):
            federate(study)
        (experiment,) = study.experiments
        model = experiment.run.global_model(SEED)
        net = experiment.network(experiment.data.spec)
        net.load_state_dict(load_model(model)[0])
        plain = PlainLoop(experiment, net.eval())
        for method in methods:
            runs: dict[str, list[tuple[float, float]]] = {"lpft": [], "plain": [], "kernels": []}
            matrices = {}
            for _ in range(options.repeats):
                wall, processor, matrices["lpft"] = by_lpft(config, method, model)
                runs["lpft"].append((wall, processor))
                if not options.no_plain:
                    wall, processor, matrices["plain"] = timed(lambda method=method: plain.matrix(method))
                    runs["plain"].append((wall, processor))
                if options.kernels and method in ("lp", "ft"):
                    wall, processor, _ = timed(lambda method=method: kernels(experiment, net, method))
                    runs["kernels"].append((wall, processor))
            yield {"network": network, "method": method, **_figures(runs, matrices, options)}


def _figures(
    runs: dict[str, list[tuple[float, float]]], matrices: dict[str, np.ndarray], options: argparse.Namespace
) -> dict[str, Any]:
    best = {who: [min(times) for times in zip(*pairs, strict=True)] for who, pairs in runs.items() if pairs}
    wall, processor = best["lpft"]
    seconds = wall if options.devices > 1 else processor
    figures = {
        "processes": options.devices,
        "curve": options.curve,
        "seconds": round(wall, 3),
        "processor_seconds": round(processor, 3) if options.devices == 1 else None,
        "clients_per_s": round(options.clients / seconds, 2),
        "cells_per_s": round(options.clients**2 / seconds),
    }
    if "kernels" in best:
        figures["of_kernels"] = round(processor / best["kernels"][1], 2)
    if "plain" in best and "kernels" in best:
        figures["speedup_of_kernels"] = round(best["plain"][1] / best["kernels"][1], 2)
    if "plain" in best:
        difference = np.abs(matrices["lpft"] - matrices["plain"])
        figures |= {
            "plain_seconds": round(best["plain"][0], 3),
            "speedup": round(best["plain"][0] / wall, 2),
            "processor_speedup": round(best["plain"][1] / processor, 2) if options.devices == 1 else None,
            "mean_difference": round(float(difference.mean()), 3),
            "largest_difference": round(float(difference.max()), 3),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--devices", type=int, default=1, help="processes of lpft; the plain loop has one")
    parser.add_argument("--curve", type=int, default=0, help="models that lpft tests between global and personalized")
    parser.add_argument("--repeats", type=int, default=2, help="number of runs; the fastest counts")
    parser.add_argument("--no-plain", action="store_true", help="time only lpft")
    parser.add_argument("--kernels", action="store_true", help="also time only the necessary kernels")
    parser.add_argument("--quick", action="store_true", help="8 clients, 6 epochs, one run: takes a minute")
    options = parser.parse_args()
    if options.quick:
        options.clients, options.epochs, options.repeats = 8, 6, 1
    with training_session():
        for network in options.networks:
            for figures in compare(network, options.methods, options):
                print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
