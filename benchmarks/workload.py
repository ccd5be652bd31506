"""The federated workload that all programs train: data, networks, and two loops without a framework.

100 clients with 100 training images each (28x28, grey, ten classes), 20 clients per round, one local epoch of SGD in
batches of 20. After every round, the global model is tested on 2,000 images. This file imports only numpy and torch, so
that other programs can use it in a separate environment.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

LEARNING_RATE = {"mlp": 0.1, "cnn": 0.05}


@dataclass(frozen=True)
class Workload:
    """Sizes of the workload.

    Args:
        clients: number of clients.
        images: training images of a client.
        cohort: clients in a round.
        batch: images in a batch.
        rounds: number of rounds.
        tested: images that the global model is tested on after every round.
    """

    clients: int = 100
    images: int = 100
    cohort: int = 20
    batch: int = 20
    rounds: int = 10
    tested: int = 2000


@dataclass(frozen=True)
class Images:
    """Normalized images ``(..., 1, 28, 28)`` with labels ``(...)``: of every client, and the test set."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def raw_images(work: Workload, per_client: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy copies of ten random patterns, ``per_client`` per client: uint8 ``(n, 28, 28)`` and labels."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (10, 28, 28))
    labels = rng.integers(0, 10, work.clients * per_client)
    noise = rng.integers(-128, 128, (len(labels), 28, 28), dtype=np.int16)
    return np.clip(patterns[labels] * 0.1 + 115 + noise, 0, 255).astype(np.uint8), labels


def images(work: Workload) -> Images:
    """Return the images as tensors: each client's training images, then the test set."""
    per_client = work.images + work.tested // work.clients
    pixels, labels = raw_images(work, per_client)
    x = torch.from_numpy(pixels).view(work.clients, per_client, 1, 28, 28).float().div(255).sub(0.5).div(0.5)
    y = torch.from_numpy(labels).view(work.clients, per_client)
    test = x[:, work.images :].flatten(0, 1), y[:, work.images :].flatten()
    return Images(x[:, : work.images], y[:, : work.images], *test)


def mlp() -> nn.Module:
    """784-64-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """The convolutional network of McMahan et al., 1,663,370 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip


NETWORKS = {"mlp": mlp, "cnn": cnn}


def cohorts(work: Workload) -> list[list[int]]:
    """Draw the clients of every round."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randperm(work.clients, generator=generator)[: work.cohort].tolist() for _ in range(work.rounds)]


@torch.no_grad()
def accuracy(net: nn.Module, data: Images) -> float:
    """Return the share of correct predictions on the test set, percent."""
    hits = [(net(x).argmax(1) == y) for x, y in zip(data.test.split(256), data.test_labels.split(256), strict=True)]
    return 100 * float(torch.cat(hits).double().mean())


def lean_loop(name: str, work: Workload, data: Images, channels_last: bool = False) -> float:
    """Train one client at a time, averaging their states; return the final accuracy.

    Args:
        name: of the network.
        work: the workload.
        data: its images.
        channels_last: keep network and images in this layout of memory.
    """
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = NETWORKS[name]().to(memory_format=layout)
    train = data.train.flatten(0, 1).contiguous(memory_format=layout).unflatten(0, data.train.shape[:2])
    score = 0.0
    for cohort in cohorts(work):
        mean = {key: torch.zeros_like(value) for key, value in net.state_dict().items()}
        for client in cohort:
            local = copy.deepcopy(net)
            optimizer = torch.optim.SGD(local.parameters(), lr=LEARNING_RATE[name])
            for batch in torch.randperm(work.images).split(work.batch):
                optimizer.zero_grad()
                F.cross_entropy(local(train[client, batch]), data.train_labels[client, batch]).backward()
                optimizer.step()
            for key, value in local.state_dict().items():
                mean[key] += value / len(cohort)
        net.load_state_dict(mean)
        score = accuracy(net, data)
    return score


def vmap_loop(name: str, work: Workload, data: Images) -> float:
    """Train all clients of a round at once with `torch.func.vmap`; return the final accuracy."""
    torch.manual_seed(0)
    net = NETWORKS[name]()

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, params, (x,)), y)

    gradients = vmap(grad(loss))
    score = 0.0
    for cohort in cohorts(work):
        clients = torch.tensor(cohort).unsqueeze(1)
        start = {key: value.detach() for key, value in net.named_parameters()}
        params = {key: value.expand(len(cohort), *value.shape).clone() for key, value in start.items()}
        orders = torch.stack([torch.randperm(work.images) for _ in cohort])
        for batch in orders.split(work.batch, dim=1):
            step = gradients(params, data.train[clients, batch], data.train_labels[clients, batch])
            for key, value in params.items():
                value.sub_(step[key], alpha=LEARNING_RATE[name])
        net.load_state_dict({key: value.mean(0) for key, value in params.items()})
        score = accuracy(net, data)
    return score


def lpft_config(name: str, work: Workload, folder: Path, processes: int) -> dict[str, Any]:
    """Write the images to a folder, and return the workload as a configuration of lpft."""
    per_client = work.images + work.tested // work.clients
    pixels, labels = raw_images(work, per_client)
    owners = np.repeat(np.arange(work.clients), per_client)
    np.savez(folder / "images.npz", x_train=pixels, y_train=labels, owner=owners)
    domain = {"path": "images.npz", "x_test": None, "y_test": None, "group": "owner"}
    source = {"class_path": "lpft.data.sources.Arrays", "init_args": {"root": str(folder), "domains": {"c": domain}}}
    networks = {"mlp": "lpft.models.mlp.MLP", "cnn": "lpft.models.mcmahan.McMahanCNN"}
    return {
        "name": "benchmark",
        "out": f"{folder}/run",
        "seeds": [0],
        "data": {
            "source": source, "image_size": 28, "channels": 1, "num_classes": 10, "cache_dir": f"{folder}/cache",
            "val_share": work.tested / work.clients / per_client, "test_share": 0.0,
        },
        "network": {"class_path": networks[name]},
        "federation": {
            "rounds": work.rounds, "participation": work.cohort / work.clients, "batch_size": work.batch,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": LEARNING_RATE[name]}},
        },
        "methods": {"none": {"class_path": "lpft.methods.ft.NoFineTuning"}},
        "trainer": {"accelerator": "cpu", "devices": processes},
    }  # fmt: skip
