"""The array cache: images, decoded once into memory-mapped files that all processes share."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from lpft.data.duplicates import (
    DIGEST_SIZE,
    are_blank,
    by_class,
    by_client,
    count_labels,
    digests,
    under_several_classes,
    without_duplicates,
)
from lpft.data.entry_folder import Interrupted, clear_errors, partial_folder, publish, remove
from lpft.data.sources.image_files import Decoded
from lpft.data.sources.pixels import Depth, merged
from lpft.data.splits import SPLITS, SplitPositions
from lpft.storage.atomic import flush_to_disk, write_atomically
from lpft.storage.fingerprint import fingerprint
from lpft.storage.run import check_client_names
from lpft.types import DataSpec

FORMAT = 5
"""Version of the file layout, part of every entry's name."""

ARRAYS = ("images", "labels", "groups", "index")

log = logging.getLogger("lpft")


class DamagedEntryError(Exception):
    """An entry of the cache was changed after it was written."""


class BadImageError(Interrupted):
    """Image files cannot be decoded."""


@dataclass(frozen=True)
class ClientSplit:
    """One client, and the positions of its samples in the arrays, int64, ``(n,)`` each.

    Models are selected on `val`; results are reported on `test`, which is never used for selection.
    """

    name: str
    train: Tensor
    val: Tensor
    test: Tensor


@dataclass(frozen=True)
class Samples:
    """The content of an entry, except the images.

    Args:
        rows: the rows of the source's table in use, ascending, ``(n,)``.
        labels: their classes, int64, ``(n,)``.
        groups: their positions in `group_names`, -1 for none; int64, ``(n,)``.
        clients: every client's positions in `rows`, by name.
        group_names: names of the groups.
        equal_are_copies: whether equal samples count as copies, which are left out.
    """

    rows: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    clients: Mapping[str, SplitPositions]
    group_names: tuple[str, ...] = ()
    equal_are_copies: bool = True


@dataclass(frozen=True)
class Arrays:
    """An opened entry.

    Args:
        entry: its folder.
        images: uint8, ``(n, channels, size, size)``, memory-mapped and read-only: writing to it ends the process. Of
            feature arrays float32, ``(n, num_features)``.
        labels: int64, ``(n,)``, memory-mapped.
        groups: position of every sample's group in `group_names`, -1 for none; int64, ``(n,)``, memory-mapped.
        clients: every client's samples.
        content_hash: sha256 over images, labels, groups, names and splits.
        group_names: names of the groups for accuracies by group, such as ``"blond, man"``.
        left_out: number of images left out as copies of images in test or val sets, by client and split.
        left_out_of_classes: the same by class and split.
        blank: number of images of one uniform colour, by class.
        ambiguous: number of other images that are, pixel for pixel, in several classes.
        bad: files that could not be decoded and were left out, each with the reason.
        depths: images of more than 8 bits per channel.
        frames: files with several frames (pages); only the first is read.
    """

    entry: Path
    images: Tensor
    labels: Tensor
    groups: Tensor
    clients: list[ClientSplit]
    content_hash: str
    group_names: tuple[str, ...] = ()
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out_of_classes: dict[int, dict[str, int]] = field(default_factory=dict)
    blank: dict[int, int] = field(default_factory=dict)
    ambiguous: int = 0
    bad: tuple[str, ...] = ()
    depths: tuple[Depth, ...] = ()
    frames: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """The word for samples in messages: images, or rows of feature arrays."""
        return "rows" if self.images.dim() == 2 else "images"

    @property
    def alike(self) -> str:
        """The phrase for equal samples in messages."""
        return "value for value" if self.noun == "rows" else "pixel for pixel"

    @classmethod
    def open(cls, entry: Path) -> Arrays:
        """Map an entry's files. Sizes, labels, groups and index are checked; the images' bytes are not read.

        Raises:
            DamagedEntryError: if the files do not fit ``meta.json``.
        """
        try:
            meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
            if meta.pop("checksum") != _hash_meta(meta):
                raise ValueError("meta.json was edited")
            for name, size in meta["sizes"].items():
                if (stored := (entry / name).stat().st_size) != size:
                    raise ValueError(f"{name} has {stored} bytes instead of {size}")
            arrays = {name: _map(entry / f"{name}.npy") for name in ARRAYS}
            for name, digest in meta["digests"].items():
                if _hash(arrays[name.removesuffix(".npy")].numpy()) != digest:
                    raise ValueError(f"{name} was edited")
            if list(arrays["images"].shape) != meta["shape"]:
                raise ValueError("images.npy was edited")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedEntryError(f"{type(error).__name__}: {error}") from error
        index = arrays.pop("index").clone()
        parts = iter(index.split([size for _, sizes in meta["clients"] for size in sizes]))
        return cls(
            entry=entry,
            clients=[ClientSplit(name, *(next(parts) for _ in SPLITS)) for name, _ in meta["clients"]],
            content_hash=meta["content_hash"],
            group_names=tuple(meta["group_names"]),
            left_out=meta["left_out"],
            left_out_of_classes={int(label): counts for label, counts in meta["left_out_of_classes"].items()},
            blank={int(label): count for label, count in meta["blank"].items()},
            ambiguous=meta["ambiguous"],
            bad=tuple(meta["bad"]),
            depths=tuple(merged(meta["depths"])),
            frames=tuple(meta["frames"]),
            **arrays,
        )


