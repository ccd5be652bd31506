"""Your own sites: a folder of image files for each."""

from __future__ import annotations

import csv
import functools
import io
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lpft.data.messages import shortened
from lpft.data.sources.base import FileSource, categories
from lpft.data.sources.image_files import EXTENSIONS
from lpft.data.sources.names import checked_classes, composed, in_order, read_classes
from lpft.data.splits import SPLITS, GivenSplits, Split
from lpft.storage.run import check_client_names

LABELS = "labels.csv"
LEFT_BEHIND = ("__MACOSX", "@eaDir", "lost+found", "Thumbs.db", "desktop.ini")
"""What operating systems leave in folders; it is passed over like names that start with a dot."""

EXPECTED = (
    f"Expected ROOT/SITE/CLASS/IMAGE, or ROOT/SITE/train/CLASS/IMAGE (and val, test), or ROOT/SITE/{LABELS} with"
    " the columns file and label (and, if need be, split and group)."
)


class File(NamedTuple):
    """An image file: its path from the root, the names of its class and, if it has one, of its group."""

    name: str
    label: str
    group: str = ""


class Site(NamedTuple):
    """What is found in one site's folder.

    Args:
        name: the site's name.
        parts: files by split. What the site has not split is all in ``train``; a split that is not there is made.
        classes: names of its classes, those without images included.
        ignored: files that are no images by their ending.
    """

    name: str
    parts: dict[Split, list[File]]
    classes: set[str]
    ignored: list[str]


class Sites(FileSource):
    """Image files in one folder for each site (domain), named after it.

    A site's folder has one of three forms::

        ROOT/SITE/CLASS/IMAGE             all its images by class
        ROOT/SITE/train/CLASS/IMAGE       its own split; val and test are optional
        ROOT/SITE/labels.csv              columns: file, label, and if need be split (train, val, test) and group

    Images may be of any size, grey or RGB (see `lpft.data.sources.image_files.EXTENSIONS` for endings, in upper or
    lower case), and links. Names that start with a dot are passed over. The classes are those of all sites together,
    folders without images included. A test or val part that a site does not have is cut from its training images; one
    whose folder is there but empty stays empty.

    Args:
        root: folder that holds the sites' folders.
        classes: names of the classes in the order of the model's outputs, or a text file in `root` with one a line. By
            default the names of the folders, sorted, as numbers if all are.
        sites: the sites that take part; all of them by default.

    Raises:
        ValueError: later, if the folders have another form.
        FileNotFoundError: later, if the folder is not there.
    """

    draws = "folder"

    def __init__(self, root: str, classes: list[str] | str | None = None, sites: list[str] | None = None) -> None:
        self.root, self.classes, self.sites = Path(root).expanduser(), classes, sites

    @property
    def folder(self) -> Path:
        """The folder that holds the sites' folders."""
        return self.root

    @functools.cached_property
    def _found(self) -> list[Site]:
        """What is in the folder, site by site."""
        sites = read_sites(self.root, self.sites)
        check_client_names(site.name for site in sites)
        return sites

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes, those without images included."""
        return len(self.class_names)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes, in the order of the labels."""
        if isinstance(self.classes, str):
            return read_classes(self.root / self.classes)
        if self.classes is not None:
            return checked_classes(self.classes, "`classes`")
        return found_classes(self._found)

    def read_table(self) -> pd.DataFrame:
        """Look through the folders.

        Raises:
            FileNotFoundError: if the folder is not there.
            ValueError: if a site's folder is of another form.
        """
        check_known(self._found, self.class_names)
        labels = {name: label for label, name in enumerate(self.class_names)}
        rows = [
            (file.name, labels[file.label], site.name, split, file.group or None)
            for site in self._found
            for split, files in site.parts.items()
            for file in files
        ]
        table = pd.DataFrame(rows, columns=["file", "label", "domain", "split", "group"])
        groups = in_order(table["group"].dropna())
        return table.assign(
            domain=categories(table["domain"], [site.name for site in self._found]),
            group=categories(table["group"], groups),
        )

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return the splits that sites have, those with an empty folder included."""
        return {site.name: set(site.parts) for site in self._found}

    def ignored_files(self) -> Sequence[str]:
        """Return the files in class folders that are no images by their ending."""
        return [name for site in self._found for name in site.ignored]

    def settings(self) -> dict[str, object]:
        """Return class and settings, and the names of the classes."""
        return {**super().settings(), "classes": list(self.class_names)}


def read_sites(root: Path, names: list[str] | None = None) -> list[Site]:
    """Look through the sites' folders; no image is opened.

    Args:
        root: folder that holds them.
        names: the sites that are wanted, in this order; by default all, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is nothing in it, or what there is has another form.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}. {EXPECTED} HINT: set the folder of your sites with `--data.source.root`."
        )
    inside = Listing.of(root)
    found = {composed(name): name for name in inside.folders}
    if (root / LABELS).is_file() or set(map(str.lower, found)) <= set(SPLITS):
        raise wrong(root, str(inside), "`root` holds one folder for each site; put what it holds now in such a one")
    if names is not None:
        missing = [name for name in names if composed(name) not in found]
        if missing or not names:
            raise ValueError(
                f"`sites`: {root} has no folders {', '.join(map(repr, missing))}, found {shortened(list(found), 20)}."
            )
        found = {composed(name): found[composed(name)] for name in names}
    sites = [_read_site(root, name, folder) for name, folder in found.items()]
    if not any(files for site in sites for files in site.parts.values()):
        ignored = [name for site in sites for name in site.ignored]
        raise wrong(
            root,
            f"{len(sites)} folders without images" + (f", but {shortened(ignored)}" if ignored else ""),
            f"image files end in {', '.join(EXTENSIONS)}",
        )
    return sites


