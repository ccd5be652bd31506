"""Predict the classes of image files, or of the rows of feature files, with an exported model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pandas import DataFrame

from lpft.config.schema import instantiate
from lpft.data.messages import shortened
from lpft.data.sources.feature_files import ENDINGS, read_feature_file, select_named
from lpft.data.sources.features import stored
from lpft.data.sources.image_files import EXTENSIONS, decode_files
from lpft.data.sources.pixels import PixelSettings
from lpft.export import DESCRIPTION, WEIGHTS, Deployed, deployed_from
from lpft.models.base import NetFactory
from lpft.models.lora import load_personalized
from lpft.models.weights import load_model
from lpft.runtime.progress import Steps
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import DamagedFileError
from lpft.types import DataSpec


class Batch(NamedTuple):
    """A batch of inputs.

    Args:
        labels: the columns of the table that identify each input: ``file`` and, for features, ``row``.
        inputs: the valid inputs, in the format of stored images or features, ``(n, ...)``.
        valid: which inputs are valid, bool, one per input.
        problems: for each of the other inputs, why it is invalid.
    """

    labels: list[dict[str, Any]]
    inputs: np.ndarray
    valid: np.ndarray
    problems: list[str]


@dataclass(frozen=True)
class ExportedModel:
    """A model written by `lpft.export`.

    Args:
        description: content of its model.json.
        deployed: the network with its normalization.
    """

    description: dict[str, Any]
    deployed: Deployed

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> ExportedModel:
        """Load an exported model.

        Raises:
            FileNotFoundError: if the folder contains no exported model.
            ValueError: if the model is damaged, its network cannot be built, or the device cannot be used.
        """
        path = folder / DESCRIPTION
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} is not an exported model: it has no {DESCRIPTION}."
                " HINT: lpft export RUN --method lpft --client NAME --to FOLDER"
            )
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            state, _ = load_model(folder / WEIGHTS)
            network: NetFactory = instantiate(NetFactory, description["network"])
            net = network(DataSpec(**description["spec"])).to(state["head.weight"].dtype)
            deployed = deployed_from(description, load_personalized(net, state))
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, DamagedFileError) as error:
            raise ValueError(
                f"The exported model {folder} is damaged ({error!r}). HINT: export the model again."
            ) from error
        try:
            deployed = deployed.to(device)
        except (RuntimeError, AssertionError) as error:  # torch raises these for missing and unknown devices
            raise ValueError(f"The device {str(device)!r} cannot be used: {error}") from error
        return cls(description, deployed.eval())

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return list(self.description["classes"])

    @property
    def takes_features(self) -> bool:
        """Whether the model takes rows of features instead of images."""
        return "features" in self.description

    def files(self, paths: Iterable[str | Path]) -> list[Path]:
        """Expand folders to all files in them that the model can read, sorted; keep files.

        Raises:
            FileNotFoundError: if a path does not exist, or a folder contains no such files.
        """
        return expand_folders(paths, ENDINGS, "files of features") if self.takes_features else image_files(paths)

    def predict(self, files: Sequence[Path], batch_size: int = 64) -> DataFrame:
        """Predict the class of every image, or of every row of the files of features.

        Returns:
            One row per input, with the columns ``file``, for features ``row`` (from 0), ``class``, ``probability``,
            ``p_CLASS`` for every class, and ``problem``. For inputs that cannot be read, ``problem`` is the reason and
            the predictions are missing; for all others it is empty.

        Raises:
            ValueError: if a file of features cannot be read, or lacks features of the model.
        """
        batches = self._feature_batches if self.takes_features else self._image_batches
        device = self.deployed.net.head.weight.device
        rows: list[dict[str, Any]] = []
        for labels, inputs, valid, problems in batches(files, batch_size):
            with torch.inference_mode():
                probabilities = iter(self.deployed(torch.from_numpy(inputs).to(device)).softmax(1).cpu().tolist())
            reasons = iter(problems)
            for label, is_valid in zip(labels, valid.tolist(), strict=True):
                prediction = self._prediction(next(probabilities)) if is_valid else {"problem": next(reasons)}
                rows.append({**label, **prediction})
        columns = ["class", "probability", *(f"p_{name}" for name in self.classes), "problem"]
        return DataFrame(rows, columns=[*(["file", "row"] if self.takes_features else ["file"]), *columns])

    def _prediction(self, probabilities: list[float]) -> dict[str, Any]:
        """Return the columns of an input that could be read."""
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        by_class = {f"p_{name}": p for name, p in zip(self.classes, probabilities, strict=True)}
        return {"class": self.classes[best], "probability": probabilities[best], **by_class, "problem": ""}

    def _image_batches(self, files: Sequence[Path], batch_size: int) -> Iterator[Batch]:
        spec, images = DataSpec(**self.description["spec"]), self.description["images"]
        pixels = PixelSettings.of(images["background"] or "white", images["bits"], images["value_range"])
        with Steps("predict", len(files), "image", counted="images") as steps:
            for start in range(0, len(files), batch_size):
                names = [str(path) for path in files[start : start + batch_size]]
                decoded = decode_files(Path(), names, spec.in_channels, spec.image_size, images["crop"], pixels)
                yield Batch([{"file": name} for name in names], decoded.images, decoded.good, decoded.bad)
                steps.advance("", len(names), len(names))

    def _feature_batches(self, files: Sequence[Path], batch_size: int) -> Iterator[Batch]:
        features = self.description["features"]
        names = np.array(features["names"])
        for path in files:
            values = select_named(read_feature_file(path), features["names"])
            with Steps(f"predict {path.name}", len(values), "row", counted="rows", lines=10) as steps:
                for start in range(0, len(values), batch_size):
                    rows = stored(values[start : start + batch_size])
                    invalid = ~np.isfinite(rows) & ~(np.isnan(rows) & features["fills"])
                    problems = [
                        f"{path}, row {start + row}: no finite number for {shortened(names[columns].tolist())}"
                        for row, columns in enumerate(invalid)
                        if columns.any()
                    ]
                    labels = [{"file": str(path), "row": start + row} for row in range(len(rows))]
                    valid = ~invalid.any(1)
                    yield Batch(labels, rows[valid], valid, problems)
                    steps.advance("", len(rows), len(rows))


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Expand folders to all image files in them, sorted; see `expand_folders`."""
    return expand_folders(paths, EXTENSIONS, "images")


