"""Your own clients: a folder of image files for each."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import logging
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.base import FederatedDataModule, normalization, shortened
from lpft.data.cache import NO_GROUP, SPLITS, ArrayWriter, Split
from lpft.data.images import EXTENSIONS, ImageFiles, stamp
from lpft.data.partition import train_val_test
from lpft.data.shares import OnBadImage, Part, Share, write_shares
from lpft.runtime.seeding import stable_seed
from lpft.storage.run import check_client_names
from lpft.types import DataSpec

LABELS = "labels.csv"
LEFT_BEHIND = ("__MACOSX", "@eaDir", "lost+found", "Thumbs.db", "desktop.ini")
"""What operating systems leave in folders; it is passed over like names that start with a dot."""

EXPECTED = (
    f"Expected ROOT/CLIENT/CLASS/IMAGE, or ROOT/CLIENT/train/CLASS/IMAGE (and val, test), or ROOT/CLIENT/{LABELS} with"
    " the columns file and label (and, if need be, split and group)."
)

log = logging.getLogger("lpft")


class File(NamedTuple):
    """An image file: its path from the root, the names of its class and, if it has one, of its group."""

    name: str
    label: str
    group: str = ""


class Site(NamedTuple):
    """What is found in one client's folder.

    Args:
        name: the client's name.
        parts: files by split. What the client has not split is all in ``train``; a split that is not there is made.
        classes: names of its classes, those without images included.
        ignored: files that are no images by their ending.
    """

    name: str
    parts: dict[Split, list[File]]
    classes: set[str]
    ignored: list[str]


class FolderClients(FederatedDataModule):
    """Clients from a folder with one folder of images each, named after them.

    A client's folder has one of three forms::

        ROOT/CLIENT/CLASS/IMAGE             all its images by class
        ROOT/CLIENT/train/CLASS/IMAGE       its own split; val and test are optional
        ROOT/CLIENT/labels.csv              columns: file, label, and if need be split (train, val, test) and group

    Images may be of any size, grey or RGB (see `lpft.data.images.EXTENSIONS` for endings, in upper or lower case), and
    links. Names that start with a dot are passed over. The classes are those of all clients together, folders without
    images included. A test or val part that a client does not have is made of its training images, stratified by class
    and seeded by `seed` and the client's name; one whose folder is there but empty stays empty. An image that is, after
    resizing, pixel for pixel in anyone's test part is left out of all train and val parts, one that is in a val part is
    left out of the train parts; how many is logged.

    Args:
        root: folder that holds the clients' folders.
        image_size: height and width to which all images are resized (bilinear, antialiased, shape not kept).
        channels: 1 or 3; RGB becomes grey by luminance (ITU-R 601), grey becomes RGB by repetition.
        classes: names of the classes in the order of the model's outputs, or a text file in `root` with one a line. By
            default the names that are found, sorted, as numbers if all are.
        clients: the clients that take part; all of them by default.
        mean: what is subtracted from every channel, on the scale from 0 to 1; by default 0.5. A model that was trained
            elsewhere needs the values that it was trained with.
        std: what every channel is divided by then; by default 0.5.
        train_per_client: most images that a client trains on and, where it has no val part of its own, chooses by; a
            stratified draw of them.
        val_share: share of the training images on which choices are made, for clients without a val part.
        test_share: share of a client's images that is tested on, for clients without a test part.
        seed: of the splits; not the seed of a run.
        on_bad_image: what to do about files that are missing or cannot be decoded: stop, or leave them out, counted
            and listed.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.

    Raises:
        ValueError: if a setting is out of range; later, if the folders have another form.
        FileNotFoundError: later, if the folder is not there.
    """

    def __init__(
        self,
        root: str,
        image_size: PositiveInt,
        channels: PositiveInt = 3,
        classes: list[str] | str | None = None,
        clients: list[str] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        train_per_client: PositiveInt | None = None,
        val_share: ClosedUnitInterval = 0.1,
        test_share: ClosedUnitInterval = 0.25,
        seed: int = 0,
        on_bad_image: OnBadImage = "error",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(cache_dir)
        self.mean, self.std = normalization(mean, std, channels)
        self.root, self.image_size, self.channels = Path(root).expanduser(), image_size, channels
        self.given_classes, self.given_clients = classes, clients
        self.train_per_client, self.val_share, self.test_share = train_per_client, val_share, test_share
        self.seed, self.on_bad_image = seed, on_bad_image

    @property
    def spec(self) -> DataSpec:
        """The settings; without `classes` the folders are looked through for them."""
        return DataSpec(self.channels, self.image_size, len(self.class_names))

    @functools.cached_property
    def sites(self) -> list[Site]:
        """What is found in the folder, client by client."""
        sites = read_sites(self.root, self.given_clients)
        check_client_names(site.name for site in sites)
        return sites

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes, in the order of the labels."""
        if isinstance(self.given_classes, str):
            return read_classes(self.root / self.given_classes)
        if self.given_classes is not None:
            return checked_classes(self.given_classes, "`classes`")
        return found_classes(self.sites)

    @functools.cached_property
    def group_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the groups in the clients' lists, sorted."""
        return in_order({file.group for site in self.sites for files in site.parts.values() for file in files} - {""})

    def settings(self) -> dict[str, object]:
        """Return the key of the cache: the settings, and size and modification time of every file.

        Raises:
            FileNotFoundError: if the folder, or a file that is listed, is not there.
            ValueError: if a client's folder is of another form.
        """
        files = [(site.name, split, *file) for site in self.sites for split in SPLITS
                 for file in site.parts.get(split, [])]  # fmt: skip
        check_known(self.sites, self.class_names)
        return {
            "classes": list(self.class_names),
            "clients": [[site.name, *site.parts] for site in self.sites],
            "samples": hashlib.sha256(repr(files).encode()).hexdigest(),
            "files": stamp(self.root, [name for _, _, name, *_ in files], self.on_bad_image),
            "train_per_client": self.train_per_client,
            "val_share": float(self.val_share),
            "test_share": float(self.test_share),
            "seed": self.seed,
        }

    def prepare_data(self) -> None:
        """Build the array cache if it is not there yet, and warn of what is left out or missing."""
        super().prepare_data()
        ignored = [name for site in self.sites for name in site.ignored]
        if ignored:
            log.warning(
                "%d files in the class folders are left out, being no images by their ending: %s.",
                len(ignored), shortened(ignored),
            )  # fmt: skip

    def write(self, writer: ArrayWriter) -> None:
        """Split every client's files as far as it has not done so itself, and decode them."""
        write_shares(writer, [share for site in self.sites for share in self._shares(site)], self.on_bad_image)

    def _shares(self, site: Site) -> list[Share]:
        parts = {split: self._part(site.parts.get(split, [])) for split in SPLITS}
        rng = np.random.default_rng(stable_seed("folder", self.seed, site.name))
        test_share = 0.0 if "test" in site.parts else self.test_share
        val_share = 0.0 if "val" in site.parts else self.val_share
        made = train_val_test(parts["train"].labels, test_share, val_share, rng, self.train_per_client)
        return [
            Share(site.name, split, parts[split], np.arange(len(parts[split].labels)))
            if split != "train" and split in site.parts
            else Share(site.name, split, parts["train"], positions)
            for split, positions in zip(SPLITS, made, strict=True)
        ]

    def _part(self, files: list[File]) -> Part:
        labels = {name: label for label, name in enumerate(self.class_names)}
        groups = {"": NO_GROUP, **{name: group for group, name in enumerate(self.group_names)}}
        return Part(
            np.array([labels[file.label] for file in files], np.int64),
            ImageFiles(self.root, [file.name for file in files]),
            np.array([groups[file.group] for file in files], np.int64),
        )


