"""Domains with list files, such as DomainNet, PACS and Office-Caltech10."""

from __future__ import annotations

import logging
import re
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd
from jsonargparse.typing import restricted_number_type

from lpft.data.messages import about, content_of, shortened
from lpft.data.sources.base import FileSource, categories, without_repeats
from lpft.data.sources.image_files import EXTENSIONS
from lpft.data.sources.listed import locate
from lpft.data.sources.names import check_first_label, checked_classes, in_order
from lpft.data.sources.pickles import load_arrays
from lpft.data.sources.tables import read_text
from lpft.data.splits import GivenSplits, stratified_order
from lpft.storage.run import check_client_names

log = logging.getLogger("lpft")

Lists = Literal["txt", "pkl"]
ListSplit = Literal["train", "test"]
LIST_SPLITS: tuple[ListSplit, ...] = ("train", "test")

ShareOfSmallest = restricted_number_type(
    "ShareOfSmallest", float, [(">", 0), ("<=", 0.5)], docstring="share of the smallest domain's images, in (0, 0.5]"
)

DOMAINNET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
LIST_LINE = re.compile(r"\s*(\S.*?)[\s,;]+(\d+)[\s,;]*")
FEDBN_CLASSES = (
    "bird", "feather", "headphones", "ice_cream", "teapot", "tiger", "whale", "windmill", "wine_glass", "zebra",
)  # fmt: skip
"""FedBN's ten classes of DomainNet (Li et al., arXiv:2102.07623), in its order."""


