"""Finds and opens the files of the five digit domains in their layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy.io import loadmat, whosmat

from lpft.data.messages import about
from lpft.data.sources.array_files import ArrayDomain, SourceSplit, channels_last, check_same_number, open_domain
from lpft.data.sources.pickles import load_arrays
from lpft.data.splits import Split

Domain = Literal["mnist", "mnist_m", "svhn", "synth_digits", "usps"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
Layout = Literal["mat", "fedbn", "torchvision"]

MAT_FOLDERS = [".", "Digit-Five"]
PICKLES = ["partitions/train_part0.pkl", "test.pkl"]
MNIST_FILES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]

LAYOUTS: dict[Layout, dict[Domain, tuple[list[str], list[str]]]] = {
    "mat": {
        "mnist": (MAT_FOLDERS, ["mnist_data.mat"]),
        "mnist_m": (MAT_FOLDERS, ["mnistm_with_label.mat"]),
        "svhn": (MAT_FOLDERS, ["svhn_train_32x32.mat", "svhn_test_32x32.mat"]),
        "synth_digits": (MAT_FOLDERS, ["synth_train_32x32.mat", "synth_test_32x32.mat"]),
        "usps": (MAT_FOLDERS, ["usps_28x28.mat"]),
    },
    "fedbn": {
        "mnist": (["data/MNIST", "MNIST"], PICKLES),
        "mnist_m": (["data/MNIST_M", "MNIST_M"], PICKLES),
        "svhn": (["data/SVHN", "SVHN"], PICKLES),
        "synth_digits": (["data/SynthDigits", "SynthDigits"], PICKLES),
        "usps": (["data/USPS", "USPS"], PICKLES),
    },
    "torchvision": {
        "mnist": (["."], [f"MNIST/raw/{part}-ubyte" for part in MNIST_FILES]),
        "svhn": ([".", "SVHN"], ["train_32x32.mat", "test_32x32.mat"]),
        "usps": ([".", "USPS"], ["usps.bz2", "usps.t.bz2"]),
    },
}
"""Possible folders of a domain's files, the usual one last, and the files."""

MAT_VARIABLES: dict[Domain, tuple[str, str]] = {
    "mnist": ("{split}_{size}", "label_{split}"),
    "mnist_m": ("{split}", "label_{split}"),
    "usps": ("dataset", "dataset"),
}
"""Variables of images and labels in ``.mat`` files; those of other domains are ``X`` and ``y``."""

ReadMatImages = Callable[[Path, str, int], np.ndarray]


class DomainFiles(NamedTuple):
    """One domain's files below a folder; the layout is None for an ``.npz`` file."""

    domain: Domain
    layout: Layout | None
    root: Path
    names: list[str]


def find_files(domain: Domain, path: Path, required: Layout | None) -> DomainFiles | None:
    """Find a domain's files in a folder, in the required or the first layout, or return its ``.npz`` file."""
    if path.suffix == ".npz":
        return DomainFiles(domain, None, path.parent, [path.name]) if path.exists() else None
    for layout, folders, names in _layouts_of(domain, required):
        for root in (path / folder for folder in folders):
            if all((root / name).exists() for name in names):
                if layout == "fedbn":
                    numbered = (f"partitions/train_part{number}.pkl" for number in count())
                    names = [*takewhile(lambda name, root=root: (root / name).exists(), numbered), "test.pkl"]  # type: ignore[misc]
                return DomainFiles(domain, layout, root, names)
    return None


def expected(domain: Domain, required: Layout | None) -> str:
    """List the files of a domain in each possible layout, for messages."""
    layouts = [
        f"{', '.join((Path(folders[-1]) / name).as_posix() for name in names)} ({layout})"
        for layout, folders, names in _layouts_of(domain, required)
    ]
    return " or ".join(layouts) or "another layout"


def _layouts_of(domain: Domain, required: Layout | None) -> Iterator[tuple[Layout, list[str], list[str]]]:
    """Yield a domain's layouts, or the required one, with possible folders and the files."""
    for layout, domains in LAYOUTS.items():
        if domain in domains and required in (None, layout):
            yield layout, *domains[domain]


