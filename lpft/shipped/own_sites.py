"""An experiment on your own images, fitted to the folder that contains them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lpft.data.messages import about, printable, shortened
from lpft.data.sources.array_files import ArrayDomain
from lpft.data.sources.arrays import Arrays
from lpft.data.sources.base import FileSource, Source
from lpft.data.sources.domains import Domains, Lists
from lpft.data.sources.feature_files import ENDINGS
from lpft.data.sources.foreign import foreign_in
from lpft.data.sources.image_files import reason
from lpft.data.sources.names import composed
from lpft.data.sources.sites import LABELS, Listing, Sites, wrong
from lpft.data.splits import SPLITS
from lpft.storage.file_checks import check_content

SIZES = (16, 28, 32, 48, 64)
"""Image sizes to choose from; a CPU can train the template's network on them."""
NUM_OPENED = 200
"""Maximum number of image files to open."""
COHORT = 20
"""Maximum number of clients in a round."""
ARRAYS = ("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images", "labels"), ("x", "y")
"""Names of images and labels in `.npz` files: those of `ArrayDomain`, of MedMNIST, and of files without splits."""


class Located(NamedTuple):
    """The source that reads a folder.

    Args:
        source: the source.
        init_args: its settings in YAML.
        layout: description of the folder's layout.
    """

    source: Source
    init_args: Mapping[str, Any]
    layout: str