Decode = Callable[[Samples, int], Iterator[Decoded]]
"""Yields the images of the samples' rows in order, from a given row on."""


def open_or_build(
    cache_dir: Path,
    name: str,
    key: Mapping[str, Any],
    samples: Callable[[], Samples],
    decode: Decode,
    spec: DataSpec,
    on_bad_image: Literal["error", "skip"] = "error",
) -> Arrays:
    """Open the entry for `key`, building it first if it is missing or damaged.

    An entry is a folder, named by the source's class and a hash of all settings: one row per sample in ``images.npy``,
    ``labels.npy`` and ``groups.npy``, the clients' rows in ``index.npy``, and ``meta.json`` (names, sizes, hashes). It
    is built under a temporary name and then renamed, so that every entry is complete. If several processes need the
    same entry, one builds it and the others wait. An interrupted build continues where it stopped.

    Args:
        cache_dir: folder of all entries; created if missing.
        name: start of the entry's name.
        key: everything that the arrays depend on, JSON-serializable.
        samples: returns the samples; the same at each call.
        decode: yields their images.
        spec: shape of the inputs.
        on_bad_image: how to handle a file that cannot be decoded: raise, or leave it out and list it.

    Raises:
        BadImageError: if a file cannot be decoded and `on_bad_image` is ``error``.
        ValueError: if there are no samples, or `cache_dir` is not writable.
    """
    entry = cache_dir / f"{name}-{fingerprint({'format': FORMAT, **key})}"
    if not _is_complete(entry, warn=True):
        with partial_folder(entry, _is_complete) as folder:
            if folder is not None:
                try:
                    _Build(folder, samples(), spec).run(decode, on_bad_image, key)
                except (KeyboardInterrupt, SystemExit, Interrupted):
                    raise
                except BaseException:
                    remove(folder)
                    raise
                publish(folder, entry, _is_complete)
    arrays = Arrays.open(entry)
    if on_bad_image == "error":
        _refuse_bad_images(arrays.bad)
    return arrays