class Domains(FileSource):
    """Domains of image files with a train and a test list for each.

    A domain has the lists ``DOMAIN_train.txt`` and ``DOMAIN_test.txt``, in the set's folder or in ``splits`` below it.
    Each line has a path and a label (``DOMAIN/CLASS/IMAGE 3``), separated by blanks, tabs, commas or semicolons; lines
    that start with ``#`` are ignored. Or it has FedBN's ``DOMAIN_train.pkl`` and ``DOMAIN_test.pkl``: pickled pairs of
    paths and class names, which are read without running code from the file. Paths are relative to the set's folder or
    its parent. A domain's list may lack a class. Labels start at 0, or at 1 if that is the lowest in all lists.

    Args:
        root: folder that holds the set's folder.
        folder: the set's folder, with the lists; relative to `root`.
        domains: names of the domains; by default those that have lists, sorted.
        classes: names of the classes to keep, in the order of the new labels; a class is named like the folder of its
            images (in pickled lists by its name). By default all, with the labels of the lists.
        lists: type of the lists; `pkl` for those of FedBN.
        share_of_smallest: replaces the data's `train_per_client` and `val_share`: every domain trains on this share of
            the number of images in the shortest training list, from the start of its list, and validates on as many
            from the end, as in FedBN. Pickled lists keep their order; text lists, which are sorted by class, are
            brought into a stratified order first.
        seed: seed of that order; not the seed of a run.
        first_label: the label of the first class in text lists, 0 or 1; by default 1 if that is the lowest.
    """

    draws = "domains"
    image_size = 64
    home = ""
    """Home page and terms of the set, for messages."""

    def __init__(
        self,
        root: str = ".",
        folder: str = ".",
        domains: list[str] | None = None,
        classes: list[str] | None = None,
        lists: Lists = "txt",
        share_of_smallest: ShareOfSmallest | None = None,  # type: ignore[valid-type]
        seed: int = 0,
        first_label: Literal[0, 1] | None = None,
    ) -> None:
        super().__init__(root)
        self.set_folder, self.domains = folder, domains
        self.classes = None if classes is None else checked_classes(classes, "`classes`")
        self.lists, self.seed, self.first_label = lists, seed, first_label
        self.share_of_smallest: float | None = share_of_smallest
        self.num_classes = len(self.classes) if self.classes else None

    @property
    def set_root(self) -> Path:
        """The folder with the lists."""
        return self.root / self.set_folder

    @property
    def folder(self) -> Path:
        """The folder that the listed paths are relative to."""
        return self._listed[0]

    @cached_property
    def _listed(self) -> tuple[Path, pd.DataFrame]:
        """The folder that paths are relative to, and the rows of the lists, with the paths on disk."""
        listed = self._read_lists()
        with about(str(self.set_root)):
            base, files = locate(list(listed["file"]), [self.set_root, self.set_root.parent])
        return base, listed.assign(file=files)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes: `classes`, else the folders of their images, or nothing if those differ."""
        if self.classes is not None:
            return self.classes
        files = self.cached_table["file"]
        folders = files.map(folder_of).groupby(self.cached_table["label"]).unique()
        if len(folders) <= folders.index.max() or any(len(names) > 1 for names in folders):
            return ()
        return tuple(names[0] for names in folders)

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return the splits of the lists; with `share_of_smallest` this source makes all splits."""
        given = {"train", "test"} if self.share_of_smallest is None else {"train", "val", "test"}
        return dict.fromkeys(table["domain"].cat.categories, given)

    def table(self) -> pd.DataFrame:
        """Read the lists."""
        _, listed = self._listed
        listed = listed.assign(name=listed["label"] if self.lists == "pkl" else listed["file"].map(folder_of))
        table = self._labelled(listed)
        if self.share_of_smallest is not None:
            smallest = int(table["domain"][table["split"] == "train"].value_counts().min())
            parts = []
            for domain in table["domain"].cat.categories:
                train, test = (table[(table["domain"] == domain) & (table["split"] == split)] for split in LIST_SPLITS)
                parts += [*self._cut(train, domain, smallest), test]
            table = pd.concat(parts)
        return table.drop(columns="name").reset_index(drop=True)

    def _labelled(self, listed: pd.DataFrame) -> pd.DataFrame:
        """Number the classes, and drop images of other classes."""
        if self.classes is not None:
            self._check_classes(listed)
            listed = listed[listed["name"].isin(self.classes)]
            labels = listed["name"].map({name: label for label, name in enumerate(self.classes)})
        elif self.lists == "pkl":
            labels = listed["name"].map({name: label for label, name in enumerate(in_order(listed["name"]))})
        else:
            lowest = int(listed["label"].min())
            first = int(lowest == 1) if self.first_label is None else self.first_label
            with about(str(self.set_root)):
                check_first_label(lowest, first)
            if first and self.first_label is None:
                log.warning(
                    "The labels in the lists of %s start at 1, which becomes class 0. HINT: `first_label: 1` confirms"
                    " this; `first_label: 0` keeps the labels, where class 0 has no images.", self.set_root,
                )  # fmt: skip
            labels = listed["label"] - first
        return listed.assign(label=labels.astype(np.int64))

    def _check_classes(self, listed: pd.DataFrame) -> None:
        """Raise ValueError if a class is in no list, or images in one folder have several labels."""
        label_of_class = listed.groupby("name", sort=False)["label"].transform("first")
        conflicting = listed[(listed["label"] != label_of_class) & listed["name"].isin(list(self.classes or ()))]
        if len(conflicting):
            image = conflicting.iloc[0]
            raise ValueError(
                f"The class {image['name']!r} has the labels {label_of_class[conflicting.index[0]]} and"
                f" {image['label']} in the lists of {self.set_root}, the latter for {image['file']}. HINT: get the"
                " lists again; all domains have the same labels."
            )
        missing = [name for name in self.classes or () if name not in set(listed["name"])]
        if missing:
            raise ValueError(
                f"`classes`: {', '.join(missing)} are in no list of {self.set_root}; found"
                f" {shortened(in_order(listed['name']), 20)}."
            )

    def _cut(self, train: pd.DataFrame, domain: str, smallest: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Cut train and val from the two ends of a training list."""
        size = int((self.share_of_smallest or 0) * smallest)
        if not size:
            raise ValueError(
                f"`share_of_smallest={self.share_of_smallest}` of {smallest} training images is none."
                " HINT: set a larger share, or `train_per_client`."
            )
        order = np.arange(len(train))
        if self.lists == "txt":
            order = stratified_order(train["label"].to_numpy(), self.rng(self.seed, domain))
        return train.iloc[order[:size]], train.iloc[order[-size:]].assign(split="val")

    def _read_lists(self) -> pd.DataFrame:
        """Read path, class (number or name), domain and split of all images."""
        ending = f"_train.{self.lists}"
        folders = [self.set_root / "splits", self.set_root]  # a list in the set's folder comes first
        files = {path.name: path for folder in folders for path in sorted(folder.glob(f"*.{self.lists}"))}
        domains = self.domains
        if domains is None:
            domains = sorted(name.removesuffix(ending) for name in files if name.endswith(ending))
        expected = [f"{domain}_{split}.{self.lists}" for domain in domains or ["DOMAIN"] for split in LIST_SPLITS]
        missing = [name for name in expected if name not in files]
        if missing:
            content = shortened(sorted(files), 12) or content_of(self.set_root, 12)
            raise FileNotFoundError(
                f"Lists are missing in {self.set_root}: {shortened(missing, 12)}; found {content}. Expected"
                f" DOMAIN_train.{self.lists} and DOMAIN_test.{self.lists} in it or in its folder `splits`, and the"
                " images that they name. HINT: the folder is `root`/`folder`: set `--data.source.root`."
                f"{self.home} Without lists, the source `lpft.data.sources.Sites` reads ROOT/DOMAIN/CLASS/IMAGE."
            )
        check_client_names(domains)
        read = read_text_list if self.lists == "txt" else read_pickled_list
        tables = []
        for domain, split in product(domains, LIST_SPLITS):
            path = files[f"{domain}_{split}.{self.lists}"]
            tables.append(without_repeats(read(path), path).assign(domain=domain, split=split))
        table = pd.concat(tables, ignore_index=True)
        if table.empty:
            raise ValueError(f"The lists in {self.set_root} are empty: {shortened(expected, 12)}.")
        return table.assign(domain=categories(table["domain"], domains))


class DomainNet(Domains):
    """DomainNet (Peng et al., arXiv:1812.01754): six domains.

    The set's folder holds the six domains' folders and their (cleaned) lists from the home page.
    ``configs/data/domainnet_fedbn.yaml`` uses FedBN's lists, numbers of images and image size.

    Args:
        root: folder that holds the set's folder.
        folder: the set's folder, with the lists; relative to `root`.
        domains: names of the domains; all six by default.
        classes: `fedbn` for FedBN's ten, labelled 0 to 9 in its order; `all` for all 345 with the labels of the lists;
            or names.
    """

    home = " Home page and terms (non-commercial research): http://ai.bu.edu/M3SDA/ ; nothing is downloaded."

    def __init__(
        self,
        root: str = ".",
        folder: str = "DomainNet",
        domains: list[str] | None = None,
        classes: Literal["fedbn", "all"] | list[str] = "fedbn",
        **kwargs: Any,
    ) -> None:
        names = list(FEDBN_CLASSES) if classes == "fedbn" else None if isinstance(classes, str) else classes
        super().__init__(root, folder, list(DOMAINNET) if domains is None else domains, names, **kwargs)


def folder_of(path: str) -> str:
    """Return the name of an image's folder.

    >>> folder_of("clipart/ice_cream/clipart_142_000001.jpg")
    'ice_cream'
    """
    return PurePosixPath(path).parent.name


def read_text_list(path: Path) -> pd.DataFrame:
    """Read a list with a path and a label, a number from 0 on, in every line; paths may contain blanks.

    Lines that start with ``#`` and a header line are ignored.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pair = LIST_LINE.fullmatch(line)
        if pair:
            rows.append((pair[1], int(pair[2])))
        elif rows or any(ending in line.lower() for ending in EXTENSIONS):
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is not a path and a label, such as `a/b.jpg 3`.")
    return pd.DataFrame(rows, columns=["file", "label"])


def read_pickled_list(path: Path) -> pd.DataFrame:
    """Read a pickled pair of paths and class names, without running code from the file."""
    content = load_arrays(path)
    try:
        table = pd.DataFrame(np.array([list(column) for column in content], object).T, columns=["file", "label"])
    except (TypeError, ValueError):
        table = pd.DataFrame([None])
    if not table.map(lambda value: isinstance(value, str)).all(axis=None):
        raise ValueError(f"{path} does not hold two lists of the same length: the images' paths and their classes.")
    return table