def read_sites(root: Path, names: list[str] | None = None) -> list[Site]:
    """Look through the clients' folders; no image is opened.

    Args:
        root: folder that holds them.
        names: the clients that are wanted, in this order; by default all, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is nothing in it, or what there is has another form.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}. {EXPECTED} HINT: set the folder of your clients with `--data.init_args.root`."
        )
    inside = Listing.of(root)
    found = {composed(name): name for name in inside.folders}
    if (root / LABELS).is_file() or set(map(str.lower, found)) <= set(SPLITS):
        raise wrong(root, str(inside), "`root` holds one folder for each client; put what it holds now in such a one")
    if names is not None:
        missing = [name for name in names if composed(name) not in found]
        if missing or not names:
            raise ValueError(
                f"`clients`: {root} has no folders {', '.join(map(repr, missing))}, found {shortened(list(found), 20)}."
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
    """Return the names of all clients' classes in their order.

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
                f"The classes {other!r} (client {homes[other]!r}) and {name!r} (client {home!r}) differ in case only."
                " HINT: rename one of them, or list both in `classes`."
            )
    return in_order(homes)


def check_known(sites: Iterable[Site], classes: tuple[str, ...]) -> None:
    """Raise ValueError if a client has classes that are not listed."""
    for site in sites:
        unknown = sorted(site.classes - set(classes))
        if unknown:
            raise ValueError(
                f"Client {site.name!r} has the classes {shortened(list(map(repr, unknown)))}, which are not in"
                f" `classes`: {shortened(classes, 20)}. HINT: add them, or remove the client's images of them."
            )


def read_classes(path: Path) -> tuple[str, ...]:
    """Read names of classes from a text file, one a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no file {path} with the names of the `classes`, one a line. HINT: make it, or give a list."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file with the names of the `classes` in UTF-8.") from error
    return checked_classes([line.strip() for line in lines if line.strip()], str(path))


def checked_classes(names: list[str], whose: str) -> tuple[str, ...]:
    """Return the names in Unicode's composed form; raise ValueError if there are none or a name comes twice."""
    classes = tuple(map(composed, names))
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"{whose}: {list(names)} must be at least one name, and none of them twice.")
    return classes


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names, as numbers if all of them are.

    >>> in_order({"10", "9"}), in_order({"b10", "b9"})
    (('9', '10'), ('b10', 'b9'))
    """
    names = sorted(set(names))
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), for file systems differ in what they store.

    Raises:
        ValueError: if it is no Unicode.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The folder name {os.fsencode(name)!r} is not encoded in UTF-8. HINT: rename the folder."
        ) from error
    return unicodedata.normalize("NFC", name)


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
            " if this folder is a class and no client, `root` is too deep",
        )
    files = []
    for folder in inside.folders:
        label, below = composed(folder), posixpath.join(path, folder)
        found = Listing.of(root / below)
        if found.folders:
            raise wrong(
                root / below,
                str(found),
                "there can be no folder in a class's folder; if this is a client's, set `root` to the folder above it",
            )
        site.classes.add(label)
        site.ignored.extend(posixpath.join(below, each) for each in found.others)
        files += [File(posixpath.join(below, each), label) for each in found.images]
    return files


def _read_labels(root: Path, name: str, folder: str) -> Site:
    """Read a client's list of files."""
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
