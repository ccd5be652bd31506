"""The array cache: images decoded once into memory-mapped files, which all processes share.

An entry is a folder, named by the dataset's class and a hash of its settings: one row a sample in ``images.npy``,
``labels.npy``, ``groups.npy`` and ``digests.npy``, and ``meta.json`` (who has which rows, sizes, hashes). It is built
under another name beside its place and then renamed: an entry that is there is whole. A build that was interrupted is
taken up where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from lpft.storage.fingerprint import fingerprint
from lpft.storage.run import check_client_names
from lpft.types import DataSpec

FORMAT = 2
"""Part of every entry's name; another layout of the files needs another number."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT: dict[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}
"""What a split must not share an image with."""

NO_GROUP = -1
DIGEST_SIZE = 16

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
        groups: group of every sample as a position in `group_names`, -1 for none; int64, ``(num_samples,)``, likewise.
        clients: every client's samples, by name, in the order in which the clients were added.
        content_hash: sha256 over images, labels, groups, names and splits.
        group_names: names of the groups.
        left_out: how many images were left out because they are in a part that is chosen or tested on, by client and
            split.
        bad: files that could not be decoded and were left out, each with the reason.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    clients: dict[str, Parts]
    content_hash: str
    group_names: tuple[str, ...] = ()
    left_out: dict[str, dict[Split, int]] = field(default_factory=dict)
    bad: tuple[str, ...] = ()


class DamagedEntryError(Exception):
    """An entry of the cache is not what was written."""


