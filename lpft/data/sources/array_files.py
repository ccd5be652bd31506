"""Array files and torchvision datasets, read split by split."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL.Image import Image

from lpft.data.messages import about, readable
from lpft.data.sources.base import Images
from lpft.data.sources.foreign import foreign
from lpft.data.sources.names import check_first_label
from lpft.data.splits import Split


class SourceSplit(NamedTuple):
    """Labels of one split, int64, ``(n,)``, and a function that returns the images at given positions."""

    labels: np.ndarray
    images: Callable[[np.ndarray], Images]


@dataclass
class ArrayDomain:
    """The files of one domain: arrays, or a torchvision dataset (`dataset`).

    An array is named by its key in the ``.npz`` file `path`, or, if the name ends in ``.npy``, by its file. Images are
    uint8, grey ``(n, height, width)`` or grey or RGB with channels last or first; labels are integers ``(n,)`` or
    ``(n, 1)``. Nothing is unpickled, nothing is downloaded.

    Args:
        path: the ``.npz`` file, or the ``root`` of the torchvision dataset; relative to the source's `root`.
        dataset: dotted path of a torchvision dataset class, such as ``torchvision.datasets.MNIST``.
        x_train: training images.
        y_train: their labels.
        x_test: test images; if both these and `y_test` are missing, a part of the training images becomes the test set.
        y_test: their labels.
        x_val: validation images; by default a part of the training images.
        y_val: their labels.
        train_args: arguments of the torchvision class (besides ``root``) for the training set.
        test_args: the same for the test set; null if there is none.
        first_label: the label of the first class, 0 or 1; the labels are shifted to start at 0.
        group: array with the group (writer, site) of every training image. Every group becomes a domain, whose training
            images are split into train, val and test. The domain's other images are left out.
        group_file: ``.npz`` file with `group`, by default `path`; relative to `root`.
        invert: invert every image.
    """

    path: str | None = None
    dataset: str | None = None
    x_train: str = "x_train"
    y_train: str = "y_train"
    x_test: str | None = "x_test"
    y_test: str | None = "y_test"
    x_val: str | None = None
    y_val: str | None = None
    train_args: dict[str, Any] = field(default_factory=lambda: {"train": True})
    test_args: dict[str, Any] | None = field(default_factory=lambda: {"train": False})
    group: str | None = None
    group_file: str | None = None
    invert: bool = False
    first_label: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        """Check the combination of settings."""
        for name, value in list(vars(self).items()):
            if value == "None":  # how jsonargparse passes a null of the command line
                setattr(self, name, None)
        if self.path is None and (self.dataset or any(name and not name.endswith(".npy") for name in self.arrays)):
            needed = f"`dataset: {self.dataset}`" if self.dataset else f"the arrays {', '.join(map(str, self.arrays))}"
            raise ValueError(
                f"A domain has no `path`, which {needed} must be read from."
                " HINT: give the `.npz` file or the dataset's folder as `path`, or name `.npy` files for all four"
                " (`x_test: null` and `y_test: null` if there is no test part)."
            )
        for part, x, y in (("test", self.x_test, self.y_test), ("val", self.x_val, self.y_val)):
            if (x is None) != (y is None):
                raise ValueError(f"A domain has `x_{part}: {x}` and `y_{part}: {y}`. HINT: give both or none.")
        if self.group_file and not self.group:
            raise ValueError(
                f"A domain has `group_file: {self.group_file}` but no `group`, the name of the array in it."
            )

    @property
    def arrays(self) -> list[str | None]:
        """Names of the arrays of images and labels."""
        return [self.x_train, self.y_train, self.x_test, self.y_test, self.x_val, self.y_val]


def open_domain(domain: ArrayDomain, root: Path) -> dict[Split, SourceSplit]:
    """Open the splits of a domain; images are read on demand.

    Raises:
        ValueError: if the files do not match the domain's settings.
        FileNotFoundError: if files of a torchvision dataset are missing.
    """
    parts: dict[Split, SourceSplit] = {}
    if domain.dataset:
        parts["train"] = _open_dataset(domain, root, domain.train_args)
        if domain.test_args is not None:
            parts["test"] = _open_dataset(domain, root, domain.test_args)
    else:
        files = ArrayFiles(root, domain.path)
        parts["train"] = _open_arrays(files, domain.x_train, domain.y_train)
        if domain.x_val and domain.y_val:
            parts["val"] = _open_arrays(files, domain.x_val, domain.y_val)
        x_test, y_test = domain.x_test, domain.y_test
        if x_test and y_test and (files.has(x_test) or files.has(y_test)):
            parts["test"] = _open_arrays(files, x_test, y_test)
    if domain.first_label:
        parts = {split: _shifted(part, domain.first_label) for split, part in parts.items()}
    return {split: _negative(part) for split, part in parts.items()} if domain.invert else parts


def _shifted(part: SourceSplit, first_label: int) -> SourceSplit:
    check_first_label(int(part.labels.min(initial=first_label)), first_label)
    return SourceSplit(part.labels - first_label, part.images)


def _negative(part: SourceSplit) -> SourceSplit:
    def images(positions: np.ndarray) -> Images:
        stored = part.images(positions)
        return [255 - image for image in stored] if isinstance(stored, list) else 255 - stored

    return SourceSplit(part.labels, images)


def read_groups(domain: ArrayDomain, root: Path, num_images: int) -> np.ndarray:
    """Read the group of every training image, ``(num_images,)``; raise ValueError if type or shape do not fit."""
    groups = one_column(ArrayFiles(root, domain.group_file or domain.path).read(str(domain.group)))
    if groups.shape != (num_images,) or groups.dtype.kind not in "iuU":
        raise ValueError(
            f"`group: {domain.group}` is {groups.dtype} of shape {groups.shape}, expected integers or strings of shape"
            f" ({num_images},), one for every training image."
        )
    return groups


def domain_files(domain: ArrayDomain, root: Path) -> list[Path]:
    """Return the files of a domain, sorted; they need not exist.

    Raises:
        ValueError: if a path is a folder although no `dataset` is set.
    """
    arrays = [domain.group] if domain.dataset else [*domain.arrays, domain.group]
    names = {domain.path, domain.group_file, *(name for name in arrays if name and name.endswith(".npy"))}
    paths = sorted(root / name for name in names if name)
    folders = [path for path in paths if path.is_dir()]
    if folders and not domain.dataset:
        raise ValueError(
            f"{folders[0]} is a folder, but arrays are in `.npz` and `.npy` files. HINT: name the file as `path`, or"
            " the class that reads the folder as `dataset`; lpft.data.sources.Sites reads folders of image files."
        )
    return [file for path in paths for file in (_dataset_files(path, domain) if path in folders else [path])]


def _dataset_files(folder: Path, domain: ArrayDomain) -> list[Path]:
    """Return all files of a dataset: those in the class's ``base_folder`` or in the folder named after the class."""
    name = str(domain.dataset)
    inner = getattr(_import(name), "base_folder", name.rpartition(".")[2])
    inside = folder / inner if isinstance(inner, str) and (folder / inner).is_dir() else folder
    return sorted(path for path in inside.rglob("*") if path.is_file())


