"""The interface of sources: a table with one row per sample, and the images of rows."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lpft.data.messages import content_of, shortened
from lpft.data.sources.image_files import Decoded, decode_files, resize, stamp
from lpft.data.sources.pixels import PixelSettings
from lpft.data.splits import SPLITS, GivenSplits
from lpft.runtime.seeding import stable_seed

log = logging.getLogger("lpft")

OnBadImage = Literal["error", "skip"]
Images = np.ndarray | list[np.ndarray]
"""uint8, one array ``(n, height, width, 1 or 3)`` or a list of ``(height, width, 1 or 3)``."""


class Source(ABC):
    """A source of samples. Subclasses keep their constructor arguments in public attributes.

    The class attributes are defaults of `FederatedDataModule`.
    """

    draws = "source"
    """First word of the key of every random draw from this source."""
    one_domain = False
    """Whether all samples are of one domain, which is then left out of these keys."""
    image_size: int | None = None
    channels = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    test_share = 0.25
    num_classes: int | None = None
    """Number of classes; by default (None) see `count_classes`."""
    class_names: tuple[str, ...] = ()
    parallel = False
    """Whether images are decoded in several processes."""
    has_features = False
    """Whether samples are rows of numbers instead of images; see `lpft.data.sources.features`."""
    feature_names: Sequence[str] = ()
    """Names of the features, in order."""
    equal_are_copies = True
    """Whether samples with equal features or pixels are copies, which are never in two splits."""
    fills_missing = False
    """Whether missing features are replaced by the mean of the training data."""

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return one row per sample, in the order in which images are read fastest; no image is decoded.

        Columns:
            label: class, an integer from 0.
            domain: categorical; the order of the categories is that of the clients, and a category without rows is a
                client without samples.
            split: ``train``, ``val`` or ``test`` if the source defines it. A domain without test (val)
                rows gets them from its other rows.
            unit: samples with the same value, such as a patient, stay in one split; optional.
            group: categorical, the group for accuracies by group, such as ``blond, man``; optional.
            any other: attributes for partitions.

        Raises:
            FileNotFoundError: if files are missing; it lists them, and where to get them.
            ValueError: if a file has unexpected content.
        """

    @cached_property
    def cached_table(self) -> pd.DataFrame:
        """The table, read once; ValueError if it is empty."""
        table = self.table()
        if table.empty:
            raise ValueError(f"`{type(self).__name__}` has no samples. HINT: check its settings and its files.")
        return table

    def count_classes(self) -> int:
        """Return `num_classes`, by default the number of class names, or without names the highest label plus one."""
        return self.num_classes or len(self.class_names) or 1 + int(self.cached_table["label"].max())

    def images(self, positions: np.ndarray) -> Images:
        """Return the images of rows in ascending order, of any size.

        Sources that override `read`, such as those of image files and of features, need not implement it.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither `images` nor `read`.")

    def read(self, positions: np.ndarray, channels: int, size: int, settings: PixelSettings) -> Decoded:
        """Return the images of rows, uint8, ``(n, channels, size, size)``; see `images`."""
        stored = self.images(positions)
        if isinstance(stored, list) and len({image.shape for image in stored}) == 1:
            stored = np.stack(stored)
        batches = [image[None] for image in stored] if isinstance(stored, list) else [stored]
        resized = np.concatenate([resize(batch, channels, size) for batch in batches])
        return Decoded(resized, np.ones(len(resized), bool), [])

    def feature_record(self) -> dict[str, Any] | None:
        """Return what an exported model needs to read features; None for images."""
        return {"names": list(self.feature_names), "fills": self.fills_missing} if self.has_features else None

    def release(self) -> None:
        """Free the memory used for reading images; called once they are in the array cache."""
        return

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return the splits that the source defines for each domain, including empty ones."""
        rows = table.loc[table["split"].isin(SPLITS), ["domain", "split"]].drop_duplicates()
        return dict(rows.groupby("domain", observed=True)["split"].agg(set))

    def partition_key(self, domain: str | None) -> tuple[str | int, ...]:
        """Return the key of a partition's draws within this source."""
        return () if domain is None or self.one_domain else (domain,)

    def split_key(self, client: str, position: int, num_clients: int) -> tuple[str | int, ...]:
        """Return the key of the draws of a client's split within this source."""
        return (client,)

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Hash names, sizes and modification times of all files; raise FileNotFoundError if some are missing."""
        return ""

    def present(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows whose images exist, as far as can be determined without reading them."""
        return table

    def check_samples(self) -> None:
        """Check all samples before they enter the array cache; raise ValueError if some cannot be used."""
        return

    def ignored_files(self) -> Sequence[str]:
        """Return skipped files that the user should know about."""
        return ()

    def settings(self) -> dict[str, object]:
        """Return class and settings, JSON-serializable; together with `stamp` they determine the samples."""
        public = {name: _plain(value) for name, value in self.__getstate__().items() if not name.startswith("_")}
        public.pop("root", None)
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **public}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out cached properties."""
        kind = type(self)
        return {k: v for k, v in vars(self).items() if not isinstance(getattr(kind, k, None), cached_property)}

    def rng(self, seed: int, *key: int | str) -> np.random.Generator:
        """Return the generator of a draw."""
        return np.random.default_rng(stable_seed(self.draws, seed, *key))


class FileSource(Source):
    """A source of image files; subclasses implement `table`.

    The table has the column `file`: the path relative to `folder`.

    Args:
        root: folder of the data set.
    """

    parallel = True
    crop: int | None = None
    """Side in pixels of the center crop taken from every image."""
    _missing_hint = "set `--data.source.root` to the folder that the listed paths start from."
    """The hint if no file is found."""

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser()

    @property
    def folder(self) -> Path:
        """The folder that the paths of image files are relative to."""
        return self.root

    def read(self, positions: np.ndarray, channels: int, size: int, settings: PixelSettings) -> Decoded:
        """Decode files."""
        names = self.cached_table["file"].to_numpy(object)[positions]
        return decode_files(self.folder, list(names), channels, size, self.crop, settings)

    def present(self, table: pd.DataFrame) -> pd.DataFrame:
        """Leave out the rows whose files are missing, and log how many."""
        exists = table["file"].map(lambda name: (self.folder / name).is_file())
        if not exists.all():
            missing = [str(self.folder / name) for name in table["file"][~exists]]
            log.warning("%d files are missing and are left out: %s.", len(missing), shortened(missing))
        return table[exists]

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Hash the table, and names, sizes and modification times of the files."""
        names = list(self.cached_table["file"])
        if names and not any((self.folder / name).exists() for name in names):
            raise FileNotFoundError(
                f"None of the {len(names)} image files is in {self.folder}, such as {names[0]}; found"
                f" {content_of(self.folder)}. HINT: {self._missing_hint}"
            )
        content = pd.util.hash_pandas_object(self.cached_table.drop(columns="file"), index=False).to_numpy().tobytes()
        files = stamp(self.folder, names, on_missing)
        return hashlib.sha256(content + files.encode()).hexdigest()


def without_repeats(table: pd.DataFrame, where: object) -> pd.DataFrame:
    """Leave out rows that repeat another row.

    Raises:
        ValueError: if two rows of one file differ.
    """
    distinct = table.drop_duplicates()
    repeated = distinct["file"].duplicated(keep=False)
    if repeated.any():
        first = distinct[distinct["file"] == distinct["file"][repeated].iloc[0]]
        differing = [column for column in first if first[column].nunique(dropna=False) > 1]
        names = list(distinct["file"][repeated].unique())
        raise ValueError(
            f"{where}: {len(names)} files are listed with different values of {', '.join(differing)}:"
            f" {shortened(names)}. HINT: remove the lines that are wrong."
        )
    if len(distinct) < len(table):
        log.warning("%s: %d lines repeat others and are left out.", where, len(table) - len(distinct))
    return distinct


def categories(values: Iterable[Any], names: Sequence[str]) -> pd.Categorical:
    """Return a categorical column of domains or groups; `names` keep their order, and some may have no values.

    >>> categories(["b", "b"], ["b", "a"]).codes.tolist()
    [0, 0]
    """
    return pd.Categorical(list(values), categories=list(names))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in value.items()}
    return [_plain(element) for element in value] if isinstance(value, tuple | list) else value
