"""Domains as clients: DomainNet, PACS, Office-Caltech10 and what else comes as folders with list files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt, restricted_number_type

from lpft.data.base import FederatedDataModule, normalization, shortened
from lpft.data.cache import ArrayWriter
from lpft.data.folder import checked_classes, in_order
from lpft.data.images import ImageFiles, stamp
from lpft.data.partition import stratified_order, train_val_test
from lpft.data.pickles import load_arrays
from lpft.data.shares import OnBadImage, Part, Share, write_shares
from lpft.runtime.seeding import stable_seed
from lpft.storage.run import check_client_names
from lpft.types import DataSpec

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


class DomainFolders(FederatedDataModule):
    """One client for each domain of a set that comes as image files with lists, train and test, of every domain.

    A domain has the lists ``DOMAIN_train.txt`` and ``DOMAIN_test.txt``, in the set's folder or in ``splits`` below it,
    with a path and a label in every line (``DOMAIN/CLASS/IMAGE 3``); or ``DOMAIN_train.pkl`` and ``DOMAIN_test.pkl``,
    as FedBN has them: pickled pairs of paths and class names, which are read without running anything that the file
    names. Paths start from the set's folder or the one above it. A domain's list may lack a class. Labels count from
    0, or from 1 if that is the lowest in all lists.

    Test lists are kept. A tenth of a training list is for choices, stratified by class and seeded by `seed` and the
    domain's name. An image that is, after resizing, pixel for pixel in anyone's test part is left out of all train and
    val parts, one that is in a val part is left out of the train parts; how many is logged.

    Args:
        root: folder that holds the set's folder.
        folder: the set's folder, with the lists; relative to `root`.
        domains: names of the domains; by default those that have lists, sorted.
        classes: names of the classes that are kept, in the order of the new labels, a class being the folder of its
            images (in pickled lists its name). By default all, with the labels of the lists.
        lists: which lists are read.
        image_size: height and width to which all images are resized (bilinear, antialiased, shape not kept).
        channels: 1 or 3; RGB becomes grey by luminance (ITU-R 601), grey becomes RGB by repetition.
        train_per_client: most images that a client trains on and chooses by; a stratified draw of them.
        share_of_smallest: in place of `train_per_client` and `val_share`: this share of the number of images in the
            shortest training list is what every client trains on, from the start of its list, and, from the end, what
            it chooses by, as in FedBN. Pickled lists keep their order; text lists, which go class by class, are put in
            a stratified one first.
        val_share: share of the training images on which choices are made.
        mean: what is subtracted from every channel, on the scale from 0 to 1; by default 0.5.
        std: what every channel is divided by then; by default 0.5.
        seed: of the splits; not the seed of a run.
        on_bad_image: what to do about files that are missing or cannot be decoded: stop, or leave them out, counted
            and listed.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.

    Raises:
        ValueError: if a setting is out of range; later, if a list is not what it should be.
        FileNotFoundError: later, if a list is not there.
    """

    home = ""
    """Where the set comes from and on which terms, for messages."""

    def __init__(
        self,
        root: str = ".",
        folder: str = ".",
        domains: list[str] | None = None,
        classes: list[str] | None = None,
        lists: Lists = "txt",
        image_size: PositiveInt = 64,
        channels: PositiveInt = 3,
        train_per_client: PositiveInt | None = None,
        share_of_smallest: ShareOfSmallest | None = None,  # type: ignore[valid-type]
        val_share: ClosedUnitInterval = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int = 0,
        on_bad_image: OnBadImage = "error",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(cache_dir)
        if train_per_client is not None and share_of_smallest is not None:
            raise ValueError(
                f"`train_per_client={train_per_client}` and `share_of_smallest={share_of_smallest}` both say how many"
                " images a client trains on. HINT: set one of them to null."
            )
        self.mean, self.std = normalization(mean, std, channels)
        self.folder = Path(root).expanduser() / folder
        self.given_domains = domains
        self.classes = None if classes is None else checked_classes(classes, "`classes`")
        self.lists, self.image_size, self.channels = lists, image_size, channels
        self.train_per_client, self.val_share = train_per_client, val_share
        self.share_of_smallest: float | None = share_of_smallest
        self.seed, self.on_bad_image = seed, on_bad_image

    @property
    def spec(self) -> DataSpec:
        """The settings; without `classes` the lists are read for their number."""
        num_classes = len(self.classes) if self.classes else 1 + max(int(part.labels.max()) for part in self._filled)
        return DataSpec(self.channels, self.image_size, num_classes)

    @property
    def _filled(self) -> list[Part]:
        return [part for parts in self.parts.values() for part in parts.values() if len(part.labels)]

    @functools.cached_property
    def parts(self) -> dict[str, dict[ListSplit, Part]]:
        """The training and the test part of every domain."""
        listed = self._read_lists()
        labels, base = self._labels(listed), self._base(listed)
        return {
            domain: {split: self._part(base, of_domain[split], labels) for split in LIST_SPLITS}
            for domain, of_domain in listed.items()
        }

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes: those that are kept, else the folders of their images, or nothing if those differ."""
        if self.classes is not None:
            return self.classes
        names: dict[int, set[str]] = {label: set() for label in range(self.spec.num_classes)}
        for part in self._filled:
            assert isinstance(part.images, ImageFiles)
            for path, label in zip(part.images.names, part.labels.tolist(), strict=True):
                names[label].add(folder_of(path))
        return tuple(name for each in names.values() for name in each) if {*map(len, names.values())} == {1} else ()

    def settings(self) -> dict[str, object]:
        """Return the key of the cache: the settings, the lists, and size and modification time of every file.

        Raises:
            FileNotFoundError: if lists or images are not there.
            ValueError: if a list is not what it should be.
        """
        samples, stamps = [], []
        for domain, parts in self.parts.items():
            for split, part in parts.items():
                assert isinstance(part.images, ImageFiles)
                samples.append((domain, split, part.images.names, part.labels.tolist()))
                stamps.append(stamp(part.images.root, part.images.names, self.on_bad_image))
        return {
            "domains": list(self.parts),
            "samples": hashlib.sha256(repr(samples).encode()).hexdigest(),
            "files": stamps,
            "lists": self.lists,
            "train_per_client": self.train_per_client,
            "share_of_smallest": self.share_of_smallest,
            "val_share": float(self.val_share),
            "seed": self.seed,
        }

    def write(self, writer: ArrayWriter) -> None:
        """Split every domain's training list, and decode the images."""
        shares = []
        for domain, parts in self.parts.items():
            train, val = self._train_and_val(domain, parts["train"].labels)
            shares.append(Share(domain, "test", parts["test"], np.arange(len(parts["test"].labels))))
            shares.append(Share(domain, "val", parts["train"], val))
            shares.append(Share(domain, "train", parts["train"], train))
        write_shares(writer, shares, self.on_bad_image)

    def _train_and_val(self, domain: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(stable_seed("domains", self.seed, domain))
        if self.share_of_smallest is None:
            made = train_val_test(labels, 0.0, self.val_share, rng, self.train_per_client)
            return made.train, made.val
        smallest = min(len(parts["train"].labels) for parts in self.parts.values())
        size = int(self.share_of_smallest * smallest)
        if not size:
            raise ValueError(
                f"`share_of_smallest={self.share_of_smallest}` of {smallest} training images is none."
                " HINT: set a larger share, or `train_per_client`."
            )
        order = np.arange(len(labels)) if self.lists == "pkl" else stratified_order(labels, rng)
        return order[:size], order[-size:]

    def _read_lists(self) -> dict[str, dict[ListSplit, Listed]]:
        ending = f"_train.{self.lists}"
        places = [self.folder, self.folder / "splits"]
        found = sorted(path.name for place in places for path in place.glob(f"*.{self.lists}"))
        domains = self.given_domains
        if domains is None:
            domains = sorted({name.removesuffix(ending) for name in found if name.endswith(ending)})
        names = [f"{domain}_{split}.{self.lists}" for domain in domains for split in LIST_SPLITS]
        paths = {
            name: next((place / name for place in places if (place / name).is_file()), None)
            for name in names or [f"DOMAIN{ending}"]
        }
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            folders = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
            raise FileNotFoundError(
                f"Lists are missing in {self.folder}: {shortened(missing, 12)}; found"
                f" {shortened(found or folders, 12) or 'nothing'}. Expected DOMAIN_train.{self.lists} and"
                f" DOMAIN_test.{self.lists} in it or in its folder `splits`, and the images that they name. HINT: the"
                f" folder is `root`/`folder`: set `--data.init_args.root`.{self.home} Without lists, the class"
                " `lpft.data.folder.FolderClients` reads ROOT/DOMAIN/CLASS/IMAGE."
            )
        check_client_names(domains)
        read = read_text_list if self.lists == "txt" else read_pickled_list
        listed = {
            domain: {split: read(Path(str(paths[f"{domain}_{split}.{self.lists}"]))) for split in LIST_SPLITS}
            for domain in domains
        }
        if not any(each.paths for of_domain in listed.values() for each in of_domain.values()):
            raise ValueError(f"The lists in {self.folder} are empty: {shortened(names, 12)}.")
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

    def _part(self, base: Path, listed: Listed, labels: Mapping[int | str, int]) -> Part:
        """Keep the images of the wanted classes and number these."""
        classes = listed.classes
        if self.classes is not None and self.lists == "txt":
            classes = [folder_of(path) for path in listed.paths]
        kept = [(path, labels[name]) for path, name in zip(listed.paths, classes, strict=True) if name in labels]
        return Part(np.array([label for _, label in kept], np.int64), ImageFiles(base, [path for path, _ in kept]))

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
                            f" {self.folder}, the latter for {path}. HINT: get the lists again; all domains have the"
                            " same labels."
                        )
        missing = [name for name in self.classes or () if name not in labels]
        if missing:
            raise ValueError(
                f"`classes`: {', '.join(missing)} are in no list of {self.folder}; found"
                f" {shortened(in_order(labels), 20)}."
            )

    def _base(self, listed: Mapping[str, Mapping[ListSplit, Listed]]) -> Path:
        """Return the folder that the paths of the lists start from."""
        first = next(each.paths[0] for of_domain in listed.values() for each in of_domain.values() if each.paths)
        return next((base for base in (self.folder, self.folder.parent) if (base / first).exists()), self.folder)