def open_files(
    files: DomainFiles, num_train: int | None, size: int, mat_images: ReadMatImages
) -> dict[Split, SourceSplit]:
    """Open the training and the test set; raise ValueError if a file has unexpected content.

    Args:
        files: the domain's files.
        num_train: number of training images after which no further pickle is read; None reads all.
        size: size of MNIST's images in its ``.mat`` file: 28 or 32.
        mat_images: `read_mat_images`, called when images are needed; it may cache them.
    """
    domain, layout, root, names = files
    if layout == "fedbn":
        trains: list[SourceSplit] = []
        for name in names[:-1]:
            if num_train is None or sum(len(part.labels) for part in trains) < num_train:
                trains.append(_read_pickle(root / name))
        return {"train": _joined(trains), "test": _read_pickle(root / names[-1])}
    if names[0].endswith(".mat"):
        return {
            "train": _open_mat(domain, root / names[0], "train", size, mat_images),
            "test": _open_mat(domain, root / names[-1], "test", size, mat_images),
        }
    dataset = None if layout is None else f"torchvision.datasets.{domain.upper()}"
    with about(str(root)):
        parts = open_domain(ArrayDomain(path="." if dataset else names[0], dataset=dataset), root)
        if "test" not in parts:
            raise ValueError(f"{names[0]} has no arrays `x_test` and `y_test`.")
    return parts


def _open_mat(domain: Domain, path: Path, split: Split, size: int, mat_images: ReadMatImages) -> SourceSplit:
    x, y = (name.format(split=split, size=size) for name in MAT_VARIABLES.get(domain, ("X", "y")))
    position = 0 if split == "train" else 1
    stored = _read_mat(path, y)
    with about(f"{path}, {split}"):
        labels = _digits(stored[position, 1] if domain == "usps" else stored)

    def images(positions: np.ndarray) -> np.ndarray:
        stored = mat_images(path, x, position)
        with about(f"{path}, {split}"):
            check_same_number(stored, labels)
        return stored[positions]

    return SourceSplit(labels, images)


def read_mat_images(path: Path, name: str, position: int) -> np.ndarray:
    """Read the first or the second set of a domain: uint8, ``(n, height, width, 1 or 3)``."""
    images = _read_mat(path, name)
    if name == "dataset":
        images = images[position, 0]
    elif name == "X":
        images = images.transpose(3, 0, 1, 2)
    if images.dtype.kind == "f":
        scale = 255 if images.max(initial=0) <= 1 else 1
        images = np.rint(images * scale).astype(np.uint8)
    with about(f"{path}, {name}"):
        return channels_last(images)


def _read_mat(path: Path, name: str) -> Any:
    try:
        content = loadmat(path, variable_names=[name])
    except Exception as error:  # truncated files make scipy raise nearly anything
        raise ValueError(f"{path} cannot be read: {str(error) or type(error).__name__}.") from error
    if name not in content:
        variables = ", ".join(variable for variable, *_ in whosmat(path))
        raise ValueError(f"{path}: there is no variable {name}, found {variables}.")
    return content[name]


def _read_pickle(path: Path) -> SourceSplit:
    pair = load_arrays(path)
    with about(str(path)):
        if not isinstance(pair, list | tuple) or [type(part) for part in pair] != [np.ndarray, np.ndarray]:
            raise ValueError("it does not hold a pair of arrays, (images, labels).")
        images, labels = channels_last(pair[0]), _digits(pair[1])
        check_same_number(images, labels)
    return SourceSplit(labels, images.__getitem__)


def _joined(parts: list[SourceSplit]) -> SourceSplit:
    images = [image for part in parts for image in part.images(np.arange(len(part.labels)))]
    return SourceSplit(
        np.concatenate([part.labels for part in parts]), lambda positions: [images[position] for position in positions]
    )


def _digits(labels: np.ndarray) -> np.ndarray:
    """Return digits, int64, ``(n,)``, from labels that are one-hot, 0 to 9, or 1 to 10 with 10 for the digit 0."""
    if labels.ndim == 2 and labels.shape[1] == 10:
        labels = labels.argmax(1)
    digits = labels.ravel().astype(np.int64)
    if digits.size and not 0 <= digits.min() <= digits.max() <= 10:
        raise ValueError(f"labels go from {digits.min()} to {digits.max()}, expected 0 to 9 or 1 to 10.")
    return np.where(digits == 10, 0, digits)
