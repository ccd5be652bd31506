"""Clients from array files and torchvision datasets that are named in the configuration."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.base import FederatedDataModule
from lpft.data.cache import ArrayWriter
from lpft.data.partition import Iid, by_group, equal_parts, follow, train_val_test
from lpft.data.shares import Part, Share, write_shares
from lpft.data.sources import ArrayFiles, Source, open_source, open_val, read_groups, source_files
from lpft.runtime.seeding import stable_seed
from lpft.storage.run import check_client_names
from lpft.types import DataSpec


class ArrayClients(FederatedDataModule):
    """Clients from ``.npz`` and ``.npy`` files and torchvision datasets, their images made alike.

    Every source is a client of that name, or several (``name-0``, ``name-1``, ... with `num_clients`, ``name-GROUP``
    with `group`); its `partition` shifts labels or sizes between them. A source with a test part keeps it; otherwise
    `test_share` of a client's images is tested on. Likewise it keeps its part for choices, or `val_share` of the
    training images is for them. All splits are stratified by class and seeded by `seed` and the client's name. An image
    that is, after resizing, pixel for pixel in anyone's test part is left out of all train and val parts, one that is
    in a val part is left out of the train parts; how many is logged.

    Args:
        sources: where images come from, by name.
        root: folder that the sources' paths start from.
        image_size: height and width to which all images are resized (bilinear, antialiased, shape not kept).
        channels: 1 or 3; RGB becomes grey by luminance (ITU-R 601), grey becomes RGB by repetition.
        num_classes: number of classes; by default the highest label of all sources plus one.
        train_per_client: most images that a client trains on and chooses by; a stratified draw of them.
        val_share: share of the training images on which choices are made, where the source has no part for them.
        test_share: share of a client's images that is tested on, where the source has no test part of its own.
        seed: of the parts and splits; not the seed of a run.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.

    Raises:
        ValueError: if a setting is out of range, or a source does not hold what its settings say.
        FileNotFoundError: if a source is not there.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        root: str = ".",
        image_size: PositiveInt = 28,
        channels: PositiveInt = 3,
        num_classes: PositiveInt | None = None,
        train_per_client: PositiveInt | None = None,
        val_share: ClosedUnitInterval = 0.1,
        test_share: ClosedUnitInterval = 0.25,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(cache_dir)
        if channels not in (1, 3):
            raise ValueError(f"`channels={channels}` is neither 1 (grey) nor 3 (RGB).")
        if not sources:
            raise ValueError("`sources` is empty. HINT: name at least one source of images.")
        check_client_names(sources)
        self.sources, self.root = sources, Path(root).expanduser()
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.train_per_client, self.val_share, self.test_share = train_per_client, val_share, test_share
        self.seed = seed
        self.mean = self.std = (0.5,) * channels

    @property
    def spec(self) -> DataSpec:
        """The settings; without `num_classes` the labels (not the images) of all sources are read for it."""
        return DataSpec(self.channels, self.image_size, self.num_classes or self._num_classes_found)

    @functools.cached_property
    def _num_classes_found(self) -> int:
        self.settings()  # says what is missing
        files = ArrayFiles(self.root)
        parts = [part for name in self.sources for part in self._open(name, files) if part is not None]
        labels = [part.labels for part in parts if len(part.labels)]
        return max((int(each.max()) for each in labels), default=0) + 1

    def settings(self) -> dict[str, object]:
        """Return the key of the cache: the settings, and size and modification time of every file.

        Raises:
            FileNotFoundError: if a file or folder is missing; all that are missing are named.
        """
        files = {name: source_files(source, self.root) for name, source in self.sources.items()}
        missing = [f"`sources.{name}`: {path}" for name, paths in files.items() for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"Image sources are not there: {'; '.join(missing)}. HINT: their paths start from `root`, which is"
                f" {str(self.root)!r}; set it with `--data.init_args.root`. Nothing is downloaded."
            )
        return {
            "sources": {
                name: {
                    **asdict(source),
                    "partition": source.partition and source.partition.settings(),
                    "files": _stamps(files[name], self.root),
                }
                for name, source in self.sources.items()
            },
            "num_classes": self.num_classes,
            "train_per_client": self.train_per_client,
            "val_share": float(self.val_share),
            "test_share": float(self.test_share),
            "seed": self.seed,
        }

    def write(self, writer: ArrayWriter) -> None:
        """Share out all sources' samples and resize the images."""
        files = ArrayFiles(self.root)
        shares = [share for name in self.sources for share in self._shares(name, files)]
        check_client_names(dict.fromkeys(share.client for share in shares))
        write_shares(writer, shares)

    def _shares(self, name: str, files: ArrayFiles) -> Iterator[Share]:
        """Share one source out to its clients."""
        train, val, test = self._open(name, files)
        for client, mine, mine_val, mine_test in self._clients(name, files):
            rng = np.random.default_rng(stable_seed("arrays", self.seed, client))
            test_share, val_share = 0.0 if test else self.test_share, 0.0 if val else self.val_share
            made = train_val_test(train.labels[mine], test_share, val_share, rng, self.train_per_client)
            yield Share(client, "test", test or train, mine_test if test else mine[made.test])
            yield Share(client, "val", val or train, mine_val if val else mine[made.val])
            yield Share(client, "train", train, mine[made.train])

    def _clients(self, name: str, files: ArrayFiles) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield every client of a source: its name and positions in the training, val and test part."""
        source, nothing = self.sources[name], np.empty(0, np.int64)
        train, val, test = self._open(name, files)
        if source.group:
            groups = read_groups(source, files, f"`sources.{name}`", len(train.labels))
            for group, positions in by_group(groups).items():
                yield f"{name}-{group}", positions, nothing, nothing
            return
        rng = np.random.default_rng(stable_seed("arrays", self.seed, name, "clients", source.num_clients))
        with _said_of(name):
            trains = (source.partition or Iid())(train.labels, source.num_clients, rng)

        def dealt(part: Part | None) -> list[np.ndarray]:
            if part is None:
                return [nothing] * source.num_clients
            if source.partition is None:
                return equal_parts(part.labels, source.num_clients, rng)
            return follow(trains, train.labels, part.labels, rng)

        tests, vals = dealt(test), dealt(val)
        names = [name] if source.num_clients == 1 else [f"{name}-{k}" for k in range(source.num_clients)]
        yield from zip(names, trains, vals, tests, strict=True)

    def _open(self, name: str, files: ArrayFiles) -> tuple[Part, Part | None, Part | None]:
        """Open the training, val and test part of a source; one with groups has no val and test part for them."""
        source, whose = self.sources[name], f"`sources.{name}`"
        train, test = open_source(source, files, whose)
        return (train, None, None) if source.group else (train, open_val(source, files, whose), test)


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Name the source in what a partitioner says of its settings."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`sources.{name}.partition`: {error}") from error


def _stamps(paths: list[Path], root: Path) -> dict[str, list[int]]:
    """Return size in bytes and modification time in nanoseconds of every file, by its path from the root."""
    stats = {path: path.stat() for path in paths}
    below = {path: path.relative_to(root) if path.is_relative_to(root) else path for path in paths}
    return {below[path].as_posix(): [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}