def expand_folders(paths: Iterable[str | Path], suffixes: Sequence[str], noun: str) -> list[Path]:
    """Expand folders to all files in them with one of some suffixes, sorted; keep files.

    Args:
        paths: files and folders.
        suffixes: lower-case suffixes, such as ``.png``.
        noun: noun for such files in error messages.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder contains no such files.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist. HINT: name {noun}, or folders of them.")
            files.append(path)
            continue
        candidates = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        matching = [file for file in candidates if file.name.lower().endswith(tuple(suffixes))]
        visible = sorted(file for file in matching if not file.name.startswith("."))
        if not visible:
            raise FileNotFoundError(f"{path} contains no {noun}. HINT: they end with {', '.join(suffixes)}.")
        files += visible
    return files


def write_predictions(predictions: DataFrame, to: Path | None) -> list[str]:
    """Write predictions to a CSV file, or print them as a table; return the problems of inputs that were not read."""
    if to is not None:
        write_atomically(to, predictions.to_csv(index=False))
        print(to)
    else:
        from rich.console import Console
        from rich.table import Column, Table

        identifiers = [name for name in ("file", "row") if name in predictions]
        table = Table(*(Column(name, overflow="fold") for name in identifiers), "class", "probability", box=None)
        for row in predictions.to_dict("records"):
            result = ("-", "-") if row["problem"] else (str(row["class"]), f"{row['probability']:.3f}")
            table.add_row(*(str(row[name]) for name in identifiers), *result)
        Console().print(table, highlight=False)
    return [str(problem) for problem in predictions["problem"] if problem]
