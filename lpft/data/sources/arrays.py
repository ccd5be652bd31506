"""Array files and torchvision datasets listed in the configuration."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lpft.data.messages import about
from lpft.data.sources.array_files import ArrayDomain, SourceSplit, domain_files, open_domain, read_groups
from lpft.data.sources.base import Images, OnBadImage, Source
from lpft.data.sources.image_files import stamp_paths
from lpft.data.splits import SPLITS, GivenSplits, members_by_value
from lpft.storage.run import check_client_names

log = logging.getLogger("lpft")


class SplitSource(Source):
    """A source whose table is the concatenation of a few parts, each of one domain and split.

    Subclasses implement `open_parts`. Images are read part by part.
    """

    @abstractmethod
    def open_parts(self) -> Iterator[tuple[str, str, SourceSplit]]:
        """Yield domain, split (``""`` for none) and samples of every part."""

    @cached_property
    def parts(self) -> list[tuple[str, str, SourceSplit]]:
        """The parts, opened once."""
        return list(self.open_parts())

    @cached_property
    def _ends(self) -> np.ndarray:
        """End of each part's rows in the table, ``(num_parts,)``."""
        return np.cumsum([len(part.labels) for *_, part in self.parts])

    def release(self) -> None:
        """Close the parts; they are reopened when needed."""
        for name in ("parts", "_ends"):
            vars(self).pop(name, None)

    def table(self) -> pd.DataFrame:
        """Return the labels of all parts."""
        sizes = [len(part.labels) for *_, part in self.parts]
        domains, names = pd.factorize(np.array([domain for domain, *_ in self.parts], object))
        return pd.DataFrame({
            "label": np.concatenate([part.labels for *_, part in self.parts]),
            "domain": pd.Categorical.from_codes(np.repeat(domains, sizes), pd.Index(names)),
            "split": np.repeat(np.array([split for _, split, _ in self.parts], object), sizes),
        })  # fmt: skip

    def images(self, positions: np.ndarray) -> Images:
        """Read images, each part at once."""
        part_of = np.searchsorted(self._ends, positions, side="right")
        by_part = []
        for number in np.unique(part_of):
            part = self.parts[number][2]
            first = self._ends[number] - len(part.labels)
            by_part.append(part.images(positions[part_of == number] - first))
        return by_part[0] if len(by_part) == 1 else [image for images in by_part for image in images]

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return the splits of every domain, including empty ones."""
        given: dict[str, set[str]] = {}
        for domain, split, _ in self.parts:
            given.setdefault(domain, set()).update({split} & set(SPLITS))
        return given


class Arrays(SplitSource):
    """Images from ``.npz`` and ``.npy`` files and torchvision datasets, each a domain; see `ArrayDomain`.

    A domain with `group` becomes one domain for each group, called ``NAME-GROUP``. A domain keeps its test and val
    sets; missing ones are split off the training images.

    Args:
        domains: files of every domain, by its name.
        root: folder that the domains' paths are relative to.

    Raises:
        ValueError: if a setting is out of range.
    """

    draws = "arrays"
    image_size = 28

    def __init__(self, domains: dict[str, ArrayDomain], root: str = ".") -> None:
        if not domains:
            raise ValueError("`domains` is empty. HINT: name at least one source of images.")
        check_client_names(domains)
        self.domains = domains
        self.root = Path(root).expanduser()

    def open_parts(self) -> Iterator[tuple[str, str, SourceSplit]]:
        """Open every domain."""
        self._files()  # names all missing files at once
        for name, domain in self.domains.items():
            with about(f"`domains.{name}`"):
                parts = open_domain(domain, self.root)
                groups = read_groups(domain, self.root, len(parts["train"].labels)) if domain.group else None
            if groups is None:
                yield from ((name, split, part) for split, part in parts.items())
            else:
                for rows in members_by_value(groups):
                    yield f"{name}-{groups[rows[0]]}", "", _rows_of(parts["train"], rows)

    def table(self) -> pd.DataFrame:
        """Return the labels of all domains, and warn if they seem to start at 1."""
        table = super().table()
        if len(table) and table["label"].min() == 1:
            log.warning(
                "The labels go from 1 to %d, so that class 0 has no images. HINT: if 1 is the first class, set"
                " `first_label: 1` for every domain.", table["label"].max(),
            )  # fmt: skip
        return table

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Return a hash of names, sizes and modification times of each domain's files."""
        return json.dumps({name: stamp_paths(self.root, paths) for name, paths in self._files().items()})

    def _files(self) -> dict[str, list[Path]]:
        """Return every domain's files; raise FileNotFoundError if some are missing."""
        files = {name: domain_files(domain, self.root) for name, domain in self.domains.items()}
        missing = [f"`domains.{name}`: {path}" for name, paths in files.items() for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"Image files are missing: {'; '.join(missing)}. HINT: their paths start from `root`, which is"
                f" {str(self.root.absolute())!r}; set it with `--data.source.root`. Nothing is downloaded."
            )
        return files


def _rows_of(part: SourceSplit, rows: np.ndarray) -> SourceSplit:
    return SourceSplit(part.labels[rows], lambda positions: part.images(rows[positions]))
