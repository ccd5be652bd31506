"""An experiment on your own images, fitted to the folder that holds them."""

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
"""Sides that images are resized to; a CPU trains the template's network on them."""
LOOKED_AT = 200
"""How many image files are opened."""
COHORT = 20
"""Clients in a round, where there are more."""
ARRAYS = ("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images", "labels"), ("x", "y")
"""Names of images and labels in `.npz` files: those of `ArrayDomain`, MedMNIST's, and those of files of one part."""


class Located(NamedTuple):
    """A source that reads a folder, and its settings in YAML."""

    source: Source
    init_args: Mapping[str, Any]
    what: str


@dataclass
class Fitted:
    """What was found in a folder and what follows from it; the names of the template.

    Args:
        folder: the folder, as it was given.
        what: what its form is called.
        class_path, init_args: the source that reads it.
        counts: images of every domain, by split (``""`` where there is none), in the order of the domains.
        classes: names of the classes, in order; may be empty for files that do not name them.
        num_classes: how many there are.
        sides: the lowest, the middle and the highest of the shorter sides of the images that were opened.
        opened: how many were opened.
        unreadable: path and reason of those that could not be.
        deep: how many of them have more than 8 bits a channel.
        channels: 1 if all are grey, else 3.
    """

    folder: str
    what: str
    class_path: str
    init_args: Mapping[str, Any]
    counts: dict[str, dict[str, int]]
    classes: tuple[str, ...]
    num_classes: int
    sides: tuple[int, int, int]
    opened: int
    channels: int
    unreadable: list[str] = field(default_factory=list)
    deep: int = 0

    @property
    def num_images(self) -> int:
        """Images of all domains."""
        return sum(sum(parts.values()) for parts in self.counts.values())

    @property
    def cut(self) -> bool:
        """Whether test or val parts are cut from training images somewhere."""
        return any(not {"val", "test"} <= parts.keys() for parts in self.counts.values())

    @property
    def image_size(self) -> int:
        """The largest of `SIZES` that is not above the middle shorter side."""
        return max((size for size in SIZES if size <= self.sides[1]), default=SIZES[0])

    @property
    def num_clients(self) -> int | None:
        """Clients that a single site is dealt to: one for 80 images to train on, 2 to 10."""
        return min(10, max(2, self._train(next(iter(self.counts))) // 80)) if len(self.counts) == 1 else None

    @property
    def min_samples(self) -> int:
        """Least images of such a client."""
        parts = next(iter(self.counts.values()))
        dealt = sum(number for split, number in parts.items() if split not in ("val", "test"))
        return min(40, dealt // (2 * (self.num_clients or 1)))

    @property
    def smallest(self) -> int:
        """Images that the smallest client trains on, about; domains without images are left out."""
        trained = [self._train(name) for name, parts in self.counts.items() if sum(parts.values())]
        return self.min_samples if self.num_clients else min(trained)

    @property
    def batch_size(self) -> int:
        """A power of 2, at most 32 and at most what the smallest client trains on."""
        return 2 ** min(5, max(1, int(math.log2(max(2, self.smallest)))))

    @property
    def participation(self) -> float:
        """Share of the clients in a round."""
        clients = len(self.counts)
        return 1.0 if clients <= COHORT else math.ceil(100 * COHORT / clients) / 100

    def _train(self, domain: str) -> int:
        """Images that a domain trains on, after a quarter to test on and a tenth to choose by where it has no such."""
        parts = dict(self.counts[domain])
        train = parts.get("train", 0) + parts.get("", 0)
        return int(train * (1 if "test" in parts else 0.75) * (1 if "val" in parts else 0.9))


def fitted_experiment(folder: Path, to: Path) -> tuple[dict[Path, str], str]:
    """Return the file to write for a folder of images, with its text, and what to do next; for the errors see `fit`.

    Args:
        folder: your images.
        to: folder of the file.
    """
    path = to / "own_sites.yaml"
    command = printable(shlex.quote(path.as_posix()))
    return {path: render(fit(folder), command)}, f"Next: lpft prepare -c {command}, then lpft run -c {command}"


def fit(folder: Path) -> Fitted:
    """Look through a folder of images, and open some of them.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if no source reads what is in it; it says what was found and what is expected.
    """
    composed(str(folder))
    source, init_args, what = locate(folder)
    table = source.cached_table
    if table.empty:
        raise ValueError(f"There are no images in {folder}.")
    fitted = Fitted(
        folder=str(folder),
        what=what,
        class_path=f"lpft.data.sources.{type(source).__name__}",
        init_args=init_args,
        counts=_counts(source, table),
        classes=tuple(source.class_names),
        num_classes=source.num_classes or int(table["label"].max()) + 1,
        **_look_at(source, table),
    )
    if fitted.num_clients and fitted.min_samples < 2:
        raise ValueError(f"{folder} has one site with {fitted.num_images} images, too few to deal them to clients.")
    return fitted


def locate(folder: Path) -> Located:
    """Choose the source that reads a folder, by what is in it; for the errors see `fit`."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file. HINT: show the folder that holds one folder for each site.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    kinds: tuple[Lists, ...] = ("txt", "pkl")
    for kind in kinds:
        if any(folder.glob(f"*_train.{kind}")) or any(folder.glob(f"splits/*_train.{kind}")):
            what = f"domains with lists, DOMAIN_train.{kind} and DOMAIN_test.{kind}"
            return Located(Domains(str(folder), lists=kind), {"root": str(folder), "lists": kind}, what)
    inside = Listing.of(folder)
    if not inside.folders and not (folder / LABELS).is_file():
        return _arrays(folder, inside)
    sites = Sites(str(folder))
    try:
        domains = sites.cached_table["domain"].cat.categories
    except ValueError as error:
        try:
            return _single_site(folder)
        except ValueError:
            raise error from None
    if len(domains) == 1:
        return _single_site(folder / inside.folders[0])
    return Located(sites, {"root": str(folder)}, "a folder for each site")


def render(fitted: Fitted, command: str) -> str:
    """Write the experiment as YAML with comments.

    Args:
        fitted: what was found.
        command: the file's name as the user types it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"yaml": lambda value: json.dumps(value, ensure_ascii=False), "shown": printable}
    return environment.get_template("own_sites.yaml.jinja").render(f=fitted, command=command)


def _single_site(folder: Path) -> Located:
    """Read a folder of class folders, with a split of its own or with a list of files."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    source = Sites(str(folder.parent), sites=[folder.name])
    source.cached_table  # noqa: B018 (raises if it is none)
    return Located(source, {"root": str(folder.parent), "sites": [folder.name]}, "one site")


def _arrays(folder: Path, inside: Listing) -> Located:
    """Read the ``.npz`` files of a folder, each a domain."""
    if of_others := foreign_in(folder):
        raise ValueError(of_others)
    files = [name for name in inside.others if name.endswith(".npz")]
    tables = [name for name in inside.others if name.endswith(ENDINGS) and name not in files]
    if tables:
        raise ValueError(
            f"{folder} holds tables, {shortened(tables)}, and no images. HINT: for rows of features take `lpft init"
            " breast_cancer`, and in its section `data` the source lpft.data.sources.FeatureArrays with"
            f" `path: {folder}` and `label: COLUMN`."
        )
    if not files:
        raise wrong(folder, inside, "show the folder that holds one folder for each site")
    domains = {name.removesuffix(".npz"): {"path": name, **_array_names(folder / name)} for name in files}
    built = {name: ArrayDomain(**settings) for name, settings in domains.items()}  # type: ignore[arg-type]
    return Located(
        Arrays(built, str(folder)), {"root": str(folder), "domains": domains}, "a file of arrays for each site"
    )


def _array_names(path: Path) -> dict[str, str]:
    """Return the names of the arrays in a file, as `ArrayDomain` takes them."""
    with about(str(path)):
        check_content(path)
        with np.load(path) as file:
            held = set(file.files)
    for names in ARRAYS:
        named = {
            f"{axis}_{split}": name.format(split) for split in SPLITS for axis, name in zip("xy", names, strict=True)
        }
        if named["x_train"] in held:
            return {key: name for key, name in named.items() if name in held and ("{}" in names[0] or "train" in key)}
    raise ValueError(
        f"{path} holds {shortened(sorted(held))}. Expected images and labels: x_train, y_train and, if there is a test"
        " part, x_test and y_test. HINT: `lpft.data.sources.Arrays` takes arrays of any name."
    )


def _counts(source: Source, table: pd.DataFrame) -> dict[str, dict[str, int]]:
    given = source.given_splits(table)
    splits = table["split"].where(table["split"].isin(SPLITS), "") if "split" in table else pd.Series("", table.index)
    counts: dict[str, dict[str, int]] = {}
    for domain in table["domain"].cat.categories:
        rows = splits[table["domain"] == domain].value_counts()
        named = [split for split in SPLITS if split in given.get(domain, ())]
        counts[domain] = {split: int(rows.get(split, 0)) for split in ("", *SPLITS) if split in named or split in rows}
    return counts


def _look_at(source: Source, table: pd.DataFrame) -> dict[str, Any]:
    """Open some images, evenly over all: sizes, and whether they are grey."""
    positions = np.unique(np.linspace(0, len(table) - 1, min(len(table), LOOKED_AT)).astype(int))
    if not isinstance(source, FileSource):
        shapes = [image.shape for image in source.images(positions)]
        sides, grey = [min(shape[:2]) for shape in shapes], [shape[2] == 1 for shape in shapes]
        return {**_sizes(sides), "channels": 1 if all(grey) else 3}
    sides, grey, deep, unreadable = [], [], 0, []
    for name in table["file"].to_numpy(object)[positions]:
        path = source.folder / name
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
                grey.append(image.mode in ("1", "L", "LA") or image.mode[0] in "IF")
                deep += image.mode[0] in "IF"
        except Exception as error:  # decoders raise errors of any kind
            unreadable.append(
                f"{path} ({reason(path, error)})" if path.is_file() else f"{path} (there is no such file)"
            )
    if not sides:
        raise ValueError(
            f"None of the {len(unreadable)} images that were tried can be read: {shortened(unreadable, 2)}."
        )
    return {**_sizes(sides), "channels": 1 if all(grey) else 3, "deep": deep, "unreadable": unreadable}


def _sizes(sides: list[int]) -> dict[str, Any]:
    return {"sides": (min(sides), int(np.median(sides)), max(sides)), "opened": len(sides)}
