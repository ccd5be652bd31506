"""CIFAR-10 and CIFAR-100 under corruptions: one domain per corruption and severity."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lpft.data.messages import about, content_of
from lpft.data.partition.iid import equal_parts
from lpft.data.sources.array_files import ArrayDomain, ArrayFiles, open_domain
from lpft.data.sources.base import OnBadImage, Source, categories
from lpft.data.sources.corruptions import CORRUPTIONS, SEVERITIES, Corruption, Severity, corrupt
from lpft.data.sources.image_files import stamp
from lpft.data.sources.names import check_choice
from lpft.data.sources.pickles import load_arrays
from lpft.data.splits import stratified_order

TEN_TYPES: tuple[Corruption, ...] = (
    "gaussian_noise", "impulse_noise", "defocus_blur", "motion_blur", "snow", "fog", "brightness", "contrast",
    "pixelate", "jpeg_compression",
)  # fmt: skip
SIZE = 32
VAL_SHARE = TEST_SHARE = 0.1

MEANS = {10: (0.491, 0.482, 0.447), 100: (0.507, 0.487, 0.441)}
STDS = {10: (0.247, 0.243, 0.262), 100: (0.268, 0.257, 0.276)}
ARCHIVES = {10: "zenodo.org/records/2535967 (CC BY 4.0)", 100: "zenodo.org/records/3555552 (see its licence field)"}
BATCHES: dict[int, tuple[str, str, list[str], list[str]]] = {
    10: ("cifar-10-batches-py", "labels", [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]),
    100: ("cifar-100-python", "fine_labels", ["train"], ["test"]),
}
"""Folder, key of the labels, files of the training and of the test part in torchvision's layout."""

