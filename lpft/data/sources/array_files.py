"""Array files and torchvision datasets, read part by part."""

from __future__ import annotations

import importlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image


class SourceSplit(NamedTuple):
    """One part of what a source holds, such as its test set.

    Args:
        labels: int64, ``(n,)``.
        images: returns the images at given positions as stored: uint8, one array ``(m, height, width, 1 or 3)`` or a
            list of ``(height, width, 1 or 3)``.
    """

    labels: np.ndarray
    images: Callable[[np.ndarray], np.ndarray | list[np.ndarray]]


@dataclass
class ArrayDomain:
    """Where the images of one domain come from.

    Either array files or a torchvision dataset (`dataset`). An array is named by its key in the ``.npz`` file `path`,
    or, if the name ends in ``.npy``, by its file. Images are uint8, grey ``(n, height, width)`` or grey or RGB with
    channels last or first; labels are integers ``(n,)`` or ``(n, 1)``. Nothing is unpickled, nothing is downloaded.

    Args:
        path: the ``.npz`` file, or the folder that a torchvision dataset calls its root; relative to `root`.
        dataset: dotted path of a torchvision dataset class, such as ``torchvision.datasets.MNIST``.
        x_train: training images.
        y_train: their labels.
        x_test: test images; if neither these nor `y_test` are there, a part of the training images is tested on.
        y_test: their labels.
        x_val: images for choices; by default a part of the training images is for them.
        y_val: their labels.
        train_args: arguments of the torchvision class (besides ``root``) for the training part.
        test_args: the same for the test part; null if there is none.
        group: array with the group (writer, site) of every training image: every group becomes a domain, with a train,
            val and test part of its own training images. The other parts, being of other groups, are left out.
        group_file: ``.npz`` file of `group`, if that is not `path`; relative to `root`.
        invert: take the negative of every image.
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

    def __post_init__(self) -> None:
        """Check what belongs together."""
        for name in ("path", "dataset", "x_test", "y_test", "x_val", "y_val", "group", "group_file"):
            if getattr(self, name) == "None":  # so jsonargparse passes on a null of the command line
                setattr(self, name, None)
        arrays = [self.x_train, self.y_train, self.x_test, self.y_test, self.x_val, self.y_val]
        if self.path is None and (self.dataset or any(name and not name.endswith(".npy") for name in arrays)):
            needed = f"`dataset: {self.dataset}`" if self.dataset else f"the arrays {', '.join(map(str, arrays))}"
            raise ValueError(
                f"A domain has no `path`, which {needed} must be read from."
                " HINT: give the `.npz` file or the dataset's folder as `path`, or name `.npy` files for all four"
                " (`x_test: null` and `y_test: null` if there is no test part)."
            )
        for x, y in (("x_test", "y_test"), ("x_val", "y_val")):
            if (getattr(self, x) is None) != (getattr(self, y) is None):
                raise ValueError(
                    f"A domain has `{x}: {getattr(self, x)}` and `{y}: {getattr(self, y)}`. HINT: give both or none."
                )
        if self.group_file and not self.group:
            raise ValueError(
                f"A domain has `group_file: {self.group_file}` but no `group`, the name of the array in it."
            )


def open_domain(domain: ArrayDomain, files: ArrayFiles, whose: str) -> tuple[SourceSplit, SourceSplit | None]:
    """Open the training part and, if there is one, the test part of a domain; images are read when asked for.

    Args:
        domain: what to open.
        files: reads the arrays.
        whose: start of error messages.

    Raises:
        ValueError: if the domain does not hold what its settings say.
        FileNotFoundError: if a torchvision dataset does not find its files.
    """
    train, test = _open_both(domain, files, whose)
    return (_negative(train), test and _negative(test)) if domain.invert else (train, test)


def open_val(domain: ArrayDomain, files: ArrayFiles, whose: str) -> SourceSplit | None:
    """Open the part for choices, if it names one; see `open_domain`."""
    if domain.x_val is None or domain.y_val is None:
        return None
    val = _open_arrays(domain.path, domain.x_val, domain.y_val, files, whose)
    return _negative(val) if domain.invert else val


def _open_both(domain: ArrayDomain, files: ArrayFiles, whose: str) -> tuple[SourceSplit, SourceSplit | None]:
    if domain.dataset:
        train = _open_dataset(domain, files.root, domain.train_args, whose)
        test = None if domain.test_args is None else _open_dataset(domain, files.root, domain.test_args, whose)
        return train, test
    train = _open_arrays(domain.path, domain.x_train, domain.y_train, files, whose)
    x_test, y_test = domain.x_test, domain.y_test
    if x_test and y_test and (files.has(domain.path, x_test, whose) or files.has(domain.path, y_test, whose)):
        return train, _open_arrays(domain.path, x_test, y_test, files, whose)
    return train, None


def _negative(part: SourceSplit) -> SourceSplit:
    read = part.images

    def images(positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        stored = read(positions)
        return [255 - image for image in stored] if isinstance(stored, list) else 255 - stored

    return part._replace(images=images)


def read_groups(domain: ArrayDomain, files: ArrayFiles, whose: str, num_images: int) -> np.ndarray:
    """Read the group of every training image, ``(num_images,)``; raise ValueError if that is not what is there."""
    groups = files.read(domain.group_file or domain.path, str(domain.group), whose)
    if groups.ndim == 2 and groups.shape[1] == 1:
        groups = groups[:, 0]
    if groups.shape != (num_images,) or groups.dtype.kind not in "iuU":
        raise ValueError(
            f"{whose}: `group: {domain.group}` is {groups.dtype} of shape {groups.shape}, expected integers or strings"
            f" of shape ({num_images},), one for every training image."
        )
    return groups


def domain_files(domain: ArrayDomain, root: Path) -> list[Path]:
    """Return the files that a domain is read from, sorted; they need not exist."""
    names = {domain.path, domain.group_file}
    if not domain.dataset:
        names |= {domain.x_train, domain.y_train, domain.x_test, domain.y_test}
        names |= {domain.x_val, domain.y_val}
        names = {name for name in names if name and (name.endswith(".npy") or name in (domain.path, domain.group_file))}
    if domain.group and domain.group.endswith(".npy"):
        names.add(domain.group)
    paths = sorted(root / name for name in names if name)
    return [file for path in paths for file in (_dataset_files(path, domain) if path.is_dir() else [path])]


def _dataset_files(folder: Path, domain: ArrayDomain) -> list[Path]:
    """Return all files of a dataset's folder; torchvision's classes name one in it, or it has the class's own name."""
    dataset = str(domain.dataset)
    inner = getattr(_import(dataset, "A domain"), "base_folder", dataset.rpartition(".")[2])
    own = folder / inner if isinstance(inner, str) else folder
    return sorted(path for path in (own if own.is_dir() else folder).rglob("*") if path.is_file())


