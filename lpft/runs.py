"""The files of a run: where each one is, how it is written, and what a cell holds.

This is the only module that knows file names. It imports neither torch nor lightning, so that `lpft status` and
`lpft --help` answer at once.

A *cell* is one client's result for one seed and method: the unit of truth, and of resuming.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

STATUSES = ("ok", "diverged", "no_train", "no_test")


class DamagedFileError(Exception):
    """A file of a run cannot be read or does not match its checksum: it was cut off or edited."""


@dataclass
class Cell:
    """One client's result for one seed and method.

    Accuracies are in percent. A figure that is not defined (the accuracy on a client without test samples, say) is
    None.

    Args:
        seed: seed of the run.
        method: the method's name in the configuration.
        client: name of the client.
        fingerprint: hash of all settings that the result depends on.
        status: one of `STATUSES`.
        clients: names of all clients, in the order of `accuracy`.
        accuracy: the client's row of the accuracy matrix: its model on every client's test set.
        local_before: the global model's accuracy on this client's test set.
        val_before: the global model's accuracy on this client's validation set.
        val_after: the personalized model's accuracy on this client's validation set.
        distortion_own: mean l2 distance of the features from the global model's, over the client's own test samples.
        distortion_all: the same over all clients' test samples.
        distortion_relative: `distortion_own` divided by the mean norm of the global model's features there.
        num_train: number of training samples.
        num_val: number of validation samples.
        num_test: number of test samples.
        train_passes: cost of training, in forward and backward passes of single samples.
        seconds: wall-clock time of training and evaluation, the client's share of its stack.
        clients_per_stack: how many clients were trained as one.
        device: device type it was computed on.
        epochs: one entry per epoch: ``epoch`` (0 is the global model), ``phase``, ``lr_head``, ``lr_body``,
            ``train_loss``, and where the epoch was evaluated ``local``, ``global_all``, ``worst``, ``distortion``.
        train_accuracy: the personalized model's accuracy on the client's training samples, as they are tested.
        val_gained: number of validation samples that the personalized model gets right and the global model does not.
        val_lost: number of those that the global model gets right and the personalized model does not.
        val_global: the personalized model's mean accuracy over the validation sets of all clients.
        num_classes: number of classes of the task.
        num_train_classes: number of classes among the client's training samples.
        groups: where the data have groups, by the name of each: the personalized model's accuracy on its samples in the
            client's own test set (``local``) and in all clients' (``all``), and how many these are (``num_local``,
            ``num_all``).
        depth: distortion of every layer of the body, by its name in the order in which they run, relative to the norm
            of the global model's outputs, over the client's own test samples; None where only the head was trained, and
            for a status other than ok.
    """

    seed: int
    method: str
    client: str
    fingerprint: str
    status: str
    clients: list[str]
    accuracy: list[float | None]
    local_before: float | None
    val_before: float | None
    val_after: float | None
    distortion_own: float | None
    distortion_all: float | None
    distortion_relative: float | None
    num_train: int
    num_val: int
    num_test: int
    train_passes: float
    seconds: float
    clients_per_stack: int
    device: str
    epochs: list[dict[str, Any]] = field(default_factory=list)
    train_accuracy: float | None = None
    val_gained: int | None = None
    val_lost: int | None = None
    val_global: float | None = None
    num_classes: int | None = None
    num_train_classes: int | None = None
    groups: dict[str, dict[str, Any]] | None = None
    depth: dict[str, float | None] | None = None

    def to_json(self) -> str:
        """Return the cell as JSON text, with a checksum of its content."""
        content = asdict(self)
        return json.dumps({**content, "checksum": _checksum(content)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Read a cell; raise `DamagedFileError` if the text is not what `to_json` wrote.

        Fields that have a default may be absent: the cell is from before they were recorded.
        """
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        try:
            content = json.loads(text)
            checksum = content.pop("checksum")
            known = needed <= content.keys() <= {f.name for f in fields(cls)}
            if checksum != _checksum(content) or not known:
                raise DamagedFileError("its checksum does not fit its content")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError("it is not complete") from error
        return cls(**content)


@dataclass(frozen=True)
class Failure:
    """What went wrong with a global model, or with a stack of clients.

    Args:
        path: its file, which has all that is known.
        seed: seed of the run.
        part: ``global`` or a method.
        clients: names of the clients; empty for a global model.
        error: the last line, which says what it was.
    """

    path: Path
    seed: int
    part: str
    clients: list[str]
    error: str

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.part}" + (f", clients {listed(self.clients)}" if self.clients else "")


