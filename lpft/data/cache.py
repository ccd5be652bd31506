"""The array cache: images decoded once into memory-mapped files, which all processes share.

An entry is a folder, named by the dataset's class and a hash of its settings, with three files: ``images.npy``,
``labels.npy`` and ``meta.json`` (who has which rows, sizes, hashes). It is built under a temporary name beside its
place and then renamed: an entry that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from lpft.runs import check_client_names, fingerprint
from lpft.types import DataSpec

FORMAT = 1
"""Part of every entry's name; another layout of the files needs another number."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

log = logging.getLogger("lpft")


class Parts(NamedTuple):
    """Positions of one client's samples in the arrays, int64, shape ``(num_samples,)`` each."""

    train: Tensor
    val: Tensor
    test: Tensor


@dataclass(frozen=True)
class Arrays:
    """An opened entry.

    Args:
        images: uint8, ``(num_samples, channels, size, size)``, memory-mapped and read-only: writing to it ends the
            process.
        labels: int64, ``(num_samples,)``, memory-mapped likewise.
        clients: every client's samples, by name, in the order in which the clients were added.
        content_hash: sha256 over images, labels, names and splits.
    """

    images: Tensor
    labels: Tensor
    clients: dict[str, Parts]
    content_hash: str


class DamagedEntryError(Exception):
    """An entry of the cache is not what was written."""