class ArrayFiles:
    """Reads arrays by name: keys of an ``.npz`` file, or ``.npy`` files. Keeps the array that was read last, only.

    Args:
        root: folder that paths start from.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._last: tuple[str | None, str, np.ndarray] | None = None

    def has(self, path: str | None, name: str, whose: str) -> bool:
        """Say whether there is an array of this name in the ``.npz`` file `path`, or as a file."""
        return (self.root / name).exists() if name.endswith(".npy") else name in self._keys(path, whose)

    def read(self, path: str | None, name: str, whose: str) -> np.ndarray:
        """Return an array; ``.npy`` files are memory-mapped.

        Raises:
            ValueError: if there is no such array or it cannot be read, starting with `whose`.
        """
        if self._last is None or self._last[:2] != (path, name):
            self._last = None  # frees the memory before the next array takes its own
            self._last = (path, name, self._read(path, name, whose))
        return self._last[2]

    def _read(self, path: str | None, name: str, whose: str) -> np.ndarray:
        if name.endswith(".npy"):
            with _readable(self.root / name, whose):
                return np.load(self.root / name, mmap_mode="r", allow_pickle=False)
        keys = self._keys(path, whose)
        if name not in keys:
            raise ValueError(
                f"{whose}: there is no array {name!r} in {self.root / str(path)}, found {', '.join(keys) or 'none'}."
                " HINT: name the domain's arrays as `x_train`, `y_train`, `x_test`, `y_test`, `group`."
            )
        with _readable(self.root / str(path), whose), np.load(self.root / str(path), allow_pickle=False) as file:
            array: np.ndarray = file[name]
        return array

    def _keys(self, path: str | None, whose: str) -> list[str]:
        if path is None or not path.endswith(".npz"):
            raise ValueError(f"{whose}: `path: {path}` is no `.npz` file, so there are no arrays in it to name.")
        with _readable(self.root / path, whose), np.load(self.root / path, allow_pickle=False) as file:
            return list(file.files)


@contextmanager
def _readable(path: Path, whose: str) -> Iterator[None]:
    """Turn what numpy says of a file that it cannot read into one message."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{whose}: {path} cannot be read ({error}). It must be a whole `.npz` or `.npy` file of numbers,"
            " without pickled objects."
        ) from error


