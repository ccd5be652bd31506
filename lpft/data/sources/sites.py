"""Your own sites: one folder of image files per site."""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lpft.data.messages import about, shortened
from lpft.data.sources.base import FileSource, categories
from lpft.data.sources.foreign import foreign_in
from lpft.data.sources.image_files import EXTENSIONS
from lpft.data.sources.listed import LEFT_BEHIND, locate
from lpft.data.sources.names import check_known, check_spellings, checked_classes, composed, in_order, read_classes
from lpft.data.sources.tables import read_lines
from lpft.data.splits import SPLITS, GivenSplits, Split
from lpft.storage.run import check_client_names

LABELS = "labels.csv"

EXPECTED = (
    f"Expected ROOT/SITE/CLASS/IMAGE, or ROOT/SITE/train/CLASS/IMAGE (and val, test), or ROOT/SITE/{LABELS} with"
    " the columns file and label (and, if need be, split and group)."
)


class File(NamedTuple):
    """An image file: path relative to the root, names of its class and, if any, its group."""

    file: str
    label: str
    split: Split
    group: str | None = None


@dataclass
class Site:
    """Content of a site's folder: image files, splits and classes, including empty ones, and other files.

    Files without a split are all in ``train``; missing splits are split off later.
    """

    name: str
    files: list[File] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    ignored: list[str] = field(default_factory=list)


class Sites(FileSource):
    """Image files in one folder per site (domain), which is named after it.

    A site's folder has one of three forms::

        ROOT/SITE/CLASS/IMAGE             all its images by class
        ROOT/SITE/train/CLASS/IMAGE       its own split; val and test are optional
        ROOT/SITE/labels.csv              columns: file, label, and if need be split (train, val, test) and group

    Images may be of any size, depth and colour (see `lpft.data.sources.image_files.EXTENSIONS` for endings, in upper or
    lower case), and links. Names that start with a dot are ignored. The classes are those of all sites together,
    including folders without images. A missing test or val set is split off a site's training images; an empty folder
    makes an empty set.

    Args:
        root: folder that holds the sites' folders.
        classes: names of the classes in the order of the model's outputs, or a text file in `root` with one per line.
            By default the names of the folders, sorted, as numbers if all are.
        sites: the sites to use; by default all.
    """

    draws = "folder"

    def __init__(self, root: str, classes: list[str] | str | None = None, sites: list[str] | None = None) -> None:
        super().__init__(root)
        self.classes, self.sites = classes, sites

    @functools.cached_property
    def _sites(self) -> list[Site]:
        sites = read_sites(self.root, self.sites)
        check_client_names(site.name for site in sites)
        return sites

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes, in the order of the labels."""
        if isinstance(self.classes, str):
            return read_classes(self.root / self.classes)
        if self.classes is not None:
            return checked_classes(self.classes, "`classes`")
        return classes_of(self._sites)

    @property
    def imagefolder_order(self) -> tuple[str, ...] | None:
        """The classes in the order of torchvision's ImageFolder, if it differs and `classes` is not set."""
        order = tuple(sorted(self.class_names))
        return order if self.classes is None and order != self.class_names else None

    def table(self) -> pd.DataFrame:
        """List the images in all folders."""
        for site in self._sites:
            subject, hint = f"Site {site.name!r} has the classes", "remove the site's images of them"
            check_known(subject, sorted(site.classes), self.class_names, hint)
        rows = [(*file, site.name) for site in self._sites for file in site.files]
        table = pd.DataFrame(rows, columns=[*File._fields, "domain"], dtype=object)
        labels = {name: label for label, name in enumerate(self.class_names)}
        return table.assign(
            label=table["label"].map(labels).astype("int64"),
            domain=categories(table["domain"], [site.name for site in self._sites]),
            group=categories(table["group"], in_order(table["group"].dropna())),
        )

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return the splits of the sites, including those with an empty folder."""
        return {site.name: site.splits for site in self._sites}

    def ignored_files(self) -> Sequence[str]:
        """Return files in class folders without the ending of an image file."""
        return [name for site in self._sites for name in site.ignored]

    def settings(self) -> dict[str, object]:
        """Return class and settings, and the names of the classes."""
        return {**super().settings(), "classes": list(self.class_names)}


def read_sites(root: Path, names: list[str] | None = None) -> list[Site]:
    """List the content of the sites' folders, of all or of those named, sorted; no image is opened.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it is empty or has another form.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root.absolute()}. {EXPECTED} HINT: set it with `--data.source.root`."
        )
    inside = Listing.of(root)
    conversion = foreign_in(root)
    if conversion and not inside.images and set(map(str.lower, inside.folders)) <= {*SPLITS, "rawdata"}:
        raise ValueError(conversion)
    folders = {composed(name): name for name in inside.folders}
    if (root / LABELS).is_file() or set(map(str.lower, folders)) <= set(SPLITS):
        raise wrong(root, inside, "`root` must contain one folder per site; move its contents into such a folder")
    chosen = list(folders) if names is None else [composed(name) for name in names]
    missing = [name for name in chosen if name not in folders]
    if missing or not chosen:
        raise ValueError(
            f"`sites`: {root} has no folders {', '.join(map(repr, missing))}, found {shortened(list(folders), 20)}."
        )
    sites = [_read_site(root, name, folders[name]) for name in chosen]
    if not any(site.files for site in sites):
        ignored = [name for site in sites for name in site.ignored]
        content = f"{len(sites)} folders without images" + (f", but {shortened(ignored)}" if ignored else "")
        raise wrong(root, content, f"image files end in {', '.join(EXTENSIONS)}")
    return sites