class DomainNet(DomainFolders):
    """DomainNet (Peng et al., arXiv:1812.01754): one client for each of its six domains.

    The set's folder holds the six domains' folders and their lists (the cleaned ones), as the home page has them. By
    default FedBN's ten classes, 64x64 pixels, and at most 500 images of a domain to train on and choose by.
    ``configs/data/domainnet_fedbn.yaml`` has FedBN's own lists, numbers and size.

    Args:
        root: folder that holds the set's folder.
        folder: the set's folder, with the lists; relative to `root`.
        domains: names of the domains; all six by default.
        classes: `fedbn` for FedBN's ten, labelled 0 to 9 in its order; `all` for all 345 with the labels of the lists;
            or names.
        lists: which lists are read; `pkl` for those of FedBN.
        image_size: height and width to which all images are resized.
        channels: 1 or 3.
        train_per_client: most images that a client trains on and chooses by; a stratified draw of them.
        share_of_smallest: in its place, as in `DomainFolders`.
        val_share: share of the training images on which choices are made.
        mean: what is subtracted from every channel, on the scale from 0 to 1; by default 0.5.
        std: what every channel is divided by then; by default 0.5.
        seed: of the splits; not the seed of a run.
        on_bad_image: what to do about files that are missing or cannot be decoded.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.
    """

    home = " Home page and terms (non-commercial research): http://ai.bu.edu/M3SDA/ ; nothing is downloaded."

    def __init__(
        self,
        root: str = ".",
        folder: str = "DomainNet",
        domains: list[str] | None = None,
        classes: Literal["fedbn", "all"] | list[str] = "fedbn",
        lists: Lists = "txt",
        image_size: PositiveInt = 64,
        channels: PositiveInt = 3,
        train_per_client: PositiveInt | None = 500,
        share_of_smallest: ShareOfSmallest | None = None,  # type: ignore[valid-type]
        val_share: ClosedUnitInterval = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int = 0,
        on_bad_image: OnBadImage = "error",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            root, folder, list(DOMAINNET) if domains is None else domains,
            list(FEDBN_CLASSES) if classes == "fedbn" else None if isinstance(classes, str) else classes,
            lists, image_size, channels, train_per_client, share_of_smallest, val_share, mean, std, seed, on_bad_image,
            cache_dir,
        )  # fmt: skip


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