def _open_arrays(path: str | None, x_name: str, y_name: str, files: ArrayFiles, whose: str) -> SourceSplit:
    """Open one part of array files."""
    whose = f"{whose}, {x_name} and {y_name}"
    labels = _check_labels(files.read(path, y_name, whose), whose)

    def stored() -> np.ndarray:
        return channels_last(files.read(path, x_name, whose), whose)

    if len(stored()) != len(labels):
        raise ValueError(f"{whose}: there are {len(stored())} images and {len(labels)} labels.")
    return SourceSplit(labels, lambda positions: stored()[positions])


def channels_last(images: np.ndarray, whose: str) -> np.ndarray:
    """View images as ``(n, height, width, 1 or 3)``.

    Args:
        images: uint8, ``(n, height, width)``, ``(n, height, width, 1 or 3)`` or ``(n, 1 or 3, height, width)``.
        whose: start of error messages.

    Raises:
        ValueError: if type or shape is another.

    >>> channels_last(np.zeros((5, 3, 8, 9), np.uint8), "example").shape
    (5, 8, 9, 3)
    """
    hint = " HINT: multiply by 255 and round." if images.dtype.kind == "f" else ""
    if images.dtype != np.uint8:
        raise ValueError(f"{whose}: images are {images.dtype}, expected uint8 from 0 to 255.{hint}")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise ValueError(
        f"{whose}: images have the shape {images.shape}, expected (n, height, width), (n, height, width, 1 or 3) or"
        " (n, 1 or 3, height, width)."
    )


def _check_labels(labels: np.ndarray, whose: str) -> np.ndarray:
    """Return labels as int64, ``(n,)``; raise ValueError if they are not classes."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise ValueError(
            f"{whose}: labels are {labels.dtype} of shape {labels.shape}"
            + (f", from {labels.min()} on" if labels.size and labels.dtype.kind in "iuf" else "")
            + ", expected integers from 0 on, of shape (n,) or (n, 1)."
        )
    return labels.astype(np.int64)


def _open_dataset(domain: ArrayDomain, root: Path, arguments: Mapping[str, Any], whose: str) -> SourceSplit:
    """Open one part of a torchvision dataset through its own class; its files are not downloaded."""
    folder, name = root / str(domain.path), str(domain.dataset)
    dataset_class = _import(name, whose)
    try:
        dataset = dataset_class(root=folder, **arguments)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{whose}: {name} does not find its files in {folder} ({error}). HINT: `path` is the folder that the class"
            " calls its root; put the files there as torchvision does, nothing is downloaded."
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{whose}: {name} does not take the arguments {dict(arguments)} ({error}). HINT: set the domain's"
            " `train_args` and `test_args`."
        ) from error

    def images(positions: np.ndarray) -> list[np.ndarray]:
        return [_pixels(dataset[int(position)][0], whose) for position in positions]

    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if labels is None:
        labels = [dataset[position][1] for position in range(len(dataset))]
    return SourceSplit(_check_labels(np.asarray(labels), whose), images)


def _import(name: str, whose: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{whose}: `dataset: {name}` cannot be imported ({error})."
            " HINT: give the full dotted path, such as torchvision.datasets.MNIST."
        ) from error


def _pixels(image: Any, whose: str) -> np.ndarray:
    """Turn a PIL image into an array ``(height, width, 1 or 3)``."""
    if not isinstance(image, Image):
        raise ValueError(f"{whose}: the dataset gives {type(image).__name__}, expected PIL images.")
    if image.mode in ("F", "I", "I;16"):
        raise ValueError(f"{whose}: images are of PIL's mode {image.mode}, expected 8 bits a channel.")
    array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB"))
    return array[..., None] if array.ndim == 2 else array