def classes_of(sites: Iterable[Site]) -> tuple[str, ...]:
    """Return the names of all sites' classes in their order.

    Raises:
        ValueError: if there is only one, or two differ only in case.
    """
    site_of_class = {name: site.name for site in sites for name in sorted(site.classes)}
    if len(site_of_class) == 1:
        raise ValueError(
            f"All images are of one class, {next(iter(site_of_class))!r}. {EXPECTED}"
            " HINT: is this the folder of a class?"
        )
    check_spellings({name: f"{name!r} (site {site!r})" for name, site in site_of_class.items()})
    return in_order(site_of_class)


class Listing(NamedTuple):
    """Names in a folder, sorted, without hidden ones."""

    folders: list[str]
    images: list[str]
    others: list[str]

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """List a folder and follow links."""
        listing = cls([], [], [])
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name in LEFT_BEHIND:
                    continue
                linked = entry.is_symlink()
                image = entry.name.lower().endswith(EXTENSIONS) and (linked or entry.is_file())
                is_folder = Path(entry.path).is_dir() if linked else entry.is_dir()  # false of a link to itself
                kind = listing.folders if is_folder else listing.images if image else listing.others
                kind.append(entry.name)
        return listing

    def __str__(self) -> str:
        kinds = zip(("folders", "images", "other files"), self, strict=True)
        return ", ".join(f"{len(names)} {kind} ({shortened(names, 4)})" for kind, names in kinds if names) or "nothing"


def wrong(where: Path, content: object, hint: str) -> ValueError:
    """Return the error for a folder of another form."""
    return ValueError(f"{where}: found {content}. {EXPECTED} HINT: {hint}.")


def _read_site(root: Path, name: str, folder: str) -> Site:
    site = Site(name)
    if (root / folder / LABELS).is_file():
        _read_labels(root, folder, site)
        return site
    inside = Listing.of(root / folder)
    named = [name for name in inside.folders if name.lower() in SPLITS]
    splits = [name for name in named if not Listing.of(root / folder / name).images]
    if splits and splits != inside.folders:
        hint = f"beside {', '.join(splits)} there can be no other folder than train, val and test; rename or remove it"
        raise wrong(root / folder, inside, hint)
    if named and named == inside.folders and not splits:
        raise wrong(root / folder, inside, "they contain images; move these into folders named after their classes")
    if not splits:
        _read_classes(root, folder, "train", site)
    for name in splits:
        split = next(split for split in SPLITS if split == name.lower())
        _read_classes(root, posixpath.join(folder, name), split, site)
    return site


def _read_classes(root: Path, path: str, split: Split, site: Site) -> None:
    """Add the images in a folder of class folders to a site."""
    inside = Listing.of(root / path)
    if inside.images:
        hint = (
            f"put images in folders named after their classes, or list them in {LABELS};"
            " if this folder is a class and no site, `root` is too deep"
        )
        raise wrong(root / path, inside, hint)
    site.splits.add(split)
    for folder in inside.folders:
        label, below = composed(folder), posixpath.join(path, folder)
        files = Listing.of(root / below)
        if files.folders:
            hint = "there can be no folder in a class's folder; if this is a site's, set `root` to the folder above it"
            raise wrong(root / below, files, hint)
        site.classes.add(label)
        site.ignored.extend(posixpath.join(below, name) for name in files.others)
        site.files.extend(File(posixpath.join(below, name), label, split) for name in files.images)


def _read_labels(root: Path, folder: str, site: Site) -> None:
    """Add the images listed in a site's ``labels.csv`` to it."""
    path = root / folder / LABELS
    lines = read_lines(path)
    header = next(lines, (1, []))[1]
    columns = [column.lower() for column in header]
    if not {"file", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise ValueError(
            f"{path} starts with {','.join(header)[:80]!r}. Expected the names of the columns: file,label and, if need"
            " be, split and group, each once. HINT: name them so in the first line, or add that line if there is none."
        )
    first_line: dict[str, int] = {}
    rows = [(number, dict.fromkeys(columns, "") | dict(zip(columns, values, strict=False))) for number, values in lines]
    with about(str(path)):
        located = locate([row["file"] for _, row in rows], [path.parent])
    for (number, row), file in zip(rows, located.files, strict=True):
        missing = [column for column in ("file", "label", "split") if row.get(column) == ""]
        split = next((split for split in SPLITS if split == row.get("split", "train").lower()), None)
        problem = ""
        if missing:
            problem = f"there is no {' and no '.join(missing)}"
        elif split is None:
            problem = f"the split {row['split']!r} is not one of {', '.join(SPLITS)}"
        elif first_line.setdefault(file, number) != number:
            problem = f"the file {row['file']!r} stands in line {first_line[file]} already. HINT: list every file once"
        if problem or split is None:
            raise ValueError(f"{path}, line {number}: {problem}.")
        label, group = composed(row["label"]), composed(row.get("group", "")) or None
        site.files.append(File(posixpath.join(folder, file), label, split, group))
        site.classes.add(label)
        site.splits.add(split)