class ArrayWriter:
    """Streams samples into the files of an entry, part by part; holds no more than one part at a time.

    An image that is, pixel for pixel, in anyone's test part is left out of all val and train parts that are added
    later, and one that is in a val part is left out of train parts: add test parts first. Every call is written down,
    so that a build of the same entry that was interrupted is taken up where it was: the first calls then do nothing.

    Args:
        folder: an existing folder; empty, or left by an interrupted build.
        spec: channels, size and number of classes that all samples must have.
        group_names: names of the groups that samples may belong to.
    """

    def __init__(self, folder: Path, spec: DataSpec, group_names: Sequence[str] = ()) -> None:
        self.folder, self.spec, self.group_names = folder, spec, tuple(group_names)
        self._ranges: dict[str, dict[Split, list[list[int]]]] = {}
        self._left_out: dict[str, dict[Split, int]] = {}
        self._bad: list[str] = []
        self.count = 0
        self._calls = 0
        self._done = _read_journal(folder / "journal")
        for call in self._done:
            self._enter(call)
        self._images = _Rows(folder / "images.npy", np.dtype(np.uint8), _image_shape(spec), self.count)
        self._labels = _Rows(folder / "labels.npy", np.dtype(np.int64), (), self.count)
        self._groups = _Rows(folder / "groups.npy", np.dtype(np.int64), (), self.count)
        self._digests = _Rows(folder / "digests.npy", np.dtype(np.uint8), (DIGEST_SIZE,), self.count)
        self._files = (self._images, self._labels, self._groups, self._digests)
        with _clear_errors(folder.parent):
            self._journal = (folder / "journal").open("a", encoding="utf-8")
        self._seen: dict[Split, set[bytes]] = {
            "test": {digest.tobytes() for digest in self._digests_of("test")},
            "val": {digest.tobytes() for digest in self._digests_of("val")},
        }

    def add(
        self,
        client: str,
        split: Split,
        images: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        bad: Sequence[str] = (),
    ) -> None:
        """Append samples to one client's split; may be called any number of times, also with no samples.

        Args:
            client: the client's name; the first call with a name makes the client.
            split: which of its three parts.
            images: uint8, ``(n, channels, size, size)``.
            labels: any integer type, ``(n,)``, from 0 to ``num_classes - 1``.
            groups: positions in the group names, ``(n,)``; by default no sample belongs to a group.
            bad: files that would be among them but could not be decoded, each with the reason.

        Raises:
            ValueError: if the samples do not have this form.
        """
        if self.skip():
            return
        labels = np.asarray(labels)
        if split not in SPLITS:
            raise ValueError(f"Client {client!r}: unknown split {split!r}. HINT: use one of {', '.join(SPLITS)}.")
        check_images(f"Client {client!r}, {split}", images, self.spec)
        check_labels(f"Client {client!r}, {split}", labels, len(images), self.spec.num_classes)
        if groups is None:
            groups = np.full(len(images), NO_GROUP)
        elif groups.shape != labels.shape or not np.isin(groups, np.arange(NO_GROUP, len(self.group_names))).all():
            raise ValueError(f"Client {client!r}, {split}: groups are not positions in {self.group_names}.")
        digests = [hashlib.blake2b(image.tobytes(), digest_size=DIGEST_SIZE).digest() for image in images]
        held_out = [self._seen[other] for other in HELD_OUT[split]]
        keep = np.array([not any(digest in seen for seen in held_out) for digest in digests], bool)
        kept = [digest for digest, kept in zip(digests, keep, strict=True) if kept]
        rows = (images, labels, groups, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_SIZE))
        for file, content in zip(self._files, rows, strict=True):
            file.append(content if keep.all() else content[keep])
        if split in self._seen:
            self._seen[split].update(kept)
        call = {"client": client, "split": split, "rows": len(kept), "left_out": len(keep) - len(kept), "bad": [*bad]}
        with _clear_errors(self.folder.parent):
            self._journal.write(json.dumps(call) + "\n")
            self._journal.flush()
        self._enter(call)

    def skip(self) -> bool:
        """Say whether an interrupted build has done what the next call of `add` would do; if so, count it as called."""
        if self._calls >= len(self._done):
            return False
        self._calls += 1
        return True

    def finish(self, key: Mapping[str, Any]) -> None:
        """Complete the files and write ``meta.json``.

        Raises:
            ValueError: if there are no samples, two clients' names clash, or an image is in two parts of which one is
                chosen or tested on, because they were added in another order than test, val, train.
        """
        check_client_names(self._ranges)
        if not self.count:
            raise ValueError(f"The dataset is empty: {len(self._ranges)} clients and not one image.")
        self._check_leaks()
        content: dict[str, Any] = {
            "shape": _image_shape(self.spec),
            "digests": {rows.path.name: rows.digest() for rows in self._files[1:]},
            "clients": list(self._ranges.items()),
            "group_names": list(self.group_names),
        }
        self.close()
        meta = {
            "key": dict(key),
            "content_hash": _hash(content),
            "sizes": {rows.path.name: rows.path.stat().st_size for rows in self._files},
            "left_out": self._left_out,
            "bad": self._bad,
            **content,
        }
        text = json.dumps({**meta, "checksum": _hash(meta)})
        with _clear_errors(self.folder.parent), (self.folder / "meta.json").open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        (self.folder / "journal").unlink()

    def close(self) -> None:
        """Complete and close the files; what was added can be taken up again."""
        for rows in self._files:
            rows.close()
        self._journal.close()

    def _enter(self, call: Mapping[str, Any]) -> None:
        """Note where the rows of one call of `add` are."""
        client, split, stop = call["client"], call["split"], self.count + call["rows"]
        ranges = self._ranges.setdefault(client, {name: [] for name in SPLITS})[split]
        if ranges and ranges[-1][1] == self.count:
            ranges[-1][1] = stop
        elif call["rows"]:
            ranges.append([self.count, stop])
        self.count = stop
        self._bad += call["bad"]
        if call["left_out"]:
            of_client = self._left_out.setdefault(client, {})
            of_client[split] = of_client.get(split, 0) + call["left_out"]

    def _digests_of(self, split: Split) -> np.ndarray:
        """Return the digests of all clients' images in a split, ``(n, 16)``."""
        ranges = [part for parts in self._ranges.values() for part in parts[split]]
        digests = self._digests.read()
        return np.concatenate([digests[:0], *(digests[start:stop] for start, stop in ranges)])

    def _check_leaks(self) -> None:
        digests = self._digests.read().view(f"V{DIGEST_SIZE}").ravel()
        for split, others in HELD_OUT.items():
            for other in others:
                held_out = self._digests_of(other).view(f"V{DIGEST_SIZE}").ravel()
                for client, parts in self._ranges.items():
                    found = sum(int(np.isin(digests[a:b], held_out).sum()) for a, b in parts[split])
                    if found:
                        raise ValueError(
                            f"{found} images of client {client!r} are in its {split} part and in a {other} part."
                            " HINT: the dataset must add all test parts first, then val, then train."
                        )


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
    cache_dir: Path,
    key: Mapping[str, Any],
    spec: DataSpec,
    write: Callable[[ArrayWriter], None],
    group_names: Sequence[str] = (),
) -> Arrays:
    """Open the entry for `key`, building it first if it is not there or is damaged.

    Of processes that build the same entry at once, one works and the others wait for it. A build that was interrupted
    is taken up where it was.

    Args:
        cache_dir: folder of all entries; is made if need be.
        key: everything that the arrays depend on, JSON-serialisable; ``key["class"]`` gives the entry a readable name.
        spec: channels, size and number of classes of the samples.
        write: adds all samples to the writer it is given; the same ones in the same order at each call.
        group_names: names of the groups that samples may belong to.

    Raises:
        ValueError: if `write` adds what does not fit, or nothing can be written below `cache_dir`.
    """
    key = {"format": FORMAT, "spec": asdict(spec), "group_names": list(group_names), **key}
    name = str(key.get("class", "arrays")).rsplit(".", 1)[-1]
    entry = cache_dir / f"{name}-{fingerprint(key)}"
    arrays = _open_if_whole(entry)
    if arrays is None:
        _build(entry, key, spec, write, group_names)
        arrays = _open(entry)
    return arrays


