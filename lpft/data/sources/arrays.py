"""Array files and torchvision datasets that are named in the configuration."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lpft.data.messages import about
from lpft.data.sources.array_files import ArrayDomain, SourceSplit, domain_files, open_domain, read_groups
from lpft.data.sources.base import Images, OnBadImage, Source, categories
from lpft.data.sources.image_files import stamp
from lpft.data.splits import SPLITS, GivenSplits
from lpft.storage.run import check_client_names


class SplitSource(Source):
    """A source whose domains are a few opened parts, the rows of the table being those of the parts, one after another.

    A subclass says which parts there are. Images are read part by part.
    """

    @abstractmethod
    def open_parts(self) -> Iterator[tuple[str, str, SourceSplit]]:
        """Yield domain, split (``""`` for none) and samples of every part."""

    @cached_property
    def parts(self) -> list[tuple[str, str, SourceSplit]]:
        """What `open_parts` yields, opened once."""
        return list(self.open_parts())

    def table(self) -> pd.DataFrame:
        """Return the labels of all parts."""
        sizes = [len(part.labels) for *_, part in self.parts]
        domains = [domain for domain, *_ in self.parts]
        return pd.DataFrame({
            "label": np.concatenate([part.labels for *_, part in self.parts]),
            "domain": categories(np.repeat(domains, sizes), list(dict.fromkeys(domains))),
            "split": np.repeat([split for _, split, _ in self.parts], sizes).astype(object),
        })  # fmt: skip

    def images(self, positions: np.ndarray) -> Images:
        """Read the images of each part that some positions are in."""
        ends = np.cumsum([len(part.labels) for *_, part in self.parts])
        bounds = np.searchsorted(positions, [0, *ends])
        by_part = [
            part.images(positions[first:last] - (end - len(part.labels)))
            for (*_, part), end, first, last in zip(self.parts, ends, bounds, bounds[1:], strict=False)
            if last > first
        ]
        return by_part[0] if len(by_part) == 1 else [image for images in by_part for image in images]

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return the parts, those without samples included."""
        given: dict[str, set[str]] = {}
        for domain, split, _ in self.parts:
            given.setdefault(domain, set()).update({split} & set(SPLITS))
        return given


class Arrays(SplitSource):
    """Images from ``.npz`` and ``.npy`` files and torchvision datasets, each a domain; see `ArrayDomain`.

    A domain with `group` is one domain for each group instead, called ``NAME-GROUP``. A domain keeps its test and val
    part; if it has none, they are cut from the training images.

    Args:
        domains: where images come from, by name.
        root: folder that the domains' paths start from.

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
        self.stamp()
        for name, domain in self.domains.items():
            with about(f"`domains.{name}`"):
                parts = open_domain(domain, self.root)
                groups = read_groups(domain, self.root, len(parts["train"].labels)) if domain.group else None
            if groups is None:
                yield from ((name, split, part) for split, part in parts.items())
            else:
                for group in np.unique(groups):
                    yield f"{name}-{group}", "", _rows_of(parts["train"], np.flatnonzero(groups == group))

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Return size and modification time of every file."""
        files = {name: domain_files(domain, self.root) for name, domain in self.domains.items()}
        missing = [f"`domains.{name}`: {path}" for name, paths in files.items() for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"Image sources are not there: {'; '.join(missing)}. HINT: their paths start from `root`, which is"
                f" {str(self.root)!r}; set it with `--data.source.root`. Nothing is downloaded."
            )
        below = {
            name: [
                (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix() for path in paths
            ]
            for name, paths in files.items()
        }
        return json.dumps({name: stamp(self.root, paths) for name, paths in below.items()})


def _rows_of(part: SourceSplit, rows: np.ndarray) -> SourceSplit:
    return SourceSplit(part.labels[rows], lambda positions: part.images(rows[positions]))
