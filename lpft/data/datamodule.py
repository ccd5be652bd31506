"""The interface to all data: clients, their samples, one array of images or features."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lpft.data.cache import Arrays, ClientSplit, Samples, open_or_build
from lpft.data.checks import refuse_large_losses, warn_of_divided_units, warn_of_gaps, warn_of_ignored, warn_of_pixels
from lpft.data.decode import decode
from lpft.data.held_out import chosen_to_be_held_out, chosen_to_be_kept, pooled
from lpft.data.normalization import Normalization, Normalize, standardization
from lpft.data.partition.base import Partition
from lpft.data.partition.by_domain import ByDomain
from lpft.data.sources.base import OnBadImage, Source
from lpft.data.sources.pixels import PixelSettings
from lpft.data.splits import SPLITS, SplitPositions, SplitSettings, assign_splits, split_clients
from lpft.data.transforms import Augment, check_augment
from lpft.types import DataSpec


class FederatedDataModule(LightningDataModule):
    """Clients as slices of memory-mapped arrays, of images or of features.

    The source provides a table of samples, the partition assigns them to clients, and each client's samples are split
    into train, val and test unless the source defines the splits. An image that is, pixel for pixel, in any client's
    test set is left out of all train and val sets, and one in a val set is left out of all train sets; their number is
    logged. Images of one uniform colour stay: equal ones need not be copies. Images are decoded once into an array
    cache, which all processes map; a batch is then a gather by index.

    The same holds for rows of feature arrays, except for settings marked "for images only". Features are standardized
    by mean and standard deviation of the training data of the clients that take part in federated training.

    Args:
        source: the source of samples.
        clients: the partition; by default every domain of the source is a client.
        image_size: height and width to which all images are resized (bilinear, antialiased, aspect ratio not kept);
            by default that of the source. For images only.
        channels: 1 or 3; RGB becomes grey by luminance (ITU-R 601), grey becomes RGB by repetition. For images
            only.
        mean: value to subtract from every channel, on the scale from 0 to 1; by default that of the source, or 0.5.
            A pretrained model needs the values of its training. For features: one number for each or one for all, by
            default the mean of the training data.
        std: value to divide every channel by afterwards.
        val_share: share of the training samples for validation, for clients without a val set.
        test_share: share of a client's samples for testing, for clients without a test set; by default that of the
            source, or a quarter.
        train_per_client: maximum number of a client's training samples, including its validation samples unless the
            source defines its val set or has units; a stratified draw.
        test_per_client: maximum number of a client's test samples.
        num_classes: number of classes; by default that of the source, which may follow from its class names or from
            the highest label.
        held_out: clients that take no part in federated training and tuning, but are personalized and tested like the
            others: their number, to be drawn, or their names; null is none. Nothing else in the data depends on it.
        keep: clients for this machine, as on a node of a federation: their names, or `I/N` for every N-th one,
            beginning with number I, from 0; null is all. Their samples do not depend on this setting.
        seed: seed of the partition, the splits and the draw of held-out clients; not the seed of a run.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.
        on_bad_image: how to handle files that are missing or cannot be decoded: stop, or leave them out and list them.
            For images only, like the next three.
        background: colour behind transparent image files: `white`, `black`, or any other such as `#808080`.
        bits: number of bits to use of image files with more than 8 bits per channel, at most 16: with 12, values from 0
            to 4095 become 0 to 255, and higher ones 255. By default all bits of the format.
        value_range: instead of `bits`, the two values that become 0 and 255, such as `[-1000, 2000]`.
        max_left_out: largest share of a class's or a client's train or val images that may be left out because the same
            images are in a test or val set; more is an error. 1 permits all.

    Raises:
        ValueError: if a setting is out of range.
    """

    def __init__(
        self,
        source: Source,
        clients: Partition | None = None,
        image_size: PositiveInt | None = None,
        channels: PositiveInt | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        val_share: ClosedUnitInterval = 0.1,
        test_share: ClosedUnitInterval | None = None,
        train_per_client: PositiveInt | None = None,
        test_per_client: PositiveInt | None = None,
        num_classes: PositiveInt | None = None,
        held_out: NonNegativeInt | list[str] | None = None,
        keep: list[str] | str | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
        on_bad_image: OnBadImage = "error",
        background: str = "white",
        bits: PositiveInt | None = None,
        value_range: list[float] | None = None,
        max_left_out: ClosedUnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.source = source
        self._partition = clients or ByDomain()
        self._augment: Augment | None = None
        self._normalize: Normalize | None = None
        self._mean, self._std = mean, std
        if source.has_features:
            for_images = {"image_size": image_size, "channels": channels, "bits": bits, "value_range": value_range}
            for_images["background"] = None if background == "white" else background
            for_images["on_bad_image"] = None if on_bad_image == "error" else on_bad_image
            _refuse_for_features(source, for_images)
            self._channels = self._image_size = 0
        else:
            self._channels = channels or source.channels
            size = image_size or source.image_size
            if size is None:
                raise ValueError(
                    f"`{type(source).__name__}` has images of any size. HINT: set the size they get with `image_size`."
                )
            self._image_size = size
            defaults = (source.mean, source.std) if self._channels == source.channels else (None, None)
            self._normalize = Normalization.of(self._channels, mean or defaults[0], std or defaults[1])
        test_share = source.test_share if test_share is None else test_share
        if not val_share < 1 or not test_share < 1:
            raise ValueError(
                f"`test_share={test_share}` and `val_share={val_share}` must leave something to train on."
                " HINT: set both below 1."
            )
        if train_per_client is not None and getattr(source, "share_of_smallest", None) is not None:
            raise ValueError(
                f"`train_per_client={train_per_client}` and the source's `share_of_smallest` both determine how many"
                " images a client trains on. HINT: set one of them to null."
            )
        self._split_settings = SplitSettings(float(test_share), float(val_share), train_per_client, test_per_client)
        self._num_classes, self._seed, self._on_bad_image = num_classes, seed, on_bad_image
        self._held_out, self._keep, self._max_left_out = held_out, keep, float(max_left_out)
        self.pixels = PixelSettings.of(background, bits, value_range)
        """How image files are converted to pixels of 8 bits."""
        self._shown: Literal["all", "participants", "pooled"] = "all"
        self._clients_shown: list[ClientSplit] | None = None
        self._cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()
        self._arrays: Arrays | None = None

    @cached_property
    def spec(self) -> DataSpec:
        """Shape of the inputs and number of classes; no image is decoded."""
        num_classes = self._num_classes or self.source.count_classes()
        if self.source.has_features:
            names = self.source.class_names
            if names and len(names) != num_classes:
                raise ValueError(
                    f"`num_classes={num_classes}`, but the labels have {len(names)} values: {', '.join(names[:20])}."
                    " HINT: name all classes by `classes` of the source."
                )
            return DataSpec.of_features(len(self.source.feature_names), num_classes)
        return DataSpec(self._channels, self._image_size, num_classes)

    @property
    def normalize(self) -> Normalize:
        """Converts stored inputs ``(..., *spec.shape)`` to inputs of a network.

        Features are standardized by the training data without held-out clients.
        """
        if self._normalize is None:
            held_out = set(self._all_held_out())
            parts = [client.train for client in self.arrays.clients if client.name not in held_out]
            source, train = self.source, torch.cat(parts).numpy()
            self._normalize = standardization(
                self.images, train, source.feature_names, source.fills_missing, self._mean, self._std
            )
        return self._normalize

    @property
    def augment(self) -> Augment | None:
        """The augmentation of training images, the section `augment` of an experiment; the arrays do not depend on it.

        Raises:
            ValueError: if it is set and does not work for the data, or they are not images.
        """
        return self._augment

    @augment.setter
    def augment(self, augment: Augment | None) -> None:
        if augment is not None:
            if self.source.has_features:
                _refuse_for_features(self.source, {"augment": type(augment).__name__})
            check_augment(augment, (self._channels, self._image_size, self._image_size))
        self._augment = augment

    @property
    def arrays(self) -> Arrays:
        """The opened arrays: images or features, labels, groups, and numbers of images left out."""
        if self._arrays is None:
            raise RuntimeError("The data are not set up. HINT: call `setup()` first.")
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        self._arrays = arrays

    @property
    def images(self) -> Tensor:
        """Images, uint8, ``(num_samples, channels, size, size)``, or features, float32, ``(num_samples, d)``."""
        return self.arrays.images

    @property
    def labels(self) -> Tensor:
        """int64, ``(num_samples,)``."""
        return self.arrays.labels

    @property
    def clients(self) -> list[ClientSplit]:
        """All clients, in order; in the result of `participants` or `pooled` only those."""
        if self._shown == "all" and self._keep is None:
            return self.arrays.clients
        if self._clients_shown is None:
            left_out = set(self.held_out) if self._shown != "all" else set()
            chosen = [client for client in self._kept_clients() if client.name not in left_out]
            self._clients_shown = [pooled(chosen)] if self._shown == "pooled" else chosen
        return self._clients_shown

    @property
    def held_out(self) -> list[str]:
        """Names of the clients that take no part in federated training and tuning.

        Raises:
            ValueError: if a name is unknown, or no client is left.
        """
        names = {client.name for client in self._kept_clients()}
        return [name for name in self._all_held_out() if name in names]

    @property
    def kept(self) -> list[str] | None:
        """Names of the clients for this machine; None for all.

        Raises:
            ValueError: if a name is unknown, or no client is left.
        """
        return None if self._keep is None else [client.name for client in self._kept_clients()]

    def _all_held_out(self) -> list[str]:
        return chosen_to_be_held_out(self.arrays.clients, self._held_out, self._seed)

    def _kept_clients(self) -> list[ClientSplit]:
        return chosen_to_be_kept(self.arrays.clients, self._keep)

    def participants(self) -> FederatedDataModule:
        """Return the same data with only the clients that take part in federated training."""
        return self._showing("participants") if self._held_out else self

    def pooled(self) -> FederatedDataModule:
        """Return the same data with one client, which has the samples of all participants."""
        return self._showing("pooled")

    def _showing(self, shown: Literal["participants", "pooled"]) -> FederatedDataModule:
        view = copy.copy(self)
        view._shown, view._clients_shown = shown, None
        return view

    def prepare_data(self) -> None:
        """Build the array cache if it is missing, and warn of clients that lack samples or classes."""
        arrays = self._arrays or self._open()
        chosen_to_be_held_out(arrays.clients, self._held_out, self._seed)  # fails early
        chosen_to_be_kept(arrays.clients, self._keep)
        warn_of_gaps(arrays, self.spec.num_classes)
        warn_of_pixels(arrays, self.pixels)
        warn_of_ignored(self.source.ignored_files())

    def setup(self, stage: str | None = None) -> None:
        """Map the arrays, building them first if needed."""
        self._arrays = self._arrays or self._open()
        _ = self.normalize  # computed once, and sent to other processes

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the arrays: another process maps the same files."""
        return {**vars(self), "_arrays": self._arrays.entry if self._arrays else None, "_clients_shown": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        entry = state.pop("_arrays")
        vars(self).update(state, _arrays=Arrays.open(entry) if entry else None)

    def _open(self) -> Arrays:
        key = {
            "source": self.source.settings(),
            "files": self.source.stamp(self._on_bad_image),
            "clients": self._partition.settings(),
            "split": list(vars(self._split_settings).values()),
            "size": [self._channels, self._image_size],
            "num_classes": self._num_classes,
            "seed": self._seed,
            "pixels": vars(self.pixels),
        }
        arrays = open_or_build(
            self._cache_dir,
            type(self.source).__name__,
            key,
            self._samples,
            lambda samples, start: decode(self.source, samples.rows, self.spec, self.pixels, start),
            self.spec,
            self._on_bad_image,
        )
        self.source.release()
        refuse_large_losses(arrays, self._max_left_out, self.source.class_names)
        return arrays

    def _samples(self) -> Samples:
        """Assign samples to clients and split them; no image is decoded."""
        table = checked_table(self.source.cached_table, self.spec.num_classes)
        self.source.check_samples()
        if self._partition.makes_splits and self._on_bad_image == "skip":
            table = self.source.present(table)  # sizes are computed from existing images
        given = self.source.given_splits(table)
        if "unit" in table and not self._partition.makes_splits:
            table = self._keep_units_whole(table)
        if self._partition.makes_splits or "unit" in table:
            given = {domain: set(SPLITS) for domain in table["domain"].cat.categories}
        assigned = self._partition.assign(table, self._split_settings, self._rng)
        num_clients = len(assigned["client"].cat.categories)

        def draw(name: str, number: int) -> np.random.Generator:
            return self.source.rng(self._seed, *self.source.split_key(name, number, num_clients))

        splits = split_clients(assigned, given, self._split_settings, draw)
        rows = np.unique(np.concatenate([part for parts in splits.values() for part in parts]))
        groups = table["group"].cat if "group" in table else None
        return Samples(
            rows=rows,
            labels=table["label"].loc[rows].to_numpy(np.int64),
            groups=np.full(len(rows), -1) if groups is None else groups.codes.loc[rows].to_numpy(np.int64),
            clients={
                name: SplitPositions(*(np.searchsorted(rows, part) for part in parts)) for name, parts in splits.items()
            },
            group_names=() if groups is None else tuple(map(str, groups.categories)),
            equal_are_copies=self.source.equal_are_copies,
        )

    def _keep_units_whole(self, table: pd.DataFrame) -> pd.DataFrame:
        """Split each domain's samples by their units before the partition."""
        labels, units, split = (table[column].to_numpy() for column in ("label", "unit", "split"))
        rng = self.source.rng(self._seed, "units")
        domains = table["domain"].cat.codes.to_numpy()
        pools = assign_splits(labels, units, split, self._split_settings, rng, domains)
        splits = np.full(len(table), "", object)
        for name, pool in pools.items():
            splits[pool] = name
        whole = splits != ""
        warn_of_divided_units(table[~whole], len(table))
        return table.assign(split=splits)[whole]

    def _rng(self, domain: str | None = None, *key: int | str) -> np.random.Generator:
        return self.source.rng(self._seed, *self.source.partition_key(domain), *key)


def _refuse_for_features(source: Source, settings: Mapping[str, object]) -> None:
    """Raise ValueError if settings for images only are set."""
    for name, value in settings.items():
        if value is not None:
            raise ValueError(
                f"`{name}={value}` is for images, but `{type(source).__name__}` has rows of features."
                f" HINT: leave out `{name}`."
            )


def default_cache() -> Path:
    """Return ``LPFT_CACHE``, else a folder in the home directory, or a temporary one if there is none."""
    if named := os.environ.get("LPFT_CACHE"):
        return Path(named).expanduser()
    with contextlib.suppress(RuntimeError):  # no HOME, and the user id has no name
        cache = Path.home() / ".cache" / "lpft"
        if os.access(next(folder for folder in (cache, *cache.parents) if folder.exists()), os.W_OK):
            return cache
    return Path(tempfile.gettempdir()) / (f"lpft-{os.getuid()}" if hasattr(os, "getuid") else "lpft")


def checked_table(table: pd.DataFrame, num_classes: int) -> pd.DataFrame:
    """Return a source's table with a column `split`; raise ValueError if the table is invalid."""
    labels = table["label"]
    if not (pd.api.types.is_integer_dtype(labels) and labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1} ({num_classes} classes)."
        )
    if num_classes < 2:
        raise ValueError("all samples are of one class, but two are needed. HINT: if others exist, set `num_classes`.")
    if not isinstance(table["domain"].dtype, pd.CategoricalDtype):
        raise ValueError("the column `domain` is not categorical. HINT: make it with `sources.base.categories`.")
    if "unit" in table and len(missing := np.flatnonzero(table["unit"].isna() | (table["unit"] == ""))):
        first = ", ".join(f"{name}: {value}" for name, value in table.iloc[missing[0]].items())
        raise ValueError(
            f"{len(missing)} of {len(table)} samples have no `unit`, the first is {first}."
            " HINT: fill it in, or leave `unit` out: then every sample is a unit."
        )
    split = table["split"].fillna("") if "split" in table else ""
    return table.reset_index(drop=True).assign(split=split)
