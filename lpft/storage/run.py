"""Paths of all files of a run; no other module builds them.

It imports neither torch nor lightning, so that `lpft status` and `lpft --help` answer immediately.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from lpft.storage.atomic import replacing, write_atomically
from lpft.storage.client_result import ClientResult, DamagedFileError

CLIENTS = "clients"
"""Key of the clients' positions among all participants in ``clients.safetensors``, see `Run.client_models`."""

FLOWER = "flower.json"
"""Name of the file next to a global model that describes the Flower run that trained it."""

MOST_BYTES = 200
"""Maximum length of the name of a client, method or sweep point: file systems allow 255 bytes, and lpft adds some."""


@dataclass(frozen=True)
class Failure:
    """The failure of the training of a global model or of a stack of clients.

    Args:
        path: file with the traceback.
        seed: seed of the run.
        part: ``global`` or a method.
        clients: names of the clients; empty for a global model.
        error: the last line of the traceback.
    """

    path: Path
    seed: int
    part: str
    clients: list[str]
    error: str

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.part}" + (f", clients {listed(self.clients)}" if self.clients else "")


class Run:
    """The folder of one experiment; it need not exist yet.

    Args:
        root: path of the folder.
    """

    def __init__(self, root: str | Path) -> None:
        if not isinstance(root, str | Path):
            raise TypeError(f"`{root!r}` is not a folder. HINT: give the path of a run, such as 'runs/digits'.")
        self.root = Path(root)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    def data_file(self, name: str) -> Path:
        """Return a file that describes the dataset: clients.csv, contact_sheet.png or features.csv."""
        return self.root / "data" / name

    def point(self, name: str) -> Run:
        """Return the run of one point of a sweep."""
        return Run(self.root / "points" / name)

    def points(self) -> list[Run]:
        """Return the points of a sweep that are on disk, in alphabetical order; none if the run is not a sweep."""
        return [Run(path.parent) for path in sorted(self.root.glob("points/*/config.yaml"))]

    @property
    def tuning(self) -> Run:
        """The run whose methods are the trials of tuning."""
        return Run(self.root / "tuning")

    def reference(self, method: str) -> Run:
        """Return the run of a reference whose model is trained like a global model, such as on pooled data."""
        return Run(self.root / "references" / method)

    def references(self) -> list[Run]:
        """Return the runs of all such references that are on disk."""
        return [Run(path) for path in sorted(self.root.glob("references/*"))]

    def copy_result(self, other: Run, seed: int, method: str, client: str) -> None:
        """Copy one client's result, and its model if saved, from another run."""
        for path_in in (Run.model, Run.cell):  # the cell last: its presence means done
            source = path_in(other, seed, method, client)
            if source.exists() or path_in is Run.cell:
                with replacing(path_in(self, seed, method, client)) as temporary:
                    shutil.copyfile(source, temporary)

    def copy_global_model(self, other: Run, seed: int) -> None:
        """Copy the global model of a seed, and the other files of its training, from another run."""
        files = ("history.csv", FLOWER, "clients.safetensors", "model.safetensors")  # the last one means done
        for name in files:
            source = other.global_file(seed, name)
            if source.exists() or source == other.global_model(seed):
                with replacing(self.global_file(seed, name)) as temporary:
                    shutil.copyfile(source, temporary)

    def global_file(self, seed: int, name: str) -> Path:
        """Return a file of the global model: checkpoint.pt, history.csv, {clients,model}.safetensors, settings.json."""
        return self.method_file(seed, "global", name)

    def global_model(self, seed: int) -> Path:
        """Return the global model's file; it exists once federated training is done."""
        return self.global_file(seed, "model.safetensors")

    def flower(self) -> dict[str, Any]:
        """Return the description of the Flower run that trained the global model, by seed."""
        paths = {seed: self.global_file(seed, FLOWER) for seed in self.seeds()}
        return {
            str(seed): json.loads(path.read_text(encoding="utf-8")) for seed, path in paths.items() if path.exists()
        }

    @property
    def nodes(self) -> Path:
        """The table with the results of personalized models on Flower's nodes, which do not share these models."""
        return self.root / "nodes.csv"

    def client_models(self, seed: int) -> Path:
        """Return the file of the parameters that clients do not share, for algorithms that personalize in training."""
        return self.global_file(seed, "clients.safetensors")

    def method_file(self, seed: int, method: str, name: str) -> Path:
        """Return a file of one method: accuracy.csv, clients.csv, curves.csv, depth.csv, settings.json."""
        return self.root / f"seed_{seed}" / method / name

    def cell(self, seed: int, method: str, client: str) -> Path:
        """Return the cell, the file of one client's result."""
        return self.root.joinpath(*cell_parts(seed, method, client))

    def model(self, seed: int, method: str, client: str) -> Path:
        """Return the file of one client's personalized model."""
        return self.method_file(seed, method, "models") / f"{file_name(client)}.safetensors"

    def saved_model(self, seed: int, method: str, client: str) -> Path:
        """Return the existing file of a client's model, or of the global model if the method is ``global``.

        Raises:
            FileNotFoundError: if the file does not exist; the message names seeds, methods or clients with models.
        """
        method, client = str(method), str(client)  # a name may be given as a number
        path = self.global_model(seed) if method == "global" else self.model(seed, method, client)
        if not path.exists():
            raise FileNotFoundError(f"The model {path} does not exist. HINT: {self._hint_on_models(seed, method)}.")
        return path

    def _hint_on_models(self, seed: int, method: str) -> str:
        """Return a hint for the case that a model does not exist."""
        if points := self.points():
            return f"this is a sweep; give the folder of one of its {len(points)} runs, such as {points[0].root}"
        models = [path.relative_to(self.root).parts for path in self.root.glob("seed_*/*/models/*.safetensors")]
        of_seed = [(part, name) for folder, part, _, name in models if folder == f"seed_{seed}"]
        if clients := sorted(unquote(name.removesuffix(".safetensors")) for part, name in of_seed if part == method):
            return f"the clients with models are {listed(clients, 20)}"
        if method in self.methods(seed):
            return "models are saved with `personalization.save_models`"
        if of_seed and method != "global":
            return f"the methods with models are {', '.join(sorted({part for part, _ in of_seed}))}"
        if seeds := [
            other for other in self.seeds() if other != seed and (models or self.global_model(other).exists())
        ]:
            return f"there are other seeds, {', '.join(map(str, seeds))}"
        return "`lpft run -c FILE` trains what is missing; RUN is the folder named by `out` in FILE"

    def settings(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield seed, part (``global`` or a method) and settings of all parts that were begun; skip damaged files."""
        for path in sorted(self.root.glob("seed_*/*/settings.json")):
            seed, part = int(path.parent.parent.name.removeprefix("seed_")), path.parent.name
            if (settings := self.settings_of(seed, part)) is not None:
                yield seed, part, settings

    def settings_of(self, seed: int, part: str) -> dict[str, Any] | None:
        """Return the settings of a part (``global`` or a method); None if it was not begun, or the file is damaged."""
        path = self.method_file(seed, part, "settings.json")
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # if damaged, fingerprints still identify cells of other settings
            return None
        return settings if isinstance(settings, dict) else None

    def write_settings(self, seed: int, part: str, settings: Mapping[str, Any]) -> None:
        """Write the settings of a part (``global`` or a method) unless they are unchanged."""
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        path = self.method_file(seed, part, "settings.json")
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text)

    @property
    def logs(self) -> Path:
        """Folder of tracebacks and of the output of jobs."""
        return self.root / "logs"

    @property
    def working(self) -> Path:
        """Folder of heartbeats, `lpft.runtime.heartbeat`."""
        return self.logs / "working"

    def failure(self, seed: int, part: str, number: int = 0) -> Path:
        """Return the file of a failure.

        Args:
            seed: the seed.
            part: ``global`` or a method.
            number: position of the first client of the stack that failed.
        """
        return self.logs / f"failed_seed_{seed}_{part}_{number}.txt"

    def write_failure(self, path: Path, seed: int, part: str, clients: Iterable[str], text: str) -> None:
        """Write the file of a failure; the caller removes it after a success.

        Args:
            path: see `failure`.
            seed: the seed.
            part: ``global`` or a method.
            clients: names of the clients of the stack; empty for a global model.
            text: the traceback.
        """
        header = json.dumps({"seed": seed, "part": part, "clients": list(clients)})
        write_atomically(path, f"{header}\n{text.rstrip()}\n")

    def failures(self) -> Iterator[Failure]:
        """Yield all failures that have not succeeded since."""
        for path in sorted(self.logs.glob("failed_*.txt")):
            with contextlib.suppress(OSError, ValueError, TypeError):  # removed meanwhile, or not written by lpft
                header, *lines = path.read_text(encoding="utf-8").splitlines()
                yield Failure(path, **json.loads(header), error=lines[-1])

    def seeds(self) -> list[int]:
        """Return the seeds with results, sorted."""
        parts = ((path.parent.name.removeprefix("seed_"), path.name) for path in self.root.glob("seed_*/*"))
        return sorted({int(seed) for seed, part in parts if seed.isdigit() and self.has_results(int(seed), part)})

    def has_results(self, seed: int, part: str) -> bool:
        """Return whether a part (``global`` or a method) has results, finished or not, and not only settings."""
        if part == "global":
            return any(self.global_file(seed, name).exists() for name in ("model.safetensors", "checkpoint.pt"))
        return next(self.method_file(seed, part, "cells").glob("*.json"), None) is not None

    def methods(self, seed: int) -> list[str]:
        """Return the methods with at least one cell for this seed, in alphabetical order."""
        names = (folder.parent.name for folder in self.root.glob(f"seed_{seed}/*/cells"))
        return sorted(name for name in names if self.has_results(seed, name))

    def remove_leftovers(self, older_than: float = 24 * 3600) -> None:
        """Remove temporary files of killed processes.

        Args:
            older_than: minimum time since the last modification, in seconds.
        """
        for path in self.root.glob("**/.*.tmp"):
            with contextlib.suppress(OSError):  # another process removes it, or the folder is read-only
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()

    def client_results(self, seed: int, method: str) -> Iterator[tuple[Path, ClientResult | DamagedFileError]]:
        """Yield path and client result of every cell of a method; for a damaged file, the error."""
        for path in sorted(self.method_file(seed, method, "cells").glob("*.json")):
            try:
                yield path, read_client_result(path)
            except DamagedFileError as error:
                yield path, error


def read_client_result(path: Path, parse: Callable[[str], ClientResult] = ClientResult.from_json) -> ClientResult:
    """Read the client result in a cell.

    Args:
        path: path of the cell in the folder of its run.
        parse: parses the text of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        DamagedFileError: if it is truncated, edited or at the path of another cell, since fingerprints do not cover
            seed and client.
    """
    try:
        result = parse(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise DamagedFileError("it is not text") from error
    if cell_parts(result.seed, result.method, result.client) != path.parts[-4:]:
        raise DamagedFileError(f"it is the cell of seed {result.seed}, method {result.method}, client {result.client}")
    return result


def cell_parts(seed: int, method: str, client: str) -> tuple[str, ...]:
    """Return the path of a cell relative to the folder of the run, as its parts."""
    return f"seed_{seed}", method, "cells", f"{file_name(client)}.json"


def file_name(client: str) -> str:
    """Turn a client's name into a file name: normalize to NFC, percent-encode all but letters, digits and ``-_~.``.

    >>> file_name("Ward 3/B")
    'Ward%203%2FB'
    """
    quoted = quote(unicodedata.normalize("NFC", client), safe="")
    return quoted.replace(".", "%2E", 1) if quoted.startswith(".") else quoted


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names with commas; of more than `most` names, list the first ones and the number of others."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def check_client_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not valid as a file name, or two names share a file if case is ignored."""
    name_by_key: dict[str, str] = {}
    for name in names:
        _check_text(name, "client")
        key = file_name(name).casefold()
        if not name:
            raise ValueError("A client has an empty name. HINT: give every client a name.")
        if len(key) > MOST_BYTES:
            raise ValueError(f"The client name {name[:60]!r}... is too long for a file name. HINT: shorten it.")
        if name == name_by_key.get(key):
            raise ValueError(f"Two clients have the name {name!r}. HINT: rename one of their files or domains.")
        if key in name_by_key:
            raise ValueError(
                f"The client names {name_by_key[key]!r} and {name!r} would share a file on file systems that ignore"
                " case. HINT: rename one of them."
            )
        name_by_key[key] = name


def check_method_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not valid as a folder name, or two names share a folder if case is ignored."""
    name_by_key: dict[str, str] = {}
    for name in names:
        _check_text(name, "method")
        key = name.casefold()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*", name) or key in ("global", "advised"):
            raise ValueError(
                f"`methods.{name}` is not a name for a method."
                " HINT: use letters, digits and `_ - + = .`, but not `global` or `advised`."
            )
        if len(name) > MOST_BYTES:
            raise ValueError(f"The method name {name[:60]!r}... is too long for a folder. HINT: shorten it.")
        if name_by_key.setdefault(key, name) != name:
            raise ValueError(
                f"The methods {name_by_key[key]!r} and {name!r} would share a folder on file systems that ignore case."
                " HINT: rename one of them."
            )


def _check_text(name: object, noun: str) -> None:
    """Raise ValueError if YAML parsed a name as another type, such as a number, or ``no`` as False."""
    if not isinstance(name, str):
        raise ValueError(f"The {noun} name {name} is not text. HINT: put it in quotes.")
