"""The layouts in which the five digit domains are passed around: finding and opening them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy.io import loadmat, whosmat

from lpft.data.messages import content_of
from lpft.data.sources.array_files import ArrayDomain, ArrayFiles, SourceSplit, channels_last, open_domain
from lpft.data.sources.pickles import load_arrays

Domain = Literal["mnist", "mnist_m", "svhn", "synth_digits", "usps"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
Layout = Literal["mat", "fedbn", "torchvision"]

MAT_FILES: dict[Domain, tuple[str, str]] = {
    "mnist": ("mnist_data.mat", "mnist_data.mat"),
    "mnist_m": ("mnistm_with_label.mat", "mnistm_with_label.mat"),
    "svhn": ("svhn_train_32x32.mat", "svhn_test_32x32.mat"),
    "synth_digits": ("synth_train_32x32.mat", "synth_test_32x32.mat"),
    "usps": ("usps_28x28.mat", "usps_28x28.mat"),
}
PICKLE_FOLDERS: dict[Domain, str] = {
    "mnist": "MNIST", "mnist_m": "MNIST_M", "svhn": "SVHN", "synth_digits": "SynthDigits", "usps": "USPS",
}  # fmt: skip
TORCHVISION: dict[Domain, tuple[list[str], list[str]]] = {
    "mnist": (["."], [f"MNIST/raw/{part}-ubyte" for part in (
        "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")]),
    "svhn": ([".", "SVHN"], ["train_32x32.mat", "test_32x32.mat"]),
    "usps": ([".", "USPS"], ["usps.bz2", "usps.t.bz2"]),
}  # fmt: skip
"""Folders in which the files may be, and the files."""


class DomainFiles(NamedTuple):
    """One domain's files in some layout.

    Args:
        root: folder that the names of the files start from.
        names: the files.
        is_split: whether the parts are not the official sets but a split of both together.
        open: opens the training and the test part; images are read when asked for. It takes the number of training
            images that are wanted, None for all.
    """

    root: Path
    names: list[str]
    is_split: bool
    open: Callable[[int | None], tuple[SourceSplit, SourceSplit]]


class DigitFiles:
    """Finds and opens domains. Holds the images of two sets at a time, the others are read again when asked for.

    Args:
        layout: take this layout only; by default the first one that is there, in the order of `Layout`.
        image_size: MNIST's ``.mat`` file has two sizes, 28 and 32; the latter is read if this is 32.
    """

    def __init__(self, layout: Layout | None, image_size: int) -> None:
        self.layout, self.image_size = layout, image_size
        self._images = lru_cache(maxsize=2)(_mat_images)

    def find(self, domain: Domain, place: Path) -> DomainFiles | None:
        """Find a domain's files in a folder, or take its ``.npz`` file; None if it is not there."""
        if place.suffix == ".npz":
            return _find_npz(place) if place.exists() else None
        finders: dict[Layout, Callable[[Domain, Path], DomainFiles | None]] = {
            "mat": self._find_mat,
            "fedbn": _find_pickles,
            "torchvision": self._find_torchvision,
        }
        in_layouts = (finder(domain, place) for name, finder in finders.items() if self.layout in (None, name))
        return next((found for found in in_layouts if found), None)

    def missing_message(self, domain: Domain, place: Path) -> str:
        """Say what of a domain is expected at a place, and what is there."""
        expected: dict[Layout, list[str]] = {
            "mat": [f"Digit-Five/{name}" for name in dict.fromkeys(MAT_FILES[domain])],
            "fedbn": [f"{PICKLE_FOLDERS[domain]}/{name}" for name in ("partitions/train_part0.pkl", "test.pkl")],
        }
        if domain in TORCHVISION:
            folders, names = TORCHVISION[domain]
            expected["torchvision"] = [(Path(folders[-1]) / name).as_posix() for name in names]
        wanted = [f"{', '.join(names)} ({name})" for name, names in expected.items() if self.layout in (None, name)]
        return f"{domain}: expected {' or '.join(wanted) or 'another layout'}; found in {place}: {content_of(place)}"

    def _find_mat(self, domain: Domain, place: Path) -> DomainFiles | None:
        names = list(MAT_FILES[domain])
        root = _folder_with(place, [".", "Digit-Five"], names)
        return None if root is None else self._found_mats(domain, root, names)

    def _find_torchvision(self, domain: Domain, place: Path) -> DomainFiles | None:
        folders, names = TORCHVISION.get(domain, ([], []))
        root = _folder_with(place, folders, names)
        if root is None:
            return None
        if domain == "svhn":
            return self._found_mats(domain, root, names)
        source = ArrayDomain(path=".", dataset=f"torchvision.datasets.{domain.upper()}")
        return DomainFiles(root, names, False, lambda _: _both(source, root))

    def _found_mats(self, domain: Domain, root: Path, names: Sequence[str]) -> DomainFiles:
        """Describe the ``.mat`` files of the training and of the test set, which may be the same."""
        return DomainFiles(
            root,
            list(dict.fromkeys(names)),
            False,
            lambda _: (self._open_mat(domain, root / names[0], 0), self._open_mat(domain, root / names[1], 1)),
        )

    def _open_mat(self, domain: Domain, path: Path, position: int) -> SourceSplit:
        split = ("train", "test")[position]
        size = 32 if self.image_size == 32 else 28
        x, y = {
            "mnist": (f"{split}_{size}", f"label_{split}"),
            "mnist_m": (split, f"label_{split}"),
            "usps": ("dataset", "dataset"),
        }.get(domain, ("X", "y"))
        labels = _mat(path, y)[position, 1] if domain == "usps" else _mat(path, y)

        def images(positions: np.ndarray) -> np.ndarray:
            stored = self._images(path, x, position)
            if len(stored) != len(labels):
                raise ValueError(f"{path}, {split}: there are {len(stored)} images and {len(labels)} labels.")
            return stored[positions]

        return _part(images, labels, f"{path}, {split}")


