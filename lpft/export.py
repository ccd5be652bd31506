"""Export a client's model with everything that prediction needs, so that neither experiment nor data are required."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpft.config.schema import damaged, load_network
from lpft.models.base import BodyHeadNet
from lpft.models.weights import save_model
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import DamagedFileError
from lpft.storage.config_file import read_config
from lpft.storage.run import Run, listed, read_client_result
from lpft.types import DataSpec

log = logging.getLogger("lpft")

DESCRIPTION, WEIGHTS, PROGRAM, ONNX = "model.json", "model.safetensors", "model.pt2", "model.onnx"
FIGURES = ("status", "local_before", "val_before", "val_after", "num_train", "num_val", "num_test")
"""Fields of the client result in model.json, in addition to accuracies."""


class Deployed(nn.Module):
    """A network with its normalization, which maps stored images to logits.

    Args:
        net: the network, in evaluation mode.
        mean: mean of every channel, on the scale from 0 to 1, or of every feature.
        std: standard deviation of every channel or feature.
    """

    mean: Tensor
    std: Tensor
    shape: tuple[int, ...] = (-1, 1, 1)

    def __init__(self, net: BodyHeadNet, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=net.head.weight.dtype).view(self.shape))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(n, num_classes)`` of uint8 images ``(n, channels, size, size)``."""
        logits: Tensor = self.net((images.to(self.mean.dtype) / 255 - self.mean) / self.std)
        return logits


class DeployedOnFeatures(Deployed):
    """The same for feature arrays. If `fills`, missing values (NaN) are replaced with the mean."""

    shape = (-1,)
    fills: bool = False

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits ``(n, num_classes)`` of float32 rows ``(n, num_features)``."""
        standardized = (rows.to(self.mean.dtype) - self.mean) / self.std
        if self.fills:
            standardized = standardized.masked_fill(standardized.isnan(), 0)
        logits: Tensor = self.net(standardized)
        return logits


def deployed_from(description: dict[str, Any], net: BodyHeadNet) -> Deployed:
    """Combine a network with the normalization in its model.json."""
    if features := description.get("features"):
        deployed = DeployedOnFeatures(net, features["mean"], features["std"])
        deployed.fills = features["fills"]
        return deployed
    return Deployed(net, description["images"]["mean"], description["images"]["std"])


def export(run: Run, method: str, client: str, to: Path, seed: int = 0) -> list[Path]:
    """Write a client's model to a folder.

    ``model.safetensors`` contains the tensors. ``model.json`` contains the network, its classes, how images are read
    and normalized, the origin of the model, and its accuracies. ``model.pt2`` (`torch.export`) and ``model.onnx`` run
    without lpft: they take uint8 images ``(n, channels, size, size)`` or float32 rows of features
    ``(n, num_features)``, and return logits. A program is skipped with a log message if the network does not support
    it; ONNX needs the packages of the extra ``onnx``.

    Args:
        run: the run.
        method: name of the method; ``global`` for the global model.
        client: name of the client.
        to: the folder.
        seed: the seed.

    Returns:
        The files.

    Raises:
        FileNotFoundError: if the model or the client does not exist.
        ValueError: if a file is damaged, or if a version that did not record what prediction needs wrote the run's
            config.yaml.
    """
    path = run.saved_model(seed, method, client)
    config = read_config(run)
    clients = (config.get("provenance") or {}).get("clients") or [client]
    if method == "global" and client not in clients:  # the path of a personalized model contains the client
        raise FileNotFoundError(f"`{run.root}` has no client `{client}`. HINT: its clients are {listed(clients, 20)}.")
    net = load_network(run, path)
    description = describe(config, method, client, seed, _figures(run, method, client, seed))
    to.mkdir(parents=True, exist_ok=True)
    (to / DESCRIPTION).unlink(missing_ok=True)  # of an earlier export, whose other files are replaced
    save_model(to / WEIGHTS, net.state_dict(), description["settings"] or "")
    deployed = deployed_from(description, net).eval()
    paths = [to / WEIGHTS, *_write_programs(deployed, DataSpec(**description["spec"]), to)]
    write_atomically(to / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False) + "\n")  # last: means done
    return [to / DESCRIPTION, *paths]


def describe(config: dict[str, Any], method: str, client: str, seed: int, figures: dict[str, Any]) -> dict[str, Any]:
    """Return the content of model.json.

    Args:
        config: the run's configuration.
        method: name of the method.
        client: name of the client.
        seed: the seed.
        figures: figures of the client result.

    Raises:
        ValueError: if the configuration lacks what prediction needs.
    """
    provenance = config.get("provenance") or {}
    if not provenance.get("mean"):
        raise ValueError(
            "The run's config.yaml does not contain the normalization. HINT: run its last command again, which"
            " adds it without training."
        )
    network = dict(config["network"])
    if "weights" in network.get("init_args", {}):  # the tensors are in the model
        network["init_args"] = {**network["init_args"], "weights": None}
    data = config["data"]
    normalization = {key: provenance[key] for key in ("mean", "std")}
    inputs = {
        "images": {
            **normalization,
            "crop": provenance["crop"],
            **{key: data.get(key) for key in ("background", "bits", "value_range")},
        }
    }
    if provenance.get("features"):
        inputs = {"features": {**normalization, **provenance["features"]}}
    return {
        "client": client,
        "method": method,
        "seed": seed,
        "classes": provenance["classes"] or [str(label) for label in range(provenance["spec"]["num_classes"])],
        "spec": provenance["spec"],
        "network": network,
        **inputs,
        "figures": figures,
        "run": config.get("name"),
        "settings": provenance["settings"],
        **{key: provenance.get(key) for key in ("version", "torch", "git", "content_hash")},
    }


def _figures(run: Run, method: str, client: str, seed: int) -> dict[str, Any]:
    """Return the figures of the client result; empty for a global model, which has none."""
    if method == "global":
        return {}
    cell = run.cell(seed, method, client)
    try:
        result = read_client_result(cell)
    except DamagedFileError as error:
        raise ValueError(damaged(cell, error)) from error
    return {
        **{name: getattr(result, name) for name in FIGURES},
        "accuracy": dict(zip(result.clients, result.accuracy, strict=True)),
    }


def _write_programs(deployed: Deployed, spec: DataSpec, to: Path) -> list[Path]:
    """Write the programs that the network supports, and log why others are skipped; return the files."""
    example = torch.zeros(2, *spec.shape, dtype=torch.uint8 if spec.num_features is None else torch.float32)
    paths = []
    for name, make in ((PROGRAM, _program), (ONNX, _onnx)):
        (to / name).unlink(missing_ok=True)
        if name == ONNX and not all(find_spec(package) for package in ("onnx", "onnxscript")):
            log.info("%s is skipped. HINT: pip install 'lpft[onnx]'", name)
            continue
        try:
            content = make(deployed, example)
        except Exception as error:  # depends on the network
            log.warning("%s is skipped: %s: %s", name, type(error).__name__, str(error).splitlines()[0])
            continue
        write_atomically(to / name, content)
        paths.append(to / name)
    return paths


def _program(deployed: Deployed, example: Tensor) -> bytes:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(deployed, (example,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()  # on a full disk, writing to a file would abort the process
    torch.export.save(program, content)
    return content.getvalue()


def _onnx(deployed: Deployed, example: Tensor) -> bytes:
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        deployed,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["images" if example.dtype == torch.uint8 else "features"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content
