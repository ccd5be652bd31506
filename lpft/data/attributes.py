"""Clients in which an attribute goes with the class, from image files and a table of their attributes."""

from __future__ import annotations

import csv
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.base import FederatedDataModule
from lpft.data.cache import SPLITS, ArrayWriter, Split
from lpft.data.images import ImageFiles, stamp
from lpft.data.shares import OnBadImage, Part, Share, write_shares
from lpft.data.spurious import spurious_clients
from lpft.runtime.seeding import stable_seed
from lpft.storage.fingerprint import fingerprint
from lpft.types import DataSpec

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "0"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "1"), "val"),
    **dict.fromkeys(("test", "2"), "test"),
}
"""What a column of splits may say; the numbers are those of CelebA and Waterbirds."""

MANY = 8
"""So many of the names that were found are told."""

log = logging.getLogger("lpft")


class AttributeTable(NamedTuple):
    """What is known of the images that may be used, one entry each.

    Args:
        files: paths of the image files, from the folder of all images.
        target: the class, bool, ``(n,)``.
        attribute: the attribute that goes with it, bool, ``(n,)``.
        splits: ``train``, ``val`` or ``test``, ``(n,)``, where the data set says so.
        units: who is shown, ``(n,)``, where that is known.
    """

    files: Sequence[str]
    target: np.ndarray
    attribute: np.ndarray
    splits: np.ndarray | None = None
    units: np.ndarray | None = None


