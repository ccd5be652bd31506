"""Predict the classes of image files with an exported model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame

from lpft.config.schema import instantiate
from lpft.data.sources.image_files import EXTENSIONS, decode_files
from lpft.data.sources.pixels import PixelSettings
from lpft.export import DESCRIPTION, WEIGHTS, Deployed
from lpft.models.base import NetFactory
from lpft.models.lora import load_personalized
from lpft.models.weights import load_model
from lpft.runtime.progress import Steps
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import DamagedFileError
from lpft.types import DataSpec


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
            ValueError: if it is damaged, or its network cannot be built.
        """
        path = folder / DESCRIPTION
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} is no exported model: it has no {DESCRIPTION}."
                " HINT: lpft export RUN --method lpft --client NAME --to FOLDER"
            )
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            images = description["images"]
            state, _ = load_model(folder / WEIGHTS)
            network: NetFactory = instantiate(NetFactory, description["network"])
            net = network(DataSpec(**description["spec"])).to(state["head.weight"].dtype)
        except (KeyError, TypeError, json.JSONDecodeError, DamagedFileError) as error:
            raise ValueError(
                f"The exported model {folder} is damaged ({error!r}). HINT: export the model again."
            ) from error
        deployed = Deployed(load_personalized(net, state), images["mean"], images["std"])
        return cls(description, deployed.to(device).eval())

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return list(self.description["classes"])

    def predict(self, files: Sequence[Path], batch_size: int = 64) -> DataFrame:
        """Return one row per file: ``file``, ``class``, ``probability``, ``p_CLASS`` of every class, ``problem``.

        A file that cannot be read has nothing but its ``problem``, which is empty for all others.
        """
        spec, images = DataSpec(**self.description["spec"]), self.description["images"]
        pixels = PixelSettings.of(images["background"] or "white", images["bits"], images["value_range"])
        device = self.deployed.net.head.weight.device
        rows: list[dict[str, Any]] = []
        with Steps("predict", len(files), "image", counted="images") as steps:
            for start in range(0, len(files), batch_size):
                names = [str(path) for path in files[start : start + batch_size]]
                decoded = decode_files(Path(), names, spec.in_channels, spec.image_size, images["crop"], pixels)
                with torch.inference_mode():
                    logits = self.deployed(torch.from_numpy(decoded.images).to(device))
                    probabilities = iter(logits.softmax(1).cpu().tolist())
                problems = iter(decoded.bad)
                for name, good in zip(names, decoded.good.tolist(), strict=True):
                    rows.append(
                        self._row(name, next(probabilities)) if good else {"file": name, "problem": next(problems)}
                    )
                steps.advance("", len(names), len(names))
        columns = ["file", "class", "probability", *(f"p_{name}" for name in self.classes), "problem"]
        return DataFrame(rows, columns=columns)

    def _row(self, name: str, probabilities: list[float]) -> dict[str, Any]:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        each = {f"p_{of}": p for of, p in zip(self.classes, probabilities, strict=True)}
        return {"file": name, "class": self.classes[best], "probability": probabilities[best], **each, "problem": ""}


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return files as they are, and all image files below folders, sorted.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder holds no images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist. HINT: name image files, or folders of them.")
            found.append(path)
            continue
        inside = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        images = sorted(file for file in inside if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."))
        if not images:
            raise FileNotFoundError(f"{path} holds no images. HINT: they end with {', '.join(EXTENSIONS)}.")
        found += images
    return found


def show(rows: DataFrame, to: Path | None) -> list[str]:
    """Print predictions as a table, or write them to a CSV file; return what could not be read, and why."""
    if to is not None:
        write_atomically(to, rows.to_csv(index=False))
        print(to)
    else:
        from rich.console import Console
        from rich.table import Column, Table

        table = Table(Column("file", overflow="fold"), "class", "probability", box=None)
        for row in rows.itertuples():
            table.add_row(str(row.file), *(("-", "-") if row.problem else (str(row[2]), f"{row.probability:.3f}")))
        Console().print(table, highlight=False)
    return [str(problem) for problem in rows["problem"] if problem]