class _Build:
    """Builds an entry; ``journal`` has a line for each decoded batch: where it ends, and which images are bad."""

    def __init__(self, folder: Path, samples: Samples, spec: DataSpec) -> None:
        self.folder, self.samples, self.journal = folder, samples, folder / "journal"
        check_client_names(samples.clients)
        self.shape, self.noun = (len(samples.rows), *spec.shape), spec.noun
        self.dtype: type[np.generic] = np.uint8 if spec.num_features is None else np.float32
        self._refuse_empty(len(samples.rows), len(samples.clients))
        with clear_errors(folder.parent):
            try:
                self.batches = self._read_journal()
                self._open("r+")
            except (OSError, ValueError) as error:
                if any(folder.iterdir()):
                    log.warning("The unfinished arrays in %s are damaged (%s) and are built again.", folder, error)
                for path in folder.iterdir():
                    path.unlink()
                self.batches = []
                self._open("w+")

    def _open(self, mode: Literal["r+", "w+"]) -> None:
        images = open_memmap(self.folder / "images.npy", mode, self.dtype, self.shape)
        self.digests: np.memmap = open_memmap(self.folder / "digests.npy", mode, np.uint8, (self.shape[0], DIGEST_SIZE))
        layout = images.shape, images.dtype, self.digests.shape
        if layout != (self.shape, self.dtype, (self.shape[0], DIGEST_SIZE)):
            raise ValueError("its files are of another shape")

    def _read_journal(self) -> list[dict[str, Any]]:
        """Return the finished batches, and remove an incomplete last line."""
        content = self.journal.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        os.truncate(self.journal, len(complete))
        return [dict(json.loads(line)) for line in complete.splitlines()]

    def run(self, decode: Decode, on_bad_image: Literal["error", "skip"], key: Mapping[str, Any]) -> None:
        """Decode the remaining images and write all other files."""
        first = self.batches[-1]["stop"] if self.batches else 0
        with self.journal.open("a", encoding="utf-8") as journal, (self.folder / "images.npy").open("r+b") as images:
            images.seek(-(self.shape[0] - first) * math.prod(self.shape[1:]) * self.dtype().itemsize, os.SEEK_END)
            for decoded in decode(self.samples, first):
                if on_bad_image == "error":
                    _refuse_bad_images(decoded.bad)
                rows = first + np.arange(len(decoded.good))
                blank = are_blank(decoded.images) if self.noun == "images" else np.zeros(len(decoded.images), bool)
                first += len(rows)
                batch = {
                    "stop": first,
                    "bad_rows": rows[~decoded.good].tolist(),
                    "blank_rows": rows[decoded.good][blank].tolist(),
                    "bad": decoded.bad,
                    **vars(decoded.notes),
                }
                written = np.zeros((len(rows), *self.shape[1:]), self.dtype)
                written[decoded.good] = decoded.images
                with clear_errors(self.folder.parent):
                    images.write(written.data)
                    images.flush()
                    self.digests[rows[decoded.good]] = digests(decoded.images)
                    print(json.dumps(batch), file=journal, flush=True)
                self.batches.append(batch)
            with clear_errors(self.folder.parent):
                flush_to_disk(images.fileno())
                self._finish(key)

    def _listed(self, key: str) -> list[Any]:
        return [entry for batch in self.batches for entry in batch[key]]

    def _finish(self, key: Mapping[str, Any]) -> None:
        bad, blank = (np.array(self._listed(rows), np.int64) for rows in ("bad_rows", "blank_rows"))
        spared = blank if self.samples.equal_are_copies else np.arange(self.shape[0])
        clients, left_out = without_duplicates(self.samples.clients, self.digests, bad, spared)
        index = np.concatenate([part for parts in clients.values() for part in parts])
        self._refuse_empty(len(index), len(clients))
        arrays = {"labels.npy": self.samples.labels, "groups.npy": self.samples.groups, "index.npy": index}
        for name, array in arrays.items():
            np.save(self.folder / name, array.astype(np.int64))
        sizes = [[name, [len(part) for part in parts]] for name, parts in clients.items()]
        content = hashlib.sha256(json.dumps([sizes, self.samples.group_names]).encode())
        for array in (self.digests, self.samples.labels, self.samples.groups):
            content.update(np.ascontiguousarray(array[index]).tobytes())
        self.digests.flush()
        labels = self.samples.labels
        meta = {
            "key": dict(key),
            "content_hash": content.hexdigest(),
            "shape": list(self.shape),
            "sizes": {f"{name}.npy": (self.folder / f"{name}.npy").stat().st_size for name in ARRAYS},
            "digests": {name: _hash(array.astype(np.int64)) for name, array in arrays.items()},
            "clients": sizes,
            "group_names": list(self.samples.group_names),
            "left_out": by_client(left_out),
            "left_out_of_classes": _with_text_keys(by_class(left_out.values(), labels)),
            "blank": _with_text_keys(count_labels(labels[blank])),
            "ambiguous": under_several_classes(self.digests, labels, np.concatenate([bad, blank])),
            "bad": self._listed("bad"),
            "depths": merged(self._listed("depths")),
            "frames": self._listed("frames"),
        }
        write_atomically(self.folder / "meta.json", json.dumps({**meta, "checksum": _hash_meta(meta)}))
        self.journal.unlink()

    def _refuse_empty(self, num_samples: int, num_clients: int) -> None:
        if not num_samples:
            noun = self.noun.removesuffix("s")
            raise ValueError(f"The dataset is empty: {num_clients} clients and not one {noun}.")


def _refuse_bad_images(bad: list[str] | tuple[str, ...]) -> None:
    if bad:
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise BadImageError(
            "\n  ".join([f"{len(bad)} image files cannot be decoded:", *bad[:5]]) + f"{more}\nHINT: repair or remove"
            " them, or leave such files out with `--data.on_bad_image skip`."
        )


def _is_complete(entry: Path, warn: bool = False) -> bool:
    try:
        Arrays.open(entry)
    except DamagedEntryError as error:
        if warn and entry.exists():
            log.warning("The cached arrays in %s are damaged (%s) and are built again.", entry, error)
        return False
    return True


def _map(path: Path) -> Tensor:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _with_text_keys(counts: Mapping[int, Any]) -> dict[str, Any]:
    return {str(label): count for label, count in counts.items()}  # as JSON returns them: their order matters to hashes


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _hash_meta(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