@dataclass
class Fitted:
    """The content of a folder and the settings that follow from it: the variables of the template.

    Args:
        folder: the folder, as the user named it.
        layout: description of its layout.
        class_path: class of the source that reads it.
        init_args: settings of the source.
        counts: number of images by domain and split (``""`` if the source assigns none), in the order of the domains.
        classes: names of the classes, in order; empty if the files do not contain names.
        num_classes: number of classes.
        sides: minimum, median and maximum of the shorter sides of the opened images, in pixels.
        num_opened: number of opened images.
        channels: 1 if all opened images are grey, else 3.
        unreadable: path and error of images that could not be opened.
        num_deep: number of opened images with more than 8 bits per channel.
    """

    folder: str
    layout: str
    class_path: str
    init_args: Mapping[str, Any]
    counts: dict[str, dict[str, int]]
    classes: tuple[str, ...]
    num_classes: int
    sides: tuple[int, int, int]
    num_opened: int
    channels: int
    unreadable: list[str] = field(default_factory=list)
    num_deep: int = 0

    @property
    def num_images(self) -> int:
        """Number of images of all domains."""
        return sum(sum(parts.values()) for parts in self.counts.values())

    @property
    def splits_train(self) -> bool:
        """Whether test or validation samples of a domain are split off its training images."""
        return any(not {"val", "test"} <= parts.keys() for parts in self.counts.values())

    @property
    def image_size(self) -> int:
        """The largest of `SIZES` that is not above the median of the shorter sides."""
        return max((size for size in SIZES if size <= self.sides[1]), default=SIZES[0])

    @property
    def num_clients(self) -> int | None:
        """Number of clients that share a single site: one per 80 training images, 2 to 10; None for several sites."""
        return min(10, max(2, self._num_train(next(iter(self.counts))) // 80)) if len(self.counts) == 1 else None

    @property
    def min_samples(self) -> int:
        """Minimum number of images of a client that shares a single site."""
        parts = next(iter(self.counts.values()))
        num_shared = sum(number for split, number in parts.items() if split not in ("val", "test"))
        return min(40, num_shared // (2 * (self.num_clients or 1)))

    @property
    def smallest_train(self) -> int:
        """Approximate number of training images of the smallest client; domains without images do not count."""
        trained = [self._num_train(name) for name, parts in self.counts.items() if sum(parts.values())]
        return self.min_samples if self.num_clients else min(trained)

    @property
    def batch_size(self) -> int:
        """A power of 2, at most 32 and at most the training images of the smallest client."""
        return 2 ** min(5, max(1, int(math.log2(max(2, self.smallest_train)))))

    @property
    def participation(self) -> float:
        """Share of the clients in a round."""
        clients = len(self.counts)
        return 1.0 if clients <= COHORT else math.ceil(100 * COHORT / clients) / 100

    def _num_train(self, domain: str) -> int:
        """Number of training images of a domain, less a quarter and a tenth if it has no test and validation parts."""
        parts = dict(self.counts[domain])
        train = parts.get("train", 0) + parts.get("", 0)
        return int(train * (1 if "test" in parts else 0.75) * (1 if "val" in parts else 0.9))


def fitted_experiment(folder: Path, to: Path) -> tuple[dict[Path, str], str]:
    """Return the experiment for a folder of images, as text by path, and the next steps; for errors see `fit`.

    Args:
        folder: folder of your images.
        to: folder of the experiment.
    """
    path = to / "own_sites.yaml"
    command = printable(shlex.quote(path.as_posix()))
    return {path: render(fit(folder), command)}, f"Next: lpft prepare -c {command}, then lpft run -c {command}"


def fit(folder: Path) -> Fitted:
    """Scan a folder of images, and open some of them.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if no source can read the folder; the message describes its content and the expected layout.
    """
    composed(str(folder))
    source, init_args, layout = locate(folder)
    table = source.cached_table
    fitted = Fitted(
        folder=str(folder),
        layout=layout,
        class_path=f"lpft.data.sources.{type(source).__name__}",
        init_args=init_args,
        counts=_counts(source, table),
        classes=tuple(source.class_names),
        num_classes=source.count_classes(),
        **_open_some(source, table),
    )
    if fitted.num_clients and fitted.min_samples < 2:
        raise ValueError(f"{folder} has one site with {fitted.num_images} images, too few to split between clients.")
    return fitted


def locate(folder: Path) -> Located:
    """Choose the source that reads a folder by the folder's content; for errors see `fit`."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file. HINT: name the folder that contains one folder for each site.")
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist.")
    kinds: tuple[Lists, ...] = ("txt", "pkl")
    for kind in kinds:
        if any(folder.glob(f"*_train.{kind}")) or any(folder.glob(f"splits/*_train.{kind}")):
            layout = f"domains with lists, DOMAIN_train.{kind} and DOMAIN_test.{kind}"
            return Located(Domains(str(folder), lists=kind), {"root": str(folder), "lists": kind}, layout)
    listing = Listing.of(folder)
    if not listing.folders and not (folder / LABELS).is_file():
        return _arrays(folder, listing)
    sites = Sites(str(folder))
    try:
        domains = sites.cached_table["domain"].cat.categories
    except ValueError as error:
        try:
            return _single_site(folder)
        except ValueError:
            raise error from None
    if len(domains) == 1:
        return _single_site(folder / listing.folders[0])
    return Located(sites, {"root": str(folder)}, "a folder for each site")


def render(fitted: Fitted, command: str) -> str:
    """Return the experiment as YAML with comments.

    Args:
        fitted: variables of the template.
        command: the path of the file as the user types it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"yaml": lambda value: json.dumps(value, ensure_ascii=False), "shown": printable}
    return environment.get_template("own_sites.yaml.jinja").render(f=fitted, command=command)


def _single_site(folder: Path) -> Located:
    """Return the source of a single site: a folder with class folders, with splits, or with a list of files."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    source = Sites(str(folder.parent), sites=[folder.name])
    source.cached_table  # noqa: B018 (raises ValueError if the folder is not a site)
    return Located(source, {"root": str(folder.parent), "sites": [folder.name]}, "one site")


def _arrays(folder: Path, listing: Listing) -> Located:
    """Return the source of a folder of ``.npz`` files, each of them a domain."""
    if problem := foreign_in(folder):
        raise ValueError(problem)
    files = [name for name in listing.others if name.endswith(".npz")]
    tables = [name for name in listing.others if name.endswith(ENDINGS) and name not in files]
    if tables:
        raise ValueError(
            f"{folder} contains tables, {shortened(tables)}, and no images. HINT: for rows of features start from `lpft"
            " init breast_cancer`, and in its section `data` use the source lpft.data.sources.FeatureArrays with"
            f" `path: {folder}` and `label: COLUMN`."
        )
    if not files:
        raise wrong(folder, listing, "name the folder that contains one folder for each site")
    domains = {name.removesuffix(".npz"): {"path": name, **_array_names(folder / name)} for name in files}
    built = {name: ArrayDomain(**settings) for name, settings in domains.items()}  # type: ignore[arg-type]
    return Located(
        Arrays(built, str(folder)), {"root": str(folder), "domains": domains}, "a file of arrays for each site"
    )


def _array_names(path: Path) -> dict[str, str]:
    """Return the names of the arrays in a file as arguments of `ArrayDomain`."""
    with about(str(path)):
        check_content(path)
        with np.load(path) as file:
            arrays = set(file.files)
    for names in ARRAYS:
        arguments = {
            f"{axis}_{split}": name.format(split) for split in SPLITS for axis, name in zip("xy", names, strict=True)
        }
        if arguments["x_train"] in arrays:
            has_splits = "{}" in names[0]
            return {key: name for key, name in arguments.items() if name in arrays and (has_splits or "train" in key)}
    raise ValueError(
        f"{path} contains {shortened(sorted(arrays))}. Expected images and labels: x_train, y_train and, if there is a"
        " test part, x_test and y_test. HINT: `lpft.data.sources.Arrays` accepts arrays of any name."
    )


def _counts(source: Source, table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the number of images by domain and split."""
    source_splits = source.given_splits(table)
    splits = table["split"].where(table["split"].isin(SPLITS), "") if "split" in table else pd.Series("", table.index)
    counts: dict[str, dict[str, int]] = {}
    for domain in table["domain"].cat.categories:
        rows = splits[table["domain"] == domain].value_counts()
        fixed = [split for split in SPLITS if split in source_splits.get(domain, ())]
        counts[domain] = {split: int(rows.get(split, 0)) for split in ("", *SPLITS) if split in fixed or split in rows}
    return counts


def _open_some(source: Source, table: pd.DataFrame) -> dict[str, Any]:
    """Open up to `NUM_OPENED` images, evenly spaced; return the fields of `Fitted` that describe them."""
    positions = np.unique(np.linspace(0, len(table) - 1, min(len(table), NUM_OPENED)).astype(int))
    if not isinstance(source, FileSource):
        shapes = [image.shape for image in source.images(positions)]
        sides, grey = [min(shape[:2]) for shape in shapes], [shape[2] == 1 for shape in shapes]
        return {**_sizes(sides), "channels": 1 if all(grey) else 3}
    sides, grey, num_deep, unreadable = [], [], 0, []
    for name in table["file"].to_numpy(object)[positions]:
        path = source.folder / name
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
                grey.append(image.mode in ("1", "L", "LA") or image.mode[0] in "IF")
                num_deep += image.mode[0] in "IF"
        except Exception as error:  # decoders raise errors of any kind
            unreadable.append(f"{path} ({reason(path, error)})" if path.is_file() else f"{path} (does not exist)")
    if not sides:
        raise ValueError(f"None of the {len(unreadable)} opened images can be read: {shortened(unreadable, 2)}.")
    return {**_sizes(sides), "channels": 1 if all(grey) else 3, "num_deep": num_deep, "unreadable": unreadable}


def _sizes(sides: list[int]) -> dict[str, Any]:
    return {"sides": (min(sides), int(np.median(sides)), max(sides)), "num_opened": len(sides)}