def joined(first: SourceSplit, second: SourceSplit) -> SourceSplit:
    """Make one part of two; positions that are asked for must be sorted."""
    num = len(first.labels)

    def images(positions: np.ndarray) -> list[np.ndarray]:
        at = np.searchsorted(positions, num)
        both = ((first, positions[:at]), (second, positions[at:] - num))
        return [image for part, some in both if len(some) for image in part.images(some)]

    return SourceSplit(np.concatenate([first.labels, second.labels]), images)


def _folder_with(place: Path, folders: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the first folder in a place that has all files."""
    return next((place / each for each in folders if all((place / each / name).exists() for name in names)), None)


def _find_npz(place: Path) -> DomainFiles:
    return DomainFiles(place.parent, [place.name], False, lambda _: _both(ArrayDomain(path=place.name), place.parent))


def _both(source: ArrayDomain, root: Path) -> tuple[SourceSplit, SourceSplit]:
    train, test = open_domain(source, ArrayFiles(root), str(root))
    if test is None:
        raise ValueError(f"{root / str(source.path)} has no arrays `x_test` and `y_test`.")
    return train, test


def _find_pickles(domain: Domain, place: Path) -> DomainFiles | None:
    inside = [f"{above}{PICKLE_FOLDERS[domain]}" for above in ("", "data/")]
    root = _folder_with(place, inside, ["partitions/train_part0.pkl", "test.pkl"])
    if root is None:
        return None
    numbered = (f"partitions/train_part{number}.pkl" for number in count())
    names: list[str] = []
    while (root / (name := next(numbered))).exists():
        names.append(name)

    def open_both(wanted: int | None) -> tuple[SourceSplit, SourceSplit]:
        trains: list[SourceSplit] = []
        for name in names:
            if wanted is None or sum(len(part.labels) for part in trains) < wanted:
                trains.append(_read_pickle(root / name))
        train = trains[0]
        for part in trains[1:]:
            train = joined(train, part)
        return train, _read_pickle(root / "test.pkl")

    return DomainFiles(root, [*names, "test.pkl"], True, open_both)


def _read_pickle(path: Path) -> SourceSplit:
    pair = load_arrays(path)
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(each, np.ndarray) for each in pair):
        raise ValueError(f"{path} does not hold a pair of arrays, (images, labels).")
    images = channels_last(pair[0], str(path))
    if len(images) != pair[1].size:
        raise ValueError(f"{path} holds {len(images)} images and {pair[1].size} labels.")
    return _part(images.__getitem__, pair[1], str(path))


def _mat_images(path: Path, key: str, position: int) -> np.ndarray:
    """Read the images of one set from a ``.mat`` file: uint8, ``(n, height, width, 1 or 3)``."""
    images = _mat(path, key)
    if key == "dataset":
        images = images[position, 0]
    elif key == "X":
        images = images.transpose(3, 0, 1, 2)
    if images.dtype.kind == "f":
        scale = 255 if images.max(initial=0) <= 1 else 1
        images = np.rint(images * scale).astype(np.uint8)
    return channels_last(images, f"{path}, {key}")


def _mat(path: Path, key: str) -> Any:
    try:
        content = loadmat(path, variable_names=[key])
        if key not in content:
            found = ", ".join(name for name, *_ in whosmat(path))
            raise KeyError(f"there is no variable {key}, found {found}")
    except Exception as error:  # scipy raises nearly anything on files that are cut off
        raise ValueError(f"{path} cannot be read: {str(error) or type(error).__name__}.") from error
    return content[key]


def _part(images: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, whose: str) -> SourceSplit:
    """Make a part, its labels one-hot, from 0 to 9, or from 1 to 10, where 10 is the digit 0."""
    if labels.ndim == 2 and labels.shape[1] == 10:
        labels = labels.argmax(1)
    digits = labels.ravel().astype(np.int64)
    if digits.size and not 0 <= digits.min() <= digits.max() <= 10:
        raise ValueError(f"{whose}: labels go from {digits.min()} to {digits.max()}, expected 0 to 9 or 1 to 10.")
    return SourceSplit(np.where(digits == 10, 0, digits), images)
