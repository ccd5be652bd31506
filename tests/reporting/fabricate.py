"""Runs made up for tests: plausible cells without any training."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lpft.reporting.analysis import Analysis
from lpft.reporting.results import MethodResult, experiment_of, read_history
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run

METHODS: dict[str, dict[str, Any]] = {
    "none": {"class_path": "lpft.methods.ft.NoFineTuning"},
    "ft": {"class_path": "lpft.methods.ft.FT"},
    "ft_short": {"class_path": "lpft.methods.ft.FT", "init_args": {"epochs": 10}},
    "lp": {"class_path": "lpft.methods.lpft.LPFT", "init_args": {"lp_epochs": None, "lp_lr": 0.01}},
    "lpft": {"class_path": "lpft.methods.lpft.LPFT", "init_args": {"lp_epochs": 5, "lp_lr": 0.01}},
}
CLIENTS = tuple(f"{kind}_{half}" for kind in ("plain", "inverted", "blended", "rotated", "noisy") for half in "ab")
NUM_VAL = 30
WEIRD = ("Ward 3/B", "Zürich 東京", "<script>alert('x')</script>", 'a,"b"', "$\\alpha$_x")


def make_run(
    root: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = tuple(METHODS),
    clients: Sequence[str] = CLIENTS,
    eval_every: int = 3,
    rounds: int = 60,
    config: bool = True,
    edit: Callable[[ClientResult], ClientResult | None] = lambda cell: cell,
) -> Run:
    """Write a run folder; `edit` changes a cell before it is written, or returns None to leave it out."""
    run = Run(root)
    if config:
        settings = make_config(seeds, methods, clients, eval_every, rounds)
        write_atomically(run.config, yaml.safe_dump(settings, sort_keys=False))
    for seed in seeds:
        write_global(run, seed, rounds)
        for method in methods:
            for client in clients:
                cell = edit(make_cell(seed, method, client, clients, eval_every))
                if cell is not None:
                    path = run.cell(seed, method, client)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(cell.to_json())
    return run


def make_config(
    seeds: Sequence[int], methods: Sequence[str], clients: Sequence[str], eval_every: int, rounds: int
) -> dict[str, Any]:
    return {
        "name": "digits",
        "out": "runs/digits",
        "seeds": list(seeds),
        "data": {"class_path": "lpft.data.digits.Digits", "init_args": {"num_clients": len(clients), "shift": 1.0}},
        "network": {"class_path": "lpft.models.cnn.SmallCNN", "init_args": {"width": 16}},
        "federation": {
            "rounds": rounds,
            "local_epochs": 1,
            "participation": 1.0,
            "batch_size": 32,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
            "weighting": "samples",
            "init": None,
        },
        "personalization": {
            "epochs": 15,
            "batch_size": 32,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.001, "momentum": 0.9}},
            "eval_every": eval_every,
            "clip_norm": None,
            "clients_per_stack": 5,
        },
        "methods": {name: METHODS.get(name, {"class_path": f"my.methods.{name}"}) for name in methods},
        "trainer": {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "precision": "32-true"},
        "provenance": {
            "version": "0.1.0",
            "python": "3.11.2",
            "torch": "2.14.1",
            "lightning": "2.6.6",
            "git": "abc1234",
            "device": "cpu",
            "clients": list(clients),
            "content_hash": "0123456789abcdef",
        },
    }


def make_cell(seed: int, method: str, client: str, clients: Sequence[str], eval_every: int = 3) -> ClientResult:
    """Return a cell whose curves start at the global model and end at the matrix row."""
    before = global_accuracy(seed, clients)
    own = list(clients).index(client)
    rng = np.random.default_rng([seed, own, zlib.crc32(method.encode())])
    gain, loss, moved, length, probing = {
        "none": (0, 0, 0, 0, 0),
        "ft": (7, 14, 3.0, 15, 0),
        "ft_short": (6, 10, 2.2, 10, 0),
        "lp": (4, 4, 0.0, 15, 15),
        "lpft": (7, 7, 1.4, 15, 5),
    }.get(method, (5, 8, 1.0, 15, 0))
    jitter = rng.normal(size=len(clients)) if method != "none" else np.zeros(len(clients))
    target = np.clip(before - loss + 2 * jitter, 0, 100)
    target[own] = np.clip(before[own] + gain + 2 * jitter[own], 0, 100)
    distortion = moved * (1 + 0.3 * rng.random())
    right_before, right_after = (round(NUM_VAL * float(row[own]) / 100) for row in (before, target))
    epochs = []
    for epoch in range(length + 1):
        done = 1 - np.exp(-3 * epoch / length) if length else 0.0
        row = before + (target - before) * done
        phase = "lp" if 0 < epoch <= probing else "ft"
        entry: dict[str, Any] = {
            "epoch": epoch,
            "phase": "global" if epoch == 0 else phase,
            "lr_head": None if epoch == 0 else (0.01 if phase == "lp" else 0.001),
            "lr_body": None if epoch == 0 else (0.0 if phase == "lp" else 0.001),
            "train_loss": None if epoch == 0 else train_loss(epoch, probing) + 0.001 * float(rng.random()),
        }
        if eval_every and (epoch % eval_every == 0 or epoch == length):
            if epoch == length:
                row = target
            entry |= {
                "local": float(row[own]),
                "global_all": float(row.mean()),
                "worst": float(np.delete(row, own).min()) if len(row) > 1 else None,
                "distortion": float(distortion * (epoch / length if length else 0.0)) if epoch > probing else 0.0,
            }
        epochs.append(entry)
    return ClientResult(
        seed=seed,
        method=method,
        client=client,
        fingerprint=f"{zlib.crc32(method.encode()):016x}",
        status="ok",
        clients=list(clients),
        accuracy=[float(value) for value in target],
        local_before=float(before[own]),
        val_before=100 * right_before / NUM_VAL,
        val_after=100 * right_after / NUM_VAL,
        distortion_own=float(distortion),
        distortion_all=float(distortion * 0.9),
        distortion_relative=float(distortion / 12),
        num_train=100 + 3 * own,
        num_val=NUM_VAL,
        num_test=36,
        train_passes=float((length - probing) * (100 + 3 * own)) + (0 if not probing else (100 + 3 * own) / 3),
        seconds=0.05 * length + 0.01,
        clients_per_stack=5,
        device="cpu",
        epochs=epochs,
        train_accuracy=98.0,
        val_gained=max(0, right_after - right_before),
        val_lost=max(0, right_before - right_after),
        num_classes=10,
        num_train_classes=10,
        depth={"conv": 0.2 * distortion / 12, "features": float(distortion / 12)} if moved else None,
    )


def two_groups(
    names: tuple[str, str], local: Sequence[float | None], everywhere: Sequence[float | None]
) -> dict[str, dict[str, Any]]:
    """Return what a cell holds of two groups, with ten test samples at home where there are any."""
    return {
        name: {"local": own, "all": every, "num_local": 0 if own is None else 10, "num_all": 10 if g else 20}
        for g, (name, own, every) in enumerate(zip(names, local, everywhere, strict=True))
    }


def train_loss(epoch: int, probing: int) -> float:
    """Return a loss that falls while the head is trained until nothing is left to gain, and then on."""
    head = 0.3 + 0.3 * float(np.exp(-1.5 * epoch))
    return head if epoch <= probing else 0.3 * float(np.exp(-(epoch - probing) / 6))


def global_accuracy(seed: int, clients: Sequence[str]) -> np.ndarray:
    """Return theta_G's accuracy on every client's test set."""
    spread = np.random.default_rng(7).uniform(70, 92, size=len(clients))
    return spread + np.random.default_rng([seed, 99]).normal(scale=0.8, size=len(clients))


def write_global(run: Run, seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    lines = ["round,train_loss,val_accuracy,num_clients,seconds"]
    for number in range(1, rounds + 1):
        accuracy = 84 - 60 * np.exp(-number / 7) + 0.05 * rng.normal()
        lines.append(f"{number},{float(2.2 * np.exp(-number / 12))!r},{float(accuracy)!r},10,0.3")
    write_atomically(run.global_file(seed, "history.csv"), "\n".join(lines) + "\n")
    write_atomically(run.global_model(seed), b"not read by reports")


def make_point(
    accuracies: Mapping[str, Sequence[tuple[float, float]]],
    *,
    before: Sequence[float] = (),
    curves: Mapping[str, Sequence[tuple[int, float, float, float]]] | None = None,
    curves_by_seed: Mapping[str, Sequence[Sequence[tuple[int, float, float, float]]]] | None = None,
    losses: Mapping[str, float] | None = None,
    distortions: Mapping[str, float] | None = None,
    methods: Mapping[str, Any] | None = None,
    variants: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    num_classes: int = 10,
    folder: Path = Path("nowhere"),
    depths: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
) -> Analysis:
    """Return two clients that are alike, so that all means can be worked out by hand.

    Local is the first number of a pair and the accuracy on the other client's test set the second; hence Global and
    Average are both their mean.

    Args:
        accuracies: for each method, one pair per seed.
        before: the global model's accuracy for each seed; 50 by default.
        curves: for a method, epoch, local, global and distortion; epoch 0 is the global model.
        curves_by_seed: the same, if seeds differ.
        losses: training loss of a method's last epoch.
        distortions: at the end.
        methods: the section of the configuration.
        variants: as config.yaml has them.
        values: of the point.
        num_classes: of the task.
        folder: of the run, for histories.
        depths: for a method, distortion by layer for each seed.
    """
    clients = ("a", "b")
    results = []
    for method, pairs in accuracies.items():
        of_seeds = (curves_by_seed or {}).get(method) or [(curves or {}).get(method, ())] * len(pairs)
        for seed, (local, other) in enumerate(pairs):
            cells = []
            for client in clients:
                entries = [
                    {"epoch": e, "phase": "ft", "train_loss": None, "local": x, "global_all": y, "distortion": d}
                    for e, x, y, d in of_seeds[seed]
                ] or [{"epoch": 15, "phase": "ft"}]
                entries[-1]["train_loss"] = (losses or {}).get(method)
                cells.append(
                    replace(
                        make_cell(seed, method, client, clients),
                        accuracy=[local, other] if client == "a" else [other, local],
                        local_before=before[seed] if before else 50.0,
                        distortion_own=(distortions or {}).get(method, 0.0),
                        epochs=entries,
                        num_classes=num_classes,
                        depth=dict(depths[method][seed]) if depths and method in depths else None,
                    )
                )
            results.append(MethodResult(seed, method, list(clients), cells, [], []))
    settings = {name: METHODS.get(name, {}) for name in accuracies} | dict(methods or {})
    provenance = {"variants": dict(variants or {}), "point": dict(values or {})}
    config = {"methods": settings, "personalization": {"epochs": 15}, "provenance": provenance}
    run = Run(folder)
    histories = {result.seed: read_history(run.global_file(result.seed, "history.csv")) for result in results}
    return Analysis(run, experiment_of(config, results), results, histories)