def found_classes(sites: Iterable[Site]) -> tuple[str, ...]:
    """Return the names of all sites' classes in their order.

    Raises:
        ValueError: if there is only one, or two differ in case alone.
    """
    homes = {name: site.name for site in sites for name in sorted(site.classes)}
    if len(homes) == 1:
        raise ValueError(
            f"All images are of one class, {next(iter(homes))!r}. {EXPECTED} HINT: is this the folder of a class?"
        )
    seen: dict[str, str] = {}
    for name, home in homes.items():
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"The classes {other!r} (site {homes[other]!r}) and {name!r} (site {home!r}) differ in case only."
                " HINT: rename one of them, or list both in `classes`."
            )
    return in_order(homes)


def check_known(sites: Iterable[Site], classes: tuple[str, ...]) -> None:
    """Raise ValueError if a site has classes that are not listed."""
    for site in sites:
        unknown = sorted(site.classes - set(classes))
        if unknown:
            raise ValueError(
                f"Site {site.name!r} has the classes {shortened(list(map(repr, unknown)))}, which are not in"
                f" `classes`: {shortened(classes, 20)}. HINT: add them, or remove the site's images of them."
            )


class Listing(NamedTuple):
    """Names in a folder, sorted, hidden ones left out."""

    folders: list[str]
    images: list[str]
    others: list[str]

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """Look into a folder, through links."""
        found = cls([], [], [])
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in LEFT_BEHIND:
                    continue
                if entry.is_dir():
                    found.folders.append(entry.name)
                elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
                    found.images.append(entry.name)
                else:
                    found.others.append(entry.name)
        return cls(*map(sorted, found))

    def __str__(self) -> str:
        named = (("folders", self.folders), ("images", self.images), ("other files", self.others))
        said = [f"{len(names)} {kind} ({shortened(names, 4)})" for kind, names in named if names]
        return ", ".join(said) or "nothing"