class ArrayFiles:
    """Reads arrays by name: keys of an ``.npz`` file, or ``.npy`` files. Only the last array read stays in memory.

    Args:
        root: folder that paths are relative to.
        path: the ``.npz`` file.
    """

    def __init__(self, root: Path, path: str | None = None) -> None:
        self.root, self.path = root, path
        self._last: tuple[str, np.ndarray] | None = None

    def has(self, name: str) -> bool:
        """Return whether an array of this name exists, in the ``.npz`` file or as an ``.npy`` file."""
        return (self.root / name).exists() if name.endswith(".npy") else name in self._keys()

    def read(self, name: str) -> np.ndarray:
        """Return an array; ``.npy`` files are memory-mapped.

        Raises:
            ValueError: if the array is missing or cannot be read.
        """
        if self._last is None or self._last[0] != name:
            self._last = None  # frees the memory before the next array is read
            self._last = name, self._read(name)
        return self._last[1]

    def _read(self, name: str) -> np.ndarray:
        if name.endswith(".npy"):
            with readable(self.root / name):
                return np.load(self.root / name, mmap_mode="r", allow_pickle=False)
        path, keys = self.root / str(self.path), self._keys()
        if name not in keys:
            raise ValueError(
                f"there is no array {name!r} in {path}, found {', '.join(keys) or 'none'}."
                " HINT: name the domain's arrays as `x_train`, `y_train`, `x_test`, `y_test`, `group`."
            )
        with readable(path), np.load(path, allow_pickle=False) as file:
            array: np.ndarray = file[name]
        return array

    def _keys(self) -> list[str]:
        conversion = foreign(self.root / self.path) if self.path else ""
        if conversion:
            raise ValueError(conversion)
        if self.path is None or not self.path.endswith(".npz"):
            raise ValueError(f"`path: {self.path}` is not an `.npz` file, so it has no names of arrays.")
        with readable(self.root / self.path), np.load(self.root / self.path, allow_pickle=False) as file:
            return list(file.files)