class Interrupted(ValueError):
    """A build has ended, but what it has done is worth keeping: the same command goes on from there."""


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

    Sizes, labels and groups are checked; the images' bytes are not read.
    """
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("checksum") != _hash(meta):
            raise DamagedEntryError("meta.json was edited")
        for name, size in meta["sizes"].items():
            if (found := (entry / name).stat().st_size) != size:
                raise DamagedEntryError(f"{name} has {found} bytes instead of {size}")
        images, labels, groups = (_map(entry / f"{name}.npy") for name in ("images", "labels", "groups"))
        for name, tensor in (("labels.npy", labels), ("groups.npy", groups)):
            if hashlib.sha256(tensor.numpy().tobytes()).hexdigest() != meta["digests"][name]:
                raise DamagedEntryError(f"{name} was edited")
        if list(images.shape) != [len(labels), *meta["shape"]]:
            raise DamagedEntryError("images.npy was edited")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"{type(error).__name__}: {error}") from error
    clients = {client: Parts(*(_positions(ranges[split]) for split in SPLITS)) for client, ranges in meta["clients"]}
    return Arrays(
        images, labels, groups, clients, meta["content_hash"], tuple(meta["group_names"]), meta["left_out"],
        tuple(meta["bad"]),
    )  # fmt: skip


def _build(
    entry: Path,
    key: Mapping[str, Any],
    spec: DataSpec,
    write: Callable[[ArrayWriter], None],
    group_names: Sequence[str],
) -> None:
    with _partial_folder(entry) as folder:
        if folder is None:  # another process has built it meanwhile
            return
        writer = _resume(folder, spec, group_names)
        try:
            write(writer)
            writer.finish(key)
        except (KeyboardInterrupt, SystemExit, Interrupted):
            writer.close()
            raise
        except BaseException:
            writer.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _publish(folder, entry)


def _resume(folder: Path, spec: DataSpec, group_names: Sequence[str]) -> ArrayWriter:
    """Take up what an interrupted build has left in a folder; nothing, if that is damaged."""
    try:
        return ArrayWriter(folder, spec, group_names)
    except DamagedEntryError as error:
        log.warning("What an interrupted start has left in %s is damaged (%s) and is done again.", folder, error)
        for path in folder.iterdir():
            path.unlink()
        return ArrayWriter(folder, spec, group_names)


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
            shutil.rmtree(folder, ignore_errors=True)
            return
        except DamagedEntryError:
            aside = entry.parent / f".{entry.name}.{uuid4().hex}.tmp"
            with suppress(FileNotFoundError):
                entry.rename(aside)
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)
    raise ValueError(f"The cache entry {entry} cannot be replaced. HINT: delete it.")


@contextmanager
def _partial_folder(entry: Path) -> Iterator[Path | None]:
    """Give the folder in which an entry is built, to this process alone; None if there is a whole entry meanwhile."""
    folder = entry.parent / f".{entry.name}.partial"
    with _clear_errors(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(entry.parent)
        lock = _locked(folder, entry)
    if lock == BUILT:
        yield None
    elif lock is None:  # a file system without locks: a folder that no other process knows
        private = entry.parent / f".{entry.name}.{uuid4().hex}.tmp"
        private.mkdir()
        yield private
    else:
        try:
            yield folder
        finally:
            os.close(lock)


BUILT = -1


def _locked(folder: Path, entry: Path) -> int | None:
    """Make a folder and lock it; wait for a process that has it, and return `BUILT` if that has built the entry.

    Returns:
        A file descriptor that holds the lock until it is closed; None where there are no locks.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        return None
    while True:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("Another process is preparing %s: waiting for it.", entry.name)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # not on this file system
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        os.close(lock)  # the folder that was waited for has been renamed or removed
        with suppress(DamagedEntryError):
            _open(entry)
            return BUILT