log = logging.getLogger("lpft")

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CifarC(Source):
    """Input shift: every domain has CIFAR images under one corruption and severity, such as ``fog-3``.

    Every corruption has the same images, so a split per domain would put an image into one domain's training set and
    another's test set. Here the images are split once for all domains, by their position in the test set (their id):
    a tenth is everybody's test set, a tenth is everybody's validation set, and every domain trains on a disjoint,
    stratified part of the others: of 10,000 images 160 for each of 50 domains.

    The images come from the published archive or, if it is missing or `plain` is set, are computed from the plain ones
    with `lpft.data.sources.corruptions`; every draw is keyed by `seed`, image, corruption and severity. Of plain images
    that are equal, pixel for pixel, only the first is used.

    Args:
        root: folder of the folder ``CIFAR-10-C`` (``CIFAR-100-C``) with ``{corruption}.npy`` and ``labels.npy``, whose
            rows are the 10,000 test images at severity 1, then at 2, and so on; or that folder itself.
            Without the archive: folder of torchvision's ``cifar-10-batches-py`` (``cifar-100-python``).
        num_classes: 10 or 100, for CIFAR-10 or CIFAR-100.
        types: the corruptions; by default ten of the nineteen.
        severities: from 1 to 5, by default all; each pair of type and severity is a domain.
        shared_ids: let every domain train on all training images instead of a disjoint part.
        plain: what to compute the corrupted images from: an ``.npz`` file with ``x_train, y_train, x_test, y_test``, or
            torchvision's folder; relative to `root`.
        part: which plain images are corrupted: those of the test set, as in the archive, or of both sets.
        seed: seed of the split and the draws; not the seed of a run.

    Raises:
        ValueError: if a setting is out of range.

    References:
        Hendrycks and Dietterich, arXiv:1903.12261. Split and domains are ours; normalization as in DeSA.
    """

    draws = "cifar-c"
    image_size = SIZE
    num_classes: int

    def __init__(
        self,
        root: str = ".",
        num_classes: Literal[10, 100] = 10,
        types: list[Corruption] | None = None,
        severities: list[Severity] | None = None,
        shared_ids: bool = False,
        plain: str | None = None,
        part: Literal["test", "all"] = "test",
        seed: int = 0,
    ) -> None:
        self.root, self.num_classes = Path(root).expanduser(), num_classes
        self.types: Sequence[Corruption] = TEN_TYPES if types is None else types
        self.severities: Sequence[Severity] = SEVERITIES if severities is None else severities
        check_choice("types", self.types, CORRUPTIONS)
        check_choice("severities", self.severities, SEVERITIES)
        self.shared_ids, self.part, self.seed = shared_ids, part, seed
        self.plain = plain
        self.mean, self.std = MEANS[num_classes], STDS[num_classes]
        self.class_names = CIFAR10 if num_classes == len(CIFAR10) else ()

    def table(self) -> pd.DataFrame:
        """Split the ids once, and assign every domain its rows of train, val and test."""
        labels, _ = self._opened
        pairs = [(corruption, severity) for corruption in self.types for severity in self.severities]
        rng = self.rng(self.seed, "ids")
        order = stratified_order(labels, rng)
        num_test, num_val = round(TEST_SHARE * len(labels)), round(VAL_SHARE * len(labels))
        test, val, train = (np.sort(ids) for ids in np.split(order, [num_test, num_test + num_val]))
        tables = []
        for (corruption, severity), part in zip(pairs, equal_parts(labels[train], len(pairs), rng), strict=True):
            splits = {"train": train if self.shared_ids else train[part], "val": val, "test": test}
            for split, ids in splits.items():
                columns = {"unit": ids, "corruption": corruption, "severity": severity, "split": split}
                tables.append(pd.DataFrame({"label": labels[ids], "domain": f"{corruption}-{severity}", **columns}))
        table = pd.concat(tables, ignore_index=True)
        names = [f"{corruption}-{severity}" for corruption, severity in pairs]
        return table.assign(domain=categories(table["domain"], names))

    def images(self, positions: np.ndarray) -> list[np.ndarray]:
        """Return the images, corrupted as in their domains."""
        images: list[np.ndarray] = []
        for (corruption, severity), members in self.cached_table.iloc[positions].groupby(
            ["corruption", "severity"], sort=False
        ):
            images.extend(self._corrupted(corruption, severity, members["unit"].to_numpy()))
        return images

    def _corrupted(self, corruption: Any, severity: Any, ids: np.ndarray) -> Iterable[np.ndarray]:
        labels, stored = self._opened
        if isinstance(stored, dict):
            return stored[corruption][(severity - 1) * len(labels) + ids]
        rngs = (self.rng(self.seed, corruption, severity, int(position)) for position in ids)
        return (corrupt(stored[position], corruption, severity, rng) for position, rng in zip(ids, rngs, strict=True))

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Hash names, sizes and modification times of the files.

        Raises:
            ValueError: if `part` is `all` but there is only the archive.
        """
        folder, names = self._files
        if self.part == "all" and folder == self._archive:
            raise ValueError(
                f"`part: all` needs plain images, but the archive in {folder} would be read."
                " HINT: name the plain images with `plain`."
            )
        return stamp(folder, names)

    def settings(self) -> dict[str, object]:
        """Return class and settings, and whether the images are computed."""
        return {**super().settings(), "computed": self._files[0] != self._archive}

    @property
    def _archive(self) -> Path:
        inner = self.root / f"CIFAR-{self.num_classes}-C"
        return self.root if (self.root / "labels.npy").exists() and not inner.exists() else inner

    @property
    def _files(self) -> tuple[Path, list[str]]:
        """The folder to read, and the files in it: those of the archive or of the plain images."""
        folder, _, train, test = BATCHES[self.num_classes]
        batches = [*train, *test] if self.part == "all" else test
        if self.plain is not None:
            path = self.root / self.plain
            if not path.exists():
                raise FileNotFoundError(
                    f"`plain: {self.plain}` is missing: {path}. HINT: it starts from `root`, which is"
                    f" {str(self.root.absolute())!r}; set it with `--data.source.root`. Nothing is downloaded."
                )
            return (path, batches) if path.is_dir() else (path.parent, [path.name])
        if self._archive.is_dir():
            return self._archive, [f"{name}.npy" for name in (*self.types, "labels")]
        if (self.root / folder).is_dir():
            return self.root / folder, batches
        raise FileNotFoundError(
            f"CIFAR-{self.num_classes}-C is not in {self.root} (found: {content_of(self.root)}). Expected the folder"
            f" {self._archive.name} with labels.npy and, for each of {len(self.types)} types, a file such as"
            f" {self.types[0]}.npy; or, to compute them, {folder} with {', '.join(batches)}. HINT: set the folder with"
            f" `--data.source.root`, or name an `.npz` file with `--data.source.plain`. The archive is at"
            f" {ARCHIVES[self.num_classes]}, the plain images at www.cs.toronto.edu/~kriz/cifar.html; nothing is"
            " downloaded."
        )

    @cached_property
    def _opened(self) -> tuple[np.ndarray, np.ndarray | dict[Corruption, np.ndarray]]:
        """The labels of all ids, int64, ``(num_ids,)``, and their plain images, or the archive's images by type."""
        folder, names = self._files
        if folder == self._archive:
            return open_archive(folder, self.types)
        log.warning(
            "The corrupted images are computed from %s: they are not those of the published archive, and frost is"
            " drawn instead of photographed.", folder,
        )  # fmt: skip
        if names[0].endswith(".npz"):
            with about(f"`plain: {self.plain}`"):
                parts = open_domain(ArrayDomain(path=names[0]), folder)
            chosen = [part for split, part in parts.items() if self.part == "all" or split == "test"]
            plain = [(part.labels, np.asarray(part.images(np.arange(len(part.labels))))) for part in chosen]
            if not plain:
                raise ValueError(f"{folder / names[0]} has no test images. HINT: set `part: all`.")
        else:
            plain = [read_batch(folder / name, BATCHES[self.num_classes][1]) for name in names]
        labels, images = (np.concatenate(parts) for parts in zip(*plain, strict=True))
        check_shape(images, (len(labels), SIZE, SIZE, 3), f"The images in {folder}")
        pixels = np.ascontiguousarray(images).reshape(len(images), -1)
        first = np.sort(np.unique(pixels.view(f"V{pixels.shape[1]}"), return_index=True)[1])
        if len(first) < len(images):  # noise would hide that they are copies, which could leak
            log.warning("%d images are copies of others and are left out.", len(images) - len(first))
        return labels[first], images[first]