def wrong(where: Path, found: str, hint: str) -> ValueError:
    """Make the error about a folder of another form."""
    return ValueError(f"{where}: found {found}. {EXPECTED} HINT: {hint}.")


def _read_site(root: Path, name: str, folder: str) -> Site:
    if (root / folder / LABELS).is_file():
        return _read_labels(root, name, folder)
    site = Site(name, {}, set(), [])
    inside = Listing.of(root / folder)
    splits = [each for each in inside.folders if each.lower() in SPLITS and not Listing.of(root / folder / each).images]
    if splits and set(splits) != set(inside.folders):
        hint = f"beside {', '.join(splits)} there can be no other folder than train, val and test; rename or remove it"
        raise wrong(root / folder, str(inside), hint)
    if not splits and inside.folders and {each.lower() for each in inside.folders} <= set(SPLITS):
        raise wrong(root / folder, str(inside), "they hold images, which belong in folders named after their classes")
    if not splits:
        site.parts["train"] = _read_classes(root, folder, inside, site)
    for each in splits:
        split = next(split for split in SPLITS if split == each.lower())
        path = posixpath.join(folder, each)
        site.parts.setdefault(split, []).extend(_read_classes(root, path, Listing.of(root / path), site))
    return site


def _read_classes(root: Path, path: str, inside: Listing, site: Site) -> list[File]:
    """Return the files in a folder of class folders; note the classes, and what is no image."""
    if inside.images:
        raise wrong(
            root / path,
            str(inside),
            f"put images in folders named after their classes, or list them in {LABELS};"
            " if this folder is a class and no site, `root` is too deep",
        )
    files = []
    for folder in inside.folders:
        label, below = composed(folder), posixpath.join(path, folder)
        found = Listing.of(root / below)
        if found.folders:
            raise wrong(
                root / below,
                str(found),
                "there can be no folder in a class's folder; if this is a site's, set `root` to the folder above it",
            )
        site.classes.add(label)
        site.ignored.extend(posixpath.join(below, each) for each in found.others)
        files += [File(posixpath.join(below, each), label) for each in found.images]
    return files


def _read_labels(root: Path, name: str, folder: str) -> Site:
    """Read a site's list of files."""
    path = root / folder / LABELS
    rows = _rows(path)
    site, seen = Site(name, {}, set(), []), dict[str, int]()
    for number, row in rows:
        missing = [column for column in row if not row[column] and column != "group"]
        if missing:
            raise ValueError(f"{path}, line {number}: there is no {' and no '.join(missing)}.")
        split = next((split for split in SPLITS if split == row.get("split", "train").lower()), None)
        if split is None:
            raise ValueError(f"{path}, line {number}: the split {row['split']!r} is not one of {', '.join(SPLITS)}.")
        file = File(posixpath.join(folder, row["file"]), composed(row["label"]), composed(row.get("group", "")))
        if file.name in seen:
            raise ValueError(
                f"{path}, line {number}: the file {row['file']!r} stands in line {seen[file.name]} already."
                " HINT: list every file once."
            )
        seen[file.name] = number
        site.classes.add(file.label)
        site.parts.setdefault(split, []).append(file)
    return site


def _rows(path: Path) -> list[tuple[int, Mapping[str, str]]]:
    """Return number and known columns of every line, without blanks around them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not encoded in UTF-8. HINT: save it as CSV UTF-8.") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [column.strip().lower() for column in next(reader, [])]
        lines = [(reader.line_num, line) for line in reader if any(map(str.strip, line))]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: this is not CSV ({error}).") from error
    if not {"file", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise ValueError(
            f"{path} starts with {header.strip()[:80]!r}. Expected the names of the columns: file,label and, if need"
            " be, split and group, each once. HINT: add them as the first line."
        )
    known = [(column, columns.index(column)) for column in ("file", "label", "split", "group") if column in columns]
    return [
        (number, {column: line[at].strip() if at < len(line) else "" for column, at in known}) for number, line in lines
    ]