class ArrayWriter:
    """Streams samples into the files of an entry, part by part; holds no more than one part at a time.

    Args:
        folder: an existing folder.
        spec: channels, size and number of classes that all samples must have.
    """

    def __init__(self, folder: Path, spec: DataSpec) -> None:
        self.folder, self.spec = folder, spec
        self._images = _Rows(folder / "images.npy", np.dtype(np.uint8), _image_shape(spec))
        self._labels = _Rows(folder / "labels.npy", np.dtype(np.int64), ())
        self._ranges: dict[str, dict[Split, list[list[int]]]] = {}

    def add(self, client: str, split: Split, images: np.ndarray, labels: np.ndarray) -> None:
        """Append samples to one client's split; may be called any number of times, also with no samples.

        Args:
            client: the client's name; the first call with a name makes the client.
            split: which of its three parts.
            images: uint8, ``(n, channels, size, size)``.
            labels: any integer type, ``(n,)``, from 0 to ``num_classes - 1``.

        Raises:
            ValueError: if the samples do not have this form.
        """
        labels = np.asarray(labels)
        if split not in SPLITS:
            raise ValueError(f"Client {client!r}: unknown split {split!r}. HINT: use one of {', '.join(SPLITS)}.")
        check_images(f"Client {client!r}, {split}", images, self.spec)
        check_labels(f"Client {client!r}, {split}", labels, len(images), self.spec.num_classes)
        ranges = self._ranges.setdefault(client, {name: [] for name in SPLITS})[split]
        start, stop = self._images.count, self._images.count + len(images)
        self._images.append(images)
        self._labels.append(labels)
        if ranges and ranges[-1][1] == start:
            ranges[-1][1] = stop
        elif stop > start:
            ranges.append([start, stop])

    def finish(self, key: Mapping[str, Any]) -> None:
        """Complete the files and write ``meta.json``.

        Raises:
            ValueError: if there are no samples, or two clients' names clash.
        """
        check_client_names(self._ranges)
        if not self._images.count:
            raise ValueError(f"The dataset is empty: {len(self._ranges)} clients and not one image.")
        digests = {rows.path.name: rows.close() for rows in (self._images, self._labels)}
        content = {"shape": _image_shape(self.spec), "digests": digests, "clients": list(self._ranges.items())}
        meta: dict[str, Any] = {
            "key": dict(key),
            "content_hash": _hash(content),
            "sizes": {name: (self.folder / name).stat().st_size for name in digests},
            **content,
        }
        text = json.dumps({**meta, "checksum": _hash(meta)})
        with (self.folder / "meta.json").open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files; for a build that does not end well."""
        self._images.file.close()
        self._labels.file.close()


def check_images(whose: str, images: np.ndarray, spec: DataSpec) -> None:
    """Raise ValueError unless images are uint8 of shape ``(n, channels, size, size)``."""
    shape = _image_shape(spec)
    if images.dtype != np.uint8 or images.shape[1:] != shape or images.ndim != 4:
        raise ValueError(
            f"{whose}: images are {images.dtype} of shape {images.shape}, expected uint8 of shape"
            f" (n, {', '.join(map(str, shape))})."
        )


def check_labels(whose: str, labels: np.ndarray, num_images: int, num_classes: int) -> None:
    """Raise ValueError unless there is one integer label from 0 to ``num_classes - 1`` for every image."""
    if labels.shape != (num_images,) or not (np.issubdtype(labels.dtype, np.integer) or not labels.size):
        raise ValueError(
            f"{whose}: labels are {labels.dtype} of shape {labels.shape}, expected integers of shape ({num_images},)."
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"{whose}: labels go from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}"
            f" ({num_classes} classes)."
        )


def open_or_build(
    cache_dir: Path, key: Mapping[str, Any], spec: DataSpec, write: Callable[[ArrayWriter], None]
) -> Arrays:
    """Open the entry for `key`, building it first if it is not there or is damaged.

    Processes that build the same entry at once do the work twice; the first to end wins and all use its files.

    Args:
        cache_dir: folder of all entries; is made if need be.
        key: everything that the arrays depend on, JSON-serialisable; ``key["class"]`` gives the entry a readable name.
        spec: channels, size and number of classes of the samples.
        write: adds all samples to the writer it is given.

    Raises:
        ValueError: if `write` adds what does not fit, or nothing can be written below `cache_dir`.
    """
    key = {"format": FORMAT, "spec": asdict(spec), **key}
    name = str(key.get("class", "arrays")).rsplit(".", 1)[-1]
    entry = cache_dir / f"{name}-{fingerprint(key)}"
    arrays = _open_if_whole(entry)
    if arrays is None:
        _build(entry, key, spec, write)
        arrays = _open(entry)
    return arrays


def _open_if_whole(entry: Path) -> Arrays | None:
    if not entry.exists():
        return None
    try:
        return _open(entry)
    except DamagedEntryError as error:
        log.warning("The cached arrays in %s are damaged (%s) and are built again.", entry, error)
        return None


def _open(entry: Path) -> Arrays:
    """Map an entry's files; raise `DamagedEntryError` if they do not fit ``meta.json``.

    Sizes and the labels are checked; the images' bytes are not read.
    """
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("checksum") != _hash(meta):
            raise DamagedEntryError("meta.json was edited")
        for name, size in meta["sizes"].items():
            if (found := (entry / name).stat().st_size) != size:
                raise DamagedEntryError(f"{name} has {found} bytes instead of {size}")
        images, labels = _map(entry / "images.npy"), _map(entry / "labels.npy")
        if hashlib.sha256(labels.numpy().tobytes()).hexdigest() != meta["digests"]["labels.npy"]:
            raise DamagedEntryError("labels.npy was edited")
        if list(images.shape) != [len(labels), *meta["shape"]]:
            raise DamagedEntryError("images.npy was edited")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"{type(error).__name__}: {error}") from error
    clients = {client: Parts(*(_positions(ranges[split]) for split in SPLITS)) for client, ranges in meta["clients"]}
    return Arrays(images, labels, clients, meta["content_hash"])


def _build(entry: Path, key: Mapping[str, Any], spec: DataSpec, write: Callable[[ArrayWriter], None]) -> None:
    with _temporary_folder(entry) as folder:
        writer = ArrayWriter(folder, spec)
        try:
            write(writer)
            writer.finish(key)
        finally:
            writer.close()
        _publish(folder, entry)


def _publish(folder: Path, entry: Path) -> None:
    """Rename a finished folder to its place, unless another process put a whole entry there meanwhile."""
    for _ in range(10):
        try:
            folder.rename(entry)
            return
        except OSError:
            if not entry.exists():
                raise
        try:
            _open(entry)
            return
        except DamagedEntryError:
            with _temporary_folder(entry) as aside, suppress(FileNotFoundError):
                entry.rename(aside / entry.name)  # and is removed with the folder
    raise ValueError(f"The cache entry {entry} cannot be replaced. HINT: delete it.")


@contextmanager
def _temporary_folder(entry: Path) -> Iterator[Path]:
    """Give a new empty folder beside `entry`, and remove what is left of it at the end."""
    with _clear_errors(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(entry)
        folder = entry.parent / f".{entry.name}.{uuid4().hex}.tmp"
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(entry: Path, older_than: float = 24 * 3600) -> None:
    """Remove temporary folders of killed builds: those in which nothing was written for a day."""
    for folder in entry.parent.glob(f".{entry.name}.*.tmp"):
        try:
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:
            continue  # another process removes it
        if time.time() - newest > older_than:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _clear_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"The array cache {cache_dir} cannot be written: {error.strerror or error}."
            " HINT: choose another folder with `--data.init_args.cache_dir` or the environment variable LPFT_CACHE."
        ) from error


class _Rows:
    """An ``.npy`` file that grows row by row; its header is completed when it is closed."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.row_shape = path, dtype, row_shape
        self.count = 0
        self.digest = hashlib.sha256()
        with _clear_errors(path.parent.parent):
            self.file: BinaryIO = path.open("wb")
            self._rows_start = self._write_header()

    def append(self, rows: np.ndarray) -> None:
        content = np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B") if len(rows) else b""
        self.digest.update(content)
        with _clear_errors(self.path.parent.parent):
            self.file.write(content)
        self.count += len(rows)

    def close(self) -> str:
        """Complete the file; return the sha256 of its rows."""
        with _clear_errors(self.path.parent.parent):
            self.file.seek(0)
            if self._write_header() != self._rows_start:  # numpy leaves room for the first axis to grow
                raise RuntimeError(f"{self.path}: the header of the file changed its length.")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        return self.digest.hexdigest()

    def _write_header(self) -> int:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.row_shape)}
        np.lib.format.write_array_header_1_0(self.file, header)
        return self.file.tell()


def _map(path: Path) -> Tensor:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _positions(ranges: list[list[int]]) -> Tensor:
    if len(ranges) == 1:
        return torch.arange(*ranges[0])
    return torch.cat([torch.empty(0, dtype=torch.int64), *(torch.arange(start, stop) for start, stop in ranges)])


def _image_shape(spec: DataSpec) -> tuple[int, int, int]:
    return (spec.in_channels, spec.image_size, spec.image_size)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