def open_archive(folder: Path, types: Sequence[Corruption]) -> tuple[np.ndarray, dict[Corruption, np.ndarray]]:
    """Open a published archive; raise ValueError if a file has another form.

    Returns:
        Labels of all ids, int64, ``(num_ids,)``, and by type the memory-mapped images of all ids at severity 1, 2, ...,
        uint8, ``(5 * num_ids, 32, 32, 3)``.
    """
    files = ArrayFiles(folder)
    labels = files.read("labels.npy")
    by_severity = labels.reshape(len(SEVERITIES), -1) if labels.size % len(SEVERITIES) == 0 else labels[None]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (by_severity != labels[: by_severity.shape[1]]).any():
        raise ValueError(
            f"{folder / 'labels.npy'} is {labels.dtype} of shape {labels.shape}, expected integers, the labels of the"
            f" same images {len(SEVERITIES)} times, once for each severity."
        )
    images = {name: files.read(f"{name}.npy") for name in types}
    for name, array in images.items():
        check_shape(array, (len(labels), SIZE, SIZE, 3), str(folder / f"{name}.npy"))
    return by_severity[0].astype(np.int64), images


def read_batch(path: Path, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Read labels, int64, ``(n,)``, and images, uint8, ``(n, 32, 32, 3)``, from a pickle of CIFAR."""
    batch = load_arrays(path)
    if not isinstance(batch, dict) or not {"data", label_key} <= set(batch):
        content = ", ".join(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
        raise ValueError(f"{path} holds {content}, expected a dictionary with `data` and `{label_key}`.")
    labels = np.asarray(batch[label_key], np.int64)
    check_shape(batch["data"], (len(labels), 3 * SIZE * SIZE), f"`data` in {path}")
    return labels, batch["data"].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def check_shape(images: object, shape: tuple[int, ...], where: str) -> None:
    """Raise ValueError unless images are a uint8 array of this shape."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != shape:
        form = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{where}: found {form}, expected uint8 of shape {shape}.")