def _open_arrays(files: ArrayFiles, x_name: str, y_name: str) -> SourceSplit:
    with about(f"{x_name} and {y_name}"):
        labels = _check_labels(files.read(y_name))
        check_same_number(channels_last(files.read(x_name)), labels)
    return SourceSplit(labels, lambda positions: channels_last(files.read(x_name))[positions])


def check_same_number(images: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless there are as many images as labels."""
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images and {len(labels)} labels.")


def channels_last(images: np.ndarray) -> np.ndarray:
    """View images, uint8, grey, with channels last or first, as ``(n, height, width, 1 or 3)``.

    >>> channels_last(np.zeros((5, 3, 8, 9), np.uint8)).shape
    (5, 8, 9, 3)
    """
    if images.dtype != np.uint8:
        hint = " HINT: multiply by 255 and round." if images.dtype.kind == "f" else ""
        raise ValueError(f"images are {images.dtype}, expected uint8 from 0 to 255.{hint}")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise ValueError(
        f"images have the shape {images.shape}, expected (n, height, width), (n, height, width, 1 or 3) or"
        " (n, 1 or 3, height, width)."
    )


def one_column(values: np.ndarray) -> np.ndarray:
    """View ``(n, 1)`` as ``(n,)``."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _check_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as int64, ``(n,)``; raise ValueError unless they are integers from 0 on."""
    labels = one_column(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        lowest = f", from {labels.min()} on" if labels.size and labels.dtype.kind in "iuf" else ""
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}{lowest}, expected integers from 0 on, of shape (n,) or"
            " (n, 1)."
        )
    return labels.astype(np.int64)


def _open_dataset(domain: ArrayDomain, root: Path, arguments: dict[str, Any]) -> SourceSplit:
    """Open one split of a torchvision dataset; nothing is downloaded."""
    folder, name = root / str(domain.path), str(domain.dataset)
    dataset_class = _import(name)
    try:
        dataset = dataset_class(root=folder, **arguments)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{name} does not find its files in {folder} ({error}). HINT: `path` is the folder that the class calls its"
            " root; put the files there as torchvision does, nothing is downloaded."
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} does not take the arguments {arguments} ({error}). HINT: set the domain's `train_args` and"
            " `test_args`."
        ) from error
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if labels is None:
        labels = [dataset[position][1] for position in range(len(dataset))]

    def images(positions: np.ndarray) -> list[np.ndarray]:
        with about(name):
            return [_pixels(dataset[int(position)][0]) for position in positions]

    return SourceSplit(_check_labels(np.asarray(labels)), images)


def _import(name: str) -> Callable[..., Any]:
    try:
        dataset_class: Callable[..., Any] = pkgutil.resolve_name(name)
        return dataset_class
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`dataset: {name}` cannot be imported ({error}). HINT: give the full dotted path, such as"
            " torchvision.datasets.MNIST."
        ) from error


def _pixels(image: Any) -> np.ndarray:
    """Turn a PIL image into an array ``(height, width, 1 or 3)``."""
    if not isinstance(image, Image):
        raise ValueError(f"the dataset gives {type(image).__name__}, expected PIL images.")
    if image.mode in ("F", "I", "I;16"):
        raise ValueError(f"images are of PIL's mode {image.mode}, expected 8 bits a channel.")
    array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB"))
    return array[..., None] if array.ndim == 2 else array