class SpuriousClients(FederatedDataModule):
    """Clients that differ in how an attribute goes with the class; a data set says where images and attributes are.

    Client i has P(attribute | class 1) = P(no attribute | class 0) = rho_i, in training and test alike; classes are
    balanced in every client, and clients are of one size: as large as the rarest of the four combinations of class and
    attribute suffices for. These are the groups that accuracies are told for. Clients are named by their rho. Images
    are RGB, normalised as for ImageNet.

    Args:
        root: folder of the data set.
        class_names: what the classes 0 and 1 are.
        attribute_names: what it means not to have the attribute, and to have it.
        rho: every client's correlation.
        image_size: height and width to which the images are resized (bilinear, antialiased).
        train_per_client: images that a client trains on and chooses by, an even number; by default all that there are.
        val_share: share of the training images (of units, where these are known) on which choices are made, if the
            data set has no such part.
        test_share: share of the images (of units) that is tested on, if the data set has no such part.
        seed: of the splits and the choice of images; not the seed of a run.
        on_bad_image: what to do about a file that cannot be decoded.
        cache_dir: folder of the array cache.

    Raises:
        ValueError: if a setting is out of range, or the images do not suffice.
        FileNotFoundError: if files are missing.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    crop: int | None = None
    """Side of the square that is cut out of the middle of an image."""

    def __init__(
        self,
        root: str,
        class_names: tuple[str, str],
        attribute_names: tuple[str, str],
        rho: Sequence[float],
        image_size: int,
        train_per_client: int | None,
        val_share: float,
        test_share: float,
        seed: int,
        on_bad_image: OnBadImage,
        cache_dir: str | None,
    ) -> None:
        super().__init__(cache_dir)
        if not rho:
            raise ValueError("`rho` is empty. HINT: give one correlation for each client, such as [0.9, 0.1].")
        if not 0 < test_share < 1 or not 0 <= val_share < 1:
            raise ValueError(
                f"`test_share={test_share}` and `val_share={val_share}` must leave something to test and to train on."
                " HINT: set both below 1, and `test_share` above 0."
            )
        self.root, self.rho, self.image_size = Path(root).expanduser(), [float(each) for each in rho], image_size
        self.train_per_client, self.val_share, self.test_share = train_per_client, val_share, test_share
        self.seed, self.on_bad_image = seed, on_bad_image
        self.class_names = class_names
        self.group_names = tuple(f"{which}, {has}" for which in class_names for has in attribute_names)

    @property
    def spec(self) -> DataSpec:
        """RGB images and two classes."""
        return DataSpec(in_channels=3, image_size=self.image_size, num_classes=2)

    @property
    def folder(self) -> Path:
        """The folder that the paths of image files start from."""
        return self.root

    @abstractmethod
    def read_table(self) -> AttributeTable:
        """Read which images there are; raise FileNotFoundError or ValueError if it is not what the data set has."""

    def settings(self) -> dict[str, object]:
        """Return the key of the cache: the settings, and who has which images, with their sizes and ages."""
        files, groups, shares = self._chosen
        return {
            "rho": self.rho,
            "train_per_client": self.train_per_client,
            "val_share": float(self.val_share),
            "test_share": float(self.test_share),
            "seed": self.seed,
            "crop": self.crop,
            "chosen": fingerprint(
                {"groups": groups.tolist(), "shares": [[*who, where.tolist()] for *who, where in shares]}
            ),
            "files": stamp(self.folder, files),
        }

    def write(self, writer: ArrayWriter) -> None:
        """Decode the chosen images."""
        files, groups, shares = self._chosen
        part = Part(groups // 2, ImageFiles(self.folder, files, self.crop), groups)
        write_shares(writer, [Share(client, split, part, where) for client, split, where in shares], self.on_bad_image)

    @cached_property
    def _chosen(self) -> tuple[list[str], np.ndarray, list[tuple[str, Split, np.ndarray]]]:
        """Return the chosen files, their groups, and who gets which of them for what."""
        table = self.read_table()
        groups = 2 * table.target.astype(np.int64) + table.attribute
        parts = spurious_clients(
            groups,
            self.rho,
            np.random.default_rng(stable_seed("spurious", self.seed)),
            units=table.units,
            given=table.splits,
            test_share=self.test_share,
            val_share=self.val_share,
            train_per_client=self.train_per_client,
            names=self.group_names,
        )
        used = np.sort(np.concatenate([where for part in parts for where in part]))
        shares = [
            (client, split, np.searchsorted(used, where))
            for client, part in zip(client_names(self.rho), parts, strict=True)
            for split, where in zip(SPLITS, part, strict=True)
        ]
        return [table.files[i] for i in used], groups[used], shares


@dataclass
class Attribute:
    """A yes-or-no question to a column of a table. Images for which the column is blank are left out.

    Args:
        column: the column's name.
        values: those that mean yes.
        others: those that mean no, and images with yet others are left out; by default all others mean no.
        at_least: instead of values, the least number that means yes.
        names: what no and yes are called, such as ``[under 40, 40 or more]``.
    """

    column: str
    values: list[str] | None = None
    others: list[str] | None = None
    at_least: float | None = None
    names: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if (self.values is None) == (self.at_least is None) or (self.others is not None and self.values is None):
            raise ValueError(
                f"The attribute of column {self.column!r} has `values: {self.values}`, `others: {self.others}` and"
                f" `at_least: {self.at_least}`. HINT: give the `values` that mean yes (and, if need be, the `others`),"
                " or the least number that means yes as `at_least`."
            )

    @property
    def both_names(self) -> tuple[str, str]:
        """What no and yes are called; by default the rule itself."""
        rule = f"{self.column} {' or '.join(self.values)}" if self.values else f"{self.column} from {self.at_least:g}"
        return self.names or (f"not {rule}", rule)

    def answers(self, values: Sequence[str], whose: str) -> tuple[np.ndarray, np.ndarray]:
        """Answer the question.

        Args:
            values: of the column.
            whose: start of error messages.

        Returns:
            The answers, and for which images there is one, bool, ``(n,)`` each.

        Raises:
            ValueError: if a value is no number where numbers are needed, or one of the answers is never given.
        """
        known = np.array([bool(value) for value in values], bool)
        if self.at_least is not None:
            yes = np.array(
                [_number(value, f"{whose}, column {self.column!r}") >= self.at_least for value in values], bool
            )
        else:
            yes = np.isin(values, self.values or [])
            known &= yes | np.isin(values, self.others) if self.others is not None else True
        if not (yes & known).any() or not (~yes & known).any():
            found = sorted(set(values))
            raise ValueError(
                f"{whose}: all images have the same answer to {self.both_names[1]!r}; the column has the values"
                f" {_some(found)}. HINT: set `values`, `others` or `at_least` to what tells the images apart."
            )
        return yes, known


class AttributeClients(SpuriousClients):
    """Clients that differ in how an attribute goes with the class, from a folder of images and a CSV file about them.

    Client i has P(attribute | class 1) = P(no attribute | class 0) = rho_i, in training and test alike; classes are
    balanced in every client, and clients are of one size: as large as the rarest of the four combinations of class and
    attribute suffices for. These are the groups that accuracies are told for. Clients are named by their rho. Images
    are RGB, normalised as for ImageNet.

    Args:
        target: what tells the two classes.
        attribute: what tells the attribute.
        root: folder that `table` starts from.
        table: the CSV file, with a header.
        file: column with the images' paths, from the folder of the table.
        split: column with the part that an image belongs to: train, val or test, or 0, 1, 2; by default (null) there is
            none.
        unit: column with the person, patient, ... that an image is of; none is ever in two parts.
        rho: every client's correlation.
        image_size: height and width to which the images are resized (bilinear, antialiased).
        train_per_client: images that a client trains on and chooses by, an even number; by default all that there are.
        val_share: share of the training images (of units) on which choices are made, if the data set has no such part.
        test_share: share of the images (of units) that is tested on, if the data set has no such part.
        home: page that the data set can be got from; told where files are missing.
        seed: of the splits and the choice of images; not the seed of a run.
        on_bad_image: what to do about a file that cannot be decoded: `error`, or `skip` to leave it out and count it.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.

    Raises:
        ValueError: if a setting is out of range, the table does not hold what the settings say, or there are too few
            images.
        FileNotFoundError: if files are missing.
    """

    def __init__(
        self,
        target: Attribute,
        attribute: Attribute,
        root: str = ".",
        table: str = "metadata.csv",
        file: str = "file",
        split: str | None = None,
        unit: str | None = None,
        rho: tuple[ClosedUnitInterval, ...] = (0.9, 0.1),
        image_size: PositiveInt = 64,
        train_per_client: PositiveInt | None = None,
        val_share: ClosedUnitInterval = 0.1,
        test_share: ClosedUnitInterval = 0.25,
        home: str | None = None,
        seed: int = 0,
        on_bad_image: OnBadImage = "error",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            root, target.both_names, attribute.both_names, rho, image_size, train_per_client,
            val_share, test_share, seed, on_bad_image, cache_dir,
        )  # fmt: skip
        self.target, self.attribute, self.table = target, attribute, table
        self.file, self.split, self.unit, self.home = file, split, unit, home

    @property
    def folder(self) -> Path:
        """The folder of the table."""
        return (self.root / self.table).parent

    def read_table(self) -> AttributeTable:
        """Read the CSV file."""
        require(self.root, {self.table: [self.table]}, self.home)
        path = self.root / self.table
        wanted = [self.file, self.target.column, self.attribute.column, self.split, self.unit]
        columns = read_columns(path, [column for column in wanted if column is not None], self.home)
        target, known = self.target.answers(columns[self.target.column], str(path))
        attribute, also_known = self.attribute.answers(columns[self.attribute.column], str(path))
        keep = np.flatnonzero(known & also_known)
        if len(keep) < len(known):
            log.warning(
                "%d of %d images of %s have no known class or attribute.", len(known) - len(keep), len(known), path
            )
        return AttributeTable(
            [columns[self.file][i] for i in keep],
            target[keep],
            attribute[keep],
            None if self.split is None else split_words(columns[self.split], f"{path}, column {self.split!r}")[keep],
            None if self.unit is None else np.array(columns[self.unit])[keep],
        )


def client_names(rhos: Sequence[float]) -> list[str]:
    """Name clients by their correlation, and number those of the same.

    >>> client_names([0.9, 0.1, 0.1])
    ['rho_0.9', 'rho_0.1-0', 'rho_0.1-1']
    """
    names = [f"rho_{rho:g}" for rho in rhos]
    return [
        name if names.count(name) == 1 else f"{name}-{names[:number].count(name)}" for number, name in enumerate(names)
    ]


def split_words(words: Iterable[str], whose: str) -> np.ndarray:
    """Read what a table says of splits; raise ValueError, starting with `whose`, if that is something else.

    >>> split_words(["0", "valid", "test"], "example").tolist()
    ['train', 'val', 'test']
    """
    words = [word.strip().lower() for word in words]
    unknown = sorted(set(words) - SPLIT_WORDS.keys())
    if unknown:
        raise ValueError(f"{whose} has the values {_some(unknown)}, expected train, val and test, or 0, 1 and 2.")
    return np.array([SPLIT_WORDS[word] for word in words])


def require(root: Path, wanted: Mapping[str, Sequence[str]], home: str | None) -> None:
    """Raise FileNotFoundError unless a folder has what a data set consists of; all that is missing is named.

    Args:
        root: the folder.
        wanted: by a description, the names of which one must be there.
        home: page that the data set can be got from.
    """
    missing = [told for told, names in wanted.items() if not any((root / name).exists() for name in names)]
    if missing:
        there = (
            sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir()) if root.is_dir() else []
        )
        found = f"which has {_some(there)}" if there else "which is empty" if root.is_dir() else "which is no folder"
        source = (
            f" The data set is to be had from {home}; nothing is downloaded." if home else " Nothing is downloaded."
        )
        raise FileNotFoundError(
            f"{' and '.join(missing)} must be in {str(root)!r}, {found}. HINT: set `--data.init_args.root` to the"
            f" folder that holds {', '.join(wanted)}.{source}"
        )


def read_columns(path: Path, wanted: Sequence[str], home: str | None) -> dict[str, list[str]]:
    """Read some columns of a CSV file with a header, without the blanks around values.

    Raises:
        ValueError: if a column or all rows are missing, or the file is no CSV.
    """
    source = f" HINT: the file as it should be comes from {home}." if home else ""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise ValueError(
                    f"{path} has no column {', '.join(map(repr, missing))}; found {_some(header) or 'nothing'}.{source}"
                )
            places = [header.index(name) for name in wanted]
            content = []
            for row in filter(None, rows):
                if len(row) != len(header):
                    raise csv.Error(f"line {rows.line_num} has {len(row)} values, the header has {len(header)}")
                content.append([row[place].strip() for place in places])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of comma-separated values in UTF-8 ({error}).{source}") from error
    if not content:
        raise ValueError(f"{path} has a header and no rows.{source}")
    return dict(zip(wanted, map(list, zip(*content, strict=True)), strict=True))


def _number(value: str, whose: str) -> float:
    try:
        return float(value) if value else np.nan
    except ValueError as error:
        raise ValueError(
            f"{whose}: {value!r} is no number, which `at_least` needs. HINT: name the `values` that mean yes instead."
        ) from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
