"""Decoding a source's images, batch by batch; image files in several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset

from lpft.data.entry_folder import Interrupted
from lpft.data.sources.base import Source
from lpft.data.sources.image_files import Decoded
from lpft.data.sources.pixels import PixelSettings
from lpft.runtime.processes import available_cores, leave_with_parent, start_method
from lpft.runtime.progress import Steps
from lpft.runtime.signals import stop_requested
from lpft.types import DataSpec

BATCH_BYTES = 8 * 2**20
"""Maximum size of a batch of decoded images, in bytes."""

FEW_FILES = 1000
"""Number of image files up to which starting helpers takes longer than decoding."""

SHOWN_FROM = 5000
"""Smallest number of samples for which progress is shown."""


def decode(
    source: Source, rows: np.ndarray, spec: DataSpec, settings: PixelSettings, start: int = 0
) -> Iterator[Decoded]:
    """Yield the images of a source's rows, given in ascending order, in batches, after the first `start` rows.

    Raises:
        Interrupted: if a helper process is killed.
    """
    num_bytes = 3 * spec.image_size**2 if spec.num_features is None else 4 * spec.num_features
    batch_size = max(1, min(1024, BATCH_BYTES // num_bytes))
    batches = [rows[first : first + batch_size] for first in range(start, len(rows), batch_size)]
    cores = available_cores()
    helpers = cores if source.parallel and len(rows) - start > FEW_FILES and cores > 1 else 0
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", batches),
        batch_size=None,
        num_workers=helpers,
        multiprocessing_context=start_method("cpu") if helpers else None,
        collate_fn=partial(source.read, channels=spec.in_channels, size=spec.image_size, settings=settings),
        worker_init_fn=partial(_start_helper, os.getpid()),
    )
    noun, show = spec.noun, len(rows) >= SHOWN_FROM
    with Steps("prepare", len(rows), noun.removesuffix("s"), show, start, counted=noun, lines=10) as steps:
        try:
            for decoded in loader:
                yield decoded
                steps.advance("", len(decoded.good), len(decoded.good))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            stop_requested()  # after Ctrl-C this process stops, too
            raise Interrupted(
                "A process that decodes images was killed (out of memory?). What is decoded is kept."
                " HINT: start the same command again; with fewer cores, it needs less memory."
            ) from error


def _start_helper(parent: int, number: int) -> None:
    leave_with_parent(parent)
