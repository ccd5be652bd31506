"""Loggers that keep what they get in a file, for tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class Recorder(Logger):
    """Appends every call to FOLDER/NAME/VERSION.jsonl; of a run that is continued to the file of its id.

    Args:
        folder: of the files.
        name: of the experiment.
        version: of the part.
        id: of a run to go on with.
        api_key: is kept secret.
    """

    def __init__(
        self,
        folder: str,
        name: str | None = None,
        version: str | None = None,
        id: str | None = None,
        api_key: str | None = None,
    ) -> None:
        super().__init__()
        self.folder, self._name, self._version, self.api_key = Path(folder), name, version, api_key
        if id is not None and not (self.folder / id).exists():
            raise ValueError(f"there is no run {id}, and the key is {api_key}")
        self._id = id or self._new_id()

    def _new_id(self) -> str:
        number = len(list(self.folder.glob(f"{self._name}/{self._version}*.jsonl")))
        return f"{self._name}/{self._version}{f'-{number}' if number else ''}.jsonl"

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def version(self) -> str:
        return self._id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._append("metrics", step, metrics)

    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        self._append("hyperparams", None, params)

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self._append("image", step, {key: [image.size for image in images]})

    def finalize(self, status: str) -> None:
        self._append("finalize", None, status)

    def _append(self, kind: str, step: int | None, values: Any) -> None:
        path = self.folder / self._id
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps([kind, step, values, os.getpid()]) + "\n")


class Nameless(Recorder):
    """A logger that cannot be told which part it is for."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, "all", "parts")


class Broken(Recorder):
    """A logger whose server has gone."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._append("metrics", step, metrics)
        raise ConnectionError(f"no answer to {self.api_key} from https://me:word@server.org/")


class NeedsPackage(Recorder):
    """A logger whose package is not installed."""

    def __init__(self, folder: str) -> None:
        raise ModuleNotFoundError("No module named 'tracker'", name="tracker")


def calls(path: Path, kind: str = "metrics") -> list[tuple[int | None, Any]]:
    """Return step and values of every call of a kind, in order."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(step, values) for of_kind, step, values, _ in lines if of_kind == kind]


def points(path: Path) -> list[tuple[str, int, float]]:
    """Return tag, step and value of every point, sorted; none may come twice."""
    found = [(tag, step, value) for step, values in calls(path) for tag, value in values.items()]
    assert len({(tag, step) for tag, step, _ in found}) == len(found), "a point came twice"
    return sorted(found)