class Run:
    """The folder of one experiment.

    Args:
        root: its path; need not exist yet.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def config(self) -> Path:
        """The resolved experiment."""
        return self.root / "config.yaml"

    def data_file(self, name: str) -> Path:
        """Return a file that tells what is in the dataset: clients.csv, contact_sheet.png."""
        return self.root / "data" / name

    def point(self, name: str) -> Run:
        """Return the run of one point of a sweep."""
        return Run(self.root / "points" / name)

    def points(self) -> list[Run]:
        """Return the points of a sweep that are on disk, in alphabetical order; none if it is no sweep."""
        return [Run(path.parent) for path in sorted(self.root.glob("points/*/config.yaml"))]

    @property
    def tuning(self) -> Run:
        """The run of the trials that tuning chooses from."""
        return Run(self.root / "tuning")

    def take_global_model(self, other: Run, seed: int) -> None:
        """Copy another run's global model of a seed into this one, with the history of its training if there is one."""
        for name in ("history.csv", "model.safetensors"):  # last what means that it is done
            source = other.global_file(seed, name)
            if source.exists() or source == other.global_model(seed):
                with replacing(self.global_file(seed, name)) as temporary:
                    shutil.copyfile(source, temporary)

    def global_file(self, seed: int, name: str) -> Path:
        """Return a file of the global model: checkpoint.pt, history.csv, model.safetensors, settings.json."""
        return self.root / f"seed_{seed}" / "global" / name

    def global_model(self, seed: int) -> Path:
        """Return theta_G's file; its presence means that federated training is done."""
        return self.global_file(seed, "model.safetensors")

    def method_file(self, seed: int, method: str, name: str) -> Path:
        """Return a file of one method: accuracy.csv, clients.csv, curves.csv, depth.csv, settings.json."""
        return self.root / f"seed_{seed}" / method / name

    def cell(self, seed: int, method: str, client: str) -> Path:
        """Return the file of one client's result."""
        return self.method_file(seed, method, "cells") / f"{file_name(client)}.json"

    def model(self, seed: int, method: str, client: str) -> Path:
        """Return the file of one client's personalized model."""
        return self.method_file(seed, method, "models") / f"{file_name(client)}.safetensors"

    def settings(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield seed, part (``global`` or a method) and settings of all that was made; a damaged file is left out."""
        for path in sorted(self.root.glob("seed_*/*/settings.json")):
            with contextlib.suppress(ValueError):  # cells of other settings are still told by their fingerprints
                settings = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(settings, dict):
                    yield int(path.parent.parent.name.removeprefix("seed_")), path.parent.name, settings

    def write_settings(self, seed: int, part: str, settings: Mapping[str, Any]) -> None:
        """Note the settings that a part is made with."""
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        path = self.method_file(seed, part, "settings.json")
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text)

    @property
    def logs(self) -> Path:
        """Folder of tracebacks, and of what jobs print."""
        return self.root / "logs"

    @property
    def working(self) -> Path:
        """Folder of what is worked on; see `lpft.presence`."""
        return self.logs / "working"

    def failure(self, seed: int, part: str, number: int = 0) -> Path:
        """Return the file for what went wrong with a method's stack that begins with this client (its position).

        For a global model the part is ``global``.
        """
        return self.logs / f"failed_seed_{seed}_{part}_{number}.txt"

    def write_failure(self, path: Path, seed: int, part: str, clients: Iterable[str], text: str) -> None:
        """Note what went wrong; remove the file when it has gone well."""
        note = json.dumps({"seed": seed, "part": part, "clients": list(clients)})
        write_atomically(path, f"{note}\n{text.rstrip()}\n")

    def failures(self) -> Iterator[Failure]:
        """Yield what went wrong and has not gone well since."""
        for path in sorted(self.logs.glob("failed_*.txt")):
            with contextlib.suppress(OSError, ValueError, TypeError):  # gone well meanwhile, or not ours
                note, *lines = path.read_text(encoding="utf-8").splitlines()
                yield Failure(path, **json.loads(note), error=lines[-1])

    def seeds(self) -> list[int]:
        """Return the seeds that have a folder, in order."""
        names = (path.name.removeprefix("seed_") for path in self.root.glob("seed_*"))
        return sorted(int(name) for name in names if name.isdigit())

    def methods(self, seed: int) -> list[str]:
        """Return the methods that have at least one cell for this seed, in alphabetical order."""
        return sorted({path.parent.parent.name for path in self.root.glob(f"seed_{seed}/*/cells/*.json")})

    def remove_leftovers(self, older_than: float = 24 * 3600) -> None:
        """Remove what killed processes had begun to write: temporary files that nobody touched for a day (seconds)."""
        for path in self.root.glob("**/.*.tmp"):
            with contextlib.suppress(OSError):  # another process removes it, or the folder is read-only
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()

    def cells(self, seed: int, method: str) -> Iterator[tuple[Path, Cell | DamagedFileError]]:
        """Yield every cell of a method on disk, or what is wrong with it."""
        for path in sorted(self.method_file(seed, method, "cells").glob("*.json")):
            try:
                yield path, read_cell(path)
            except DamagedFileError as error:
                yield path, error


def read_cell(path: Path) -> Cell:
    """Read a cell from its place in a run.

    Raises:
        FileNotFoundError: if it is not there.
        DamagedFileError: if it was cut off or edited, or belongs elsewhere: fingerprints do not tell seeds and clients.
    """
    try:
        cell = Cell.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DamagedFileError("it is not text") from error
    if Run("").cell(cell.seed, cell.method, cell.client).parts != path.parts[-4:]:
        raise DamagedFileError(f"it is the cell of seed {cell.seed}, method {cell.method}, client {cell.client}")
    return cell


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all, whatever happens meanwhile.

    The content goes to a temporary name in the same folder, which is then renamed. Of two processes that write the same
    file at once one wins.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_name(client: str) -> str:
    """Turn a client's name into a file name: NFC, all but letters, digits and ``-_~.`` percent-quoted.

    >>> file_name("Ward 3/B")
    'Ward%203%2FB'
    """
    quoted = quote(unicodedata.normalize("NFC", client), safe="")
    return quoted.replace(".", "%2E", 1) if quoted.startswith(".") else quoted


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names by commas; of a long list only the first."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def check_client_names(names: Iterable[str]) -> None:
    """Raise ValueError if two clients would share a file on some file system (names that differ in case only, say)."""
    seen: dict[str, str] = {}
    for name in names:
        _check_text(name, "client")
        key = file_name(name).casefold()
        if not name:
            raise ValueError("A client has an empty name. HINT: give every client a name.")
        if len(key) > 200:
            raise ValueError(f"The client name {name[:60]!r}... is too long for a file name. HINT: shorten it.")
        if key in seen:
            raise ValueError(
                f"The client names {seen[key]!r} and {name!r} would share a file on file systems that ignore case."
                " HINT: rename one of them."
            )
        seen[key] = name


def check_method_names(names: Iterable[str]) -> None:
    """Raise ValueError if a method's name cannot be the name of its folder."""
    for name in names:
        _check_text(name, "method")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*", name) or name in ("global", "advised"):
            raise ValueError(
                f"`methods.{name}` is not a name for a method."
                " HINT: use letters, digits and `_ - + = .`, but not `global` or `advised`."
            )


def _check_text(name: object, what: str) -> None:
    """Raise ValueError if YAML has made something else of a name, such as a number, or False of ``no``."""
    if not isinstance(name, str):
        raise ValueError(f"The name {name} of a {what} is no text. HINT: put it in quotes.")


def compare_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError if the results in a folder were made with other settings; it names what differs."""
    there, here = dict(_flat(before)), dict(_flat(now))
    keys = ", ".join(
        f"`{key}` ({_short(there, key)} there, {_short(here, key)} here)" for key in changed_keys(before, now)
    )
    if keys:
        raise ValueError(
            f"{folder} was made with other settings; different are: {keys}."
            " HINT: choose another folder with `--out`, or replace these results with `--overwrite`."
        )


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash settings (JSON-serialisable) to 16 hex digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ, sorted.

    >>> changed_keys({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    ['a.c', 'd']
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _short(settings: Mapping[str, Any], key: str) -> str:
    """Write a value as JSON in few characters."""
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "none"
    return text if len(text) <= 40 else f"{text[:30]}..."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