def _remove_leftovers(cache_dir: Path, older_than: float = 7 * 24 * 3600) -> None:
    """Remove what killed builds have left, if nothing was written there for a week."""
    for folder in (*cache_dir.glob(".*.tmp"), *cache_dir.glob(".*.partial")):
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
        raise Interrupted(
            f"The array cache {cache_dir} cannot be written: {error.strerror or error}."
            " HINT: choose another folder with `--data.init_args.cache_dir` or the environment variable LPFT_CACHE."
        ) from error


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the calls of `ArrayWriter.add` that an interrupted build has written down, and drop a line that is cut."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DamagedEntryError("its journal cannot be read") from error


class _Rows:
    """An ``.npy`` file that grows row by row; its header is completed when it is closed.

    Args:
        path: the file.
        dtype: type of a row's elements.
        row_shape: shape of a row.
        count: rows that are there already, of an interrupted build; what follows them is cut off.
    """

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...], count: int = 0) -> None:
        self.path, self.dtype, self.row_shape, self.count = path, dtype, row_shape, count
        self.row_bytes = int(np.prod(row_shape)) * dtype.itemsize
        stored = path.stat().st_size if path.exists() else 0
        with _clear_errors(path.parent.parent):
            self.file: BinaryIO = path.open("r+b" if stored else "w+b")
            self._rows_start = self._write_header()
            end = self.file.seek(self._rows_start + count * self.row_bytes)
            self.file.truncate()
        if count and stored < end:
            raise DamagedEntryError(f"{path.name} is too short")

    def append(self, rows: np.ndarray) -> None:
        content = np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B") if len(rows) else b""
        with _clear_errors(self.path.parent.parent):
            self.file.write(content)
            self.file.flush()
        self.count += len(rows)

    def read(self) -> np.ndarray:
        """Return all rows."""
        self.file.flush()
        rows = np.fromfile(self.path, self.dtype, offset=self._rows_start)
        return rows.reshape(-1, *self.row_shape)

    def digest(self) -> str:
        """Return the sha256 of all rows."""
        return hashlib.sha256(self.read().tobytes()).hexdigest()

    def close(self) -> None:
        """Complete the file."""
        if self.file.closed:
            return
        with _clear_errors(self.path.parent.parent):
            self.file.seek(0)
            if self._write_header() != self._rows_start:  # numpy leaves room for the first axis to grow
                raise RuntimeError(f"{self.path}: the header of the file changed its length.")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()

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
