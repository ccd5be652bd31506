"""Domains with list files: DomainNet, PACS, Office-Caltech10 and what else comes as folders with lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jsonargparse.typing import restricted_number_type

from lpft.data.messages import shortened
from lpft.data.sources.base import FileSource, categories
from lpft.data.sources.names import checked_classes, in_order
from lpft.data.sources.pickles import load_arrays
from lpft.data.splits import GivenSplits, stratified_order
from lpft.storage.run import check_client_names

Lists = Literal["txt", "pkl"]
ListSplit = Literal["train", "test"]
LIST_SPLITS: tuple[ListSplit, ...] = ("train", "test")

ShareOfSmallest = restricted_number_type(
    "ShareOfSmallest", float, [(">", 0), ("<=", 0.5)], docstring="share of the smallest domain's images, in (0, 0.5]"
)

DOMAINNET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
FEDBN_CLASSES = (
    "bird", "feather", "headphones", "ice_cream", "teapot", "tiger", "whale", "windmill", "wine_glass", "zebra",
)  # fmt: skip
"""The ten classes of DomainNet that FedBN takes (Li et al., arXiv:2102.07623), in its order."""


class Listed(NamedTuple):
    """One list of images.

    Args:
        paths: the images' paths, as listed.
        classes: class of each: the number in a text list, the name in a pickled one.
    """

    paths: list[str]
    classes: list[int | str]


class Domains(FileSource):
    """A set of domains that comes as image files with a train and a test list for every domain.

    A domain has the lists ``DOMAIN_train.txt`` and ``DOMAIN_test.txt``, in the set's folder or in ``splits`` below it,
    with a path and a label in every line (``DOMAIN/CLASS/IMAGE 3``); or ``DOMAIN_train.pkl`` and ``DOMAIN_test.pkl``,
    as FedBN has them: pickled pairs of paths and class names, which are read without running anything that the file
    names. Paths start from the set's folder or the one above it. A domain's list may lack a class. Labels count from
    0, or from 1 if that is the lowest in all lists.

    Args:
        root: folder that holds the set's folder.
        folder: the set's folder, with the lists; relative to `root`.
        domains: names of the domains; by default those that have lists, sorted.
        classes: names of the classes that are kept, in the order of the new labels, a class being the folder of its
            images (in pickled lists its name). By default all, with the labels of the lists.
        lists: which lists are read.
        share_of_smallest: instead of the data's `train_per_client` and `val_share`: this share of the number of images
            in the shortest training list is what every domain trains on, from the start of its list, and, from the end,
            what it chooses by, as in FedBN. Pickled lists keep their order; text lists, which go class by class, are
            put in a stratified one first.
        seed: of that order; not the seed of a run.

    Raises:
        ValueError: later, if a list is not what it should be.
        FileNotFoundError: later, if a list is not there.
    """

    draws = "domains"
    image_size = 64
    home = ""
    """Where the set comes from and on which terms, for messages."""

    def __init__(
        self,
        root: str = ".",
        folder: str = ".",
        domains: list[str] | None = None,
        classes: list[str] | None = None,
        lists: Lists = "txt",
        share_of_smallest: ShareOfSmallest | None = None,  # type: ignore[valid-type]
        seed: int = 0,
    ) -> None:
        self.root, self.set_folder, self.domains = Path(root).expanduser(), folder, domains
        self.classes = None if classes is None else checked_classes(classes, "`classes`")
        self.lists, self.seed = lists, seed
        self.share_of_smallest: float | None = share_of_smallest
        self.num_classes = len(self.classes) if self.classes else None

    @property
    def set_root(self) -> Path:
        """The folder with the lists."""
        return self.root / self.set_folder

    @property
    def folder(self) -> Path:
        """The folder that the paths of the lists start from."""
        first = self.table()["file"].iloc[0] if len(self.table()) else ""
        return next((base for base in (self.set_root, self.set_root.parent) if (base / first).exists()), self.set_root)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes: those that are kept, else the folders of their images, or nothing if those differ."""
        if self.classes is not None:
            return self.classes
        names = self.table().assign(name=self.table()["file"].map(folder_of)).groupby("label")["name"].unique()
        if len(names) <= names.index.max() or any(len(each) > 1 for each in names):
            return ()
        return tuple(each[0] for each in names)

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Test lists are kept; with `share_of_smallest` all splits are made here."""
        given = {"train", "test"} if self.share_of_smallest is None else {"train", "val", "test"}
        return dict.fromkeys(table["domain"].cat.categories, given)

    def read_table(self) -> pd.DataFrame:
        """Read the lists.

        Raises:
            FileNotFoundError: if lists are not there.
            ValueError: if a list is not what it should be.
        """
        listed = self._read_lists()
        labels = self._labels(listed)
        tables = [
            self._kept(of_domain[split], labels).assign(domain=domain, split=split)
            for domain, of_domain in listed.items()
            for split in LIST_SPLITS
        ]
        if self.share_of_smallest is not None:
            smallest = min(len(table) for table in tables[::2])
            tables = [self._cut(table, smallest) if k % 2 == 0 else table for k, table in enumerate(tables)]
        table = pd.concat(tables, ignore_index=True)
        return table.assign(domain=categories(table["domain"], list(listed)))

    def _kept(self, listed: Listed, labels: Mapping[int | str, int]) -> pd.DataFrame:
        """Keep the images of the wanted classes and number these."""
        classes = listed.classes
        if self.classes is not None and self.lists == "txt":
            classes = [folder_of(path) for path in listed.paths]
        kept = [(path, labels[name]) for path, name in zip(listed.paths, classes, strict=True) if name in labels]
        return pd.DataFrame(kept, columns=["file", "label"]).astype({"label": np.int64})

    def _cut(self, train: pd.DataFrame, smallest: int) -> pd.DataFrame:
        """Cut train and val from the two ends of a training list."""
        size = int((self.share_of_smallest or 0) * smallest)
        if not size:
            raise ValueError(
                f"`share_of_smallest={self.share_of_smallest}` of {smallest} training images is none."
                " HINT: set a larger share, or `train_per_client`."
            )
        order = np.arange(len(train))
        if self.lists == "txt":
            order = stratified_order(train["label"].to_numpy(), self.rng(self.seed, train["domain"].iloc[0]))
        return pd.concat([train.iloc[order[:size]], train.iloc[order[-size:]].assign(split="val")])

    def _read_lists(self) -> dict[str, dict[ListSplit, Listed]]:
        ending = f"_train.{self.lists}"
        places = [self.set_root, self.set_root / "splits"]
        found = sorted(path.name for place in places for path in place.glob(f"*.{self.lists}"))
        domains = self.domains
        if domains is None:
            domains = sorted({name.removesuffix(ending) for name in found if name.endswith(ending)})
        names = [f"{domain}_{split}.{self.lists}" for domain in domains for split in LIST_SPLITS]
        paths = {
            name: next((place / name for place in places if (place / name).is_file()), None)
            for name in names or [f"DOMAIN{ending}"]
        }
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            folders = sorted(path.name for path in self.set_root.iterdir()) if self.set_root.is_dir() else []
            raise FileNotFoundError(
                f"Lists are missing in {self.set_root}: {shortened(missing, 12)}; found"
                f" {shortened(found or folders, 12) or 'nothing'}. Expected DOMAIN_train.{self.lists} and"
                f" DOMAIN_test.{self.lists} in it or in its folder `splits`, and the images that they name. HINT: the"
                f" folder is `root`/`folder`: set `--data.source.root`.{self.home} Without lists, the source"
                " `lpft.data.sources.Sites` reads ROOT/DOMAIN/CLASS/IMAGE."
            )
        check_client_names(domains)
        read = read_text_list if self.lists == "txt" else read_pickled_list
        listed = {
            domain: {split: read(Path(str(paths[f"{domain}_{split}.{self.lists}"]))) for split in LIST_SPLITS}
            for domain in domains
        }
        if not any(each.paths for of_domain in listed.values() for each in of_domain.values()):
            raise ValueError(f"The lists in {self.set_root} are empty: {shortened(names, 12)}.")
        return listed

    def _labels(self, listed: Mapping[str, Mapping[ListSplit, Listed]]) -> dict[int | str, int]:
        """Return the label of every class, by its name or, if that does not matter, by its number in the lists."""
        if self.classes is not None:
            self._check_classes(listed)
            return {name: label for label, name in enumerate(self.classes)}
        found = {name for of_domain in listed.values() for each in of_domain.values() for name in each.classes}
        if self.lists == "pkl":
            return {name: label for label, name in enumerate(in_order(map(str, found)))}
        numbers = set(map(int, found))
        return {number: number - (min(numbers) == 1) for number in numbers}

    def _check_classes(self, listed: Mapping[str, Mapping[ListSplit, Listed]]) -> None:
        """Raise ValueError if a wanted class is in no list, or images in one folder have several labels."""
        labels: dict[str, int | str] = {}
        for of_domain in listed.values():
            for each in of_domain.values():
                for path, label in zip(each.paths, each.classes, strict=True):
                    name = folder_of(path) if self.lists == "txt" else str(label)
                    if labels.setdefault(name, label) != label and name in (self.classes or ()):
                        raise ValueError(
                            f"The class {name!r} has the labels {labels[name]} and {label} in the lists of"
                            f" {self.set_root}, the latter for {path}. HINT: get the lists again; all domains have the"
                            " same labels."
                        )
        missing = [name for name in self.classes or () if name not in labels]
        if missing:
            raise ValueError(
                f"`classes`: {', '.join(missing)} are in no list of {self.set_root}; found"
                f" {shortened(in_order(labels), 20)}."
            )


class DomainNet(Domains):
    """DomainNet (Peng et al., arXiv:1812.01754): six domains.

    The set's folder holds the six domains' folders and their lists (the cleaned ones), as the home page has them.
    ``configs/data/domainnet_fedbn.yaml`` has FedBN's own lists, numbers and size.

    Args:
        root: folder that holds the set's folder.
        folder: the set's folder, with the lists; relative to `root`.
        domains: names of the domains; all six by default.
        classes: `fedbn` for FedBN's ten, labelled 0 to 9 in its order; `all` for all 345 with the labels of the lists;
            or names.
        lists: which lists are read; `pkl` for those of FedBN.
        share_of_smallest: see `Domains`.
        seed: see `Domains`.
    """

    home = " Home page and terms (non-commercial research): http://ai.bu.edu/M3SDA/ ; nothing is downloaded."

    def __init__(
        self,
        root: str = ".",
        folder: str = "DomainNet",
        domains: list[str] | None = None,
        classes: Literal["fedbn", "all"] | list[str] = "fedbn",
        lists: Lists = "txt",
        share_of_smallest: ShareOfSmallest | None = None,  # type: ignore[valid-type]
        seed: int = 0,
    ) -> None:
        names = list(FEDBN_CLASSES) if classes == "fedbn" else None if isinstance(classes, str) else classes
        domains = list(DOMAINNET) if domains is None else domains
        super().__init__(root, folder, domains, names, lists, share_of_smallest, seed)


def folder_of(path: str) -> str:
    """Return the name of the folder that an image is in.

    >>> folder_of("clipart/ice_cream/clipart_142_000001.jpg")
    'ice_cream'
    """
    return PurePosixPath(path).parent.name


def read_text_list(path: Path) -> Listed:
    """Read a list with a path and a label, a number from 0 on, in every line; paths may contain blanks."""
    listed = Listed([], [])
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no list: it is not text in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) < 2 or not words[1].isdecimal():
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is not a path and a label, such as `a/b.jpg 3`.")
        listed.paths.append(words[0].strip())
        listed.classes.append(int(words[1]))
    return listed


def read_pickled_list(path: Path) -> Listed:
    """Read a pickled pair of paths and class names, without running anything that the file names."""
    content = load_arrays(path)
    try:
        paths, classes = (np.asarray(each).tolist() for each in content)
    except (TypeError, ValueError):
        paths, classes = None, None
    if (
        not isinstance(paths, list)
        or not isinstance(classes, list)
        or len(paths) != len(classes)
        or not all(isinstance(each, str) for each in (*paths, *classes))
    ):
        raise ValueError(f"{path} does not hold two lists of the same length: the images' paths and their classes.")
    return Listed(paths, classes)
