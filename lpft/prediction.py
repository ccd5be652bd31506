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
from lpft.export import DESCRIPTION, WEIGHTS, Deployed, deployed_as
from lpft.models.base import NetFactory
from lpft.models.lora import load_personalized
from lpft.models.weights import load_model
from lpft.runtime.progress import Steps
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import DamagedFileError
from lpft.types import DataSpec


class Batch(NamedTuple):
    """Some inputs to predict.

    Args:
        heads: what the table says of each.
        inputs: those that can be used, as they are stored, ``(n, ...)``.
        good: which ones can be used, bool, one for each.
        problems: why the others cannot.
    """

    heads: list[dict[str, Any]]
    inputs: np.ndarray
    good: np.ndarray
    problems: list[str]


@dataclass(frozen=True)
class ExportedModel:
    """A model that `lpft.export` has written.

    Args:
        description: the content of its model.json.
        deployed: network and normalization.
    """

    description: dict[str, Any]
    deployed: Deployed

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> ExportedModel:
        """Read a folder.

        Raises:
            FileNotFoundError: if there is no exported model.
            ValueError: if it is damaged, its network cannot be built, or the device cannot be used.
        """
        path = folder / DESCRIPTION
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} is no exported model: it has no {DESCRIPTION}."
                " HINT: lpft export RUN --method lpft --client NAME --to FOLDER"
            )
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            state, _ = load_model(folder / WEIGHTS)
            network: NetFactory = instantiate(NetFactory, description["network"])
            net = network(DataSpec(**description["spec"])).to(state["head.weight"].dtype)
            deployed = deployed_as(description, load_personalized(net, state))
        except (KeyError, TypeError, json.JSONDecodeError, DamagedFileError) as error:
            raise ValueError(
                f"The exported model {folder} is damaged ({error!r}). HINT: export the model again."
            ) from error
        try:
            deployed = deployed.to(device)
        except (RuntimeError, AssertionError) as error:  # torch's words for a device that it lacks or does not know
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
        """Return files as they are, and all files below folders that the model may take, sorted.

        Raises:
            FileNotFoundError: if a path does not exist, or a folder holds no such files.
        """
        return found_files(paths, ENDINGS, "files of features") if self.takes_features else image_files(paths)

    def predict(self, files: Sequence[Path], batch_size: int = 64) -> DataFrame:
        """Return one row per image, or per row of a file of features.

        Columns are ``file``, of features ``row`` (from 0), ``class``, ``probability``, ``p_CLASS`` of every class, and
        ``problem``. What cannot be read has nothing but its ``problem``, which is empty for all others.

        Raises:
            ValueError: if a file of features cannot be read, or lacks some of the model's.
        """
        read = self._rows_of if self.takes_features else self._images_of
        device = self.deployed.net.head.weight.device
        found: list[dict[str, Any]] = []
        for heads, inputs, good, problems in read(files, batch_size):
            with torch.inference_mode():
                predicted = iter(self.deployed(torch.from_numpy(inputs).to(device)).softmax(1).cpu().tolist())
            reasons = iter(problems)
            for head, is_good in zip(heads, good.tolist(), strict=True):
                found.append({**head, **(self._outcome(next(predicted)) if is_good else {"problem": next(reasons)})})
        columns = ["class", "probability", *(f"p_{name}" for name in self.classes), "problem"]
        return DataFrame(found, columns=[*(["file", "row"] if self.takes_features else ["file"]), *columns])

    def _outcome(self, probabilities: list[float]) -> dict[str, Any]:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        each = {f"p_{of}": p for of, p in zip(self.classes, probabilities, strict=True)}
        return {"class": self.classes[best], "probability": probabilities[best], **each, "problem": ""}

    def _images_of(self, files: Sequence[Path], batch_size: int) -> Iterator[Batch]:
        spec, images = DataSpec(**self.description["spec"]), self.description["images"]
        pixels = PixelSettings.of(images["background"] or "white", images["bits"], images["value_range"])
        with Steps("predict", len(files), "image", counted="images") as steps:
            for start in range(0, len(files), batch_size):
                names = [str(path) for path in files[start : start + batch_size]]
                decoded = decode_files(Path(), names, spec.in_channels, spec.image_size, images["crop"], pixels)
                yield Batch([{"file": name} for name in names], decoded.images, decoded.good, decoded.bad)
                steps.advance("", len(names), len(names))

    def _rows_of(self, files: Sequence[Path], batch_size: int) -> Iterator[Batch]:
        features = self.description["features"]
        names = np.array(features["names"])
        for path in files:
            values = select_named(read_feature_file(path), features["names"])
            with Steps(f"predict {path.name}", len(values), "row", counted="rows", lines=10) as steps:
                for start in range(0, len(values), batch_size):
                    rows = stored(values[start : start + batch_size])
                    wrong = ~np.isfinite(rows) & ~(np.isnan(rows) & features["fills"])
                    problems = [
                        f"{path}, row {start + row}: no finite number for {shortened(names[of_row].tolist())}"
                        for row, of_row in enumerate(wrong)
                        if of_row.any()
                    ]
                    heads = [{"file": str(path), "row": start + row} for row in range(len(rows))]
                    good = ~wrong.any(1)
                    yield Batch(heads, rows[good], good, problems)
                    steps.advance("", len(rows), len(rows))


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return files as they are, and all image files below folders; see `found_files`."""
    return found_files(paths, EXTENSIONS, "images")


def found_files(paths: Iterable[str | Path], endings: Sequence[str], what: str) -> list[Path]:
    """Return files as they are, and those below folders that have one of some endings, sorted.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no such files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist. HINT: name {what}, or folders of them.")
            found.append(path)
            continue
        inside = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        fitting = [file for file in inside if file.name.lower().endswith(tuple(endings))]
        chosen = sorted(file for file in fitting if not file.name.startswith("."))
        if not chosen:
            raise FileNotFoundError(f"{path} holds no {what}. HINT: they end with {', '.join(endings)}.")
        found += chosen
    return found


def show(rows: DataFrame, to: Path | None) -> list[str]:
    """Print predictions as a table, or write them to a CSV file; return what could not be read, and why."""
    if to is not None:
        write_atomically(to, rows.to_csv(index=False))
        print(to)
    else:
        from rich.console import Console
        from rich.table import Column, Table

        heads = [name for name in ("file", "row") if name in rows]
        table = Table(*(Column(name, overflow="fold") for name in heads), "class", "probability", box=None)
        for row in rows.to_dict("records"):
            outcome = ("-", "-") if row["problem"] else (str(row["class"]), f"{row['probability']:.3f}")
            table.add_row(*(str(row[name]) for name in heads), *outcome)
        Console().print(table, highlight=False)
    return [str(problem) for problem in rows["problem"] if problem]
