"""Warnings and errors about a dataset before training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import pandas as pd

from lpft.data.cache import Arrays
from lpft.data.duplicates import by_class, large_losses
from lpft.data.messages import shortened
from lpft.data.sources.pixels import Depth, PixelSettings
from lpft.data.splits import SPLITS

log = logging.getLogger("lpft")

OTHER_FORMATS = (".heic", ".heif", ".avif", ".jp2", ".dcm", ".dicom", ".nii", ".nii.gz", ".svs", ".svg", ".webm")
"""Endings of unsupported image formats."""

HINT_FOR_ROWS = (
    "remove rows that were copied, within a site or from another one, and rows that stand for a missing one. If the"
    " features have few values, so that different samples can be equal, set `--data.source.equal_rows keep`."
)


def refuse_large_losses(arrays: Arrays, most: float, class_names: Sequence[str]) -> None:
    """Raise ValueError if more than the share `most` of a class or client was left out as duplicates."""

    def named(counts: Mapping[int, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
        return {class_names[label] if class_names else str(label): of_class for label, of_class in counts.items()}

    remaining: dict[str, dict[str, int]] = {
        client.name: {str(split): len(getattr(client, split)) for split in SPLITS} for client in arrays.clients
    }
    of_clients = large_losses(remaining, arrays.left_out, most)
    remaining_of_classes = by_class(arrays.clients, arrays.labels.numpy()) if arrays.left_out else {}
    of_classes = large_losses(
        named(remaining_of_classes), named(arrays.left_out_of_classes), most, nothing_left=most < 1
    )
    lines = [
        f"{kind} {loss.whose}: {loss.left_out} of {loss.images} {loss.split} {arrays.noun}"
        for kind, losses in (("class", of_classes), ("client", of_clients))
        for loss in losses
    ]
    if lines:
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        title = f"Too many {arrays.noun} are also, {arrays.alike}, in a test or val part of some client:"
        hint = "remove files that were copied, within a site or from another one, and pictures that stand for a missing"
        hint = f"{hint} image." if arrays.noun == "images" else HINT_FOR_ROWS
        leave_out = "`--data.max_left_out 1` leaves all of these out of training."
        raise ValueError("\n  ".join([title, *lines[:10]]) + f"{more}\nHINT: {hint} {leave_out}")


def scaling(depth: Depth, settings: PixelSettings) -> str:
    """Describe how images of more than 8 bits per channel were scaled to 8 bits."""
    start, end = settings.value_range or (0, depth.limit)
    return (
        f"{depth.images} images of more than 8 bits a channel have values from {depth.lowest:g} to {depth.highest:g};"
        f" {start:g} to {end:g} became 0 to 255"
    )


def better_scaling(depth: Depth, settings: PixelSettings) -> str | None:
    """Return the option that scales images that use less than half of their range; None if they do not or one is set.

    >>> better_scaling(Depth(65535, 100, 7, 4000), PixelSettings())
    '--data.bits 12'
    """
    if settings.value_range is not None or not 0 < 2 * depth.highest <= depth.limit:
        return None
    if depth.limit == 1:
        return f"--data.value_range '[0,{depth.highest:g}]'"
    return f"--data.bits {int(depth.highest).bit_length()}"


def warn_of_pixels(arrays: Arrays, settings: PixelSettings) -> None:
    """Log unexpected pixels: depth, frames, images in several classes."""
    start, end = settings.value_range or (-math.inf, math.inf)
    for depth in arrays.depths:
        option = better_scaling(depth, settings)
        if option:
            log.warning("%s, so that they are dark. HINT: `%s` scales them.", scaling(depth, settings), option)
        elif not start <= depth.lowest <= depth.highest <= end:
            log.warning("%s, and what is beyond is cut off.", scaling(depth, settings))
    if arrays.frames:
        log.warning(
            "%d files have several frames or pages, of which the first is read: %s. HINT: save those that you need as"
            " files of their own.",
            len(arrays.frames), shortened(arrays.frames),
        )  # fmt: skip
    if arrays.ambiguous:
        log.warning("%d %s are, %s, in several classes.", arrays.ambiguous, arrays.noun, arrays.alike)


def warn_of_ignored(names: Sequence[str]) -> None:
    """Log files that are ignored because of their ending."""
    if names:
        others = any(name.lower().endswith(OTHER_FORMATS) for name in names)
        hint = (
            " HINT: convert HEIC, AVIF, DICOM and the like to PNG (of 16 bits, if need be) or JPEG." if others else ""
        )
        log.warning(
            "%d files in the class folders are left out, being no images by their ending: %s.%s",
            len(names), shortened(names), hint,
        )  # fmt: skip


def warn_of_divided_units(left_out: pd.DataFrame, num_samples: int) -> None:
    """Log the samples, of `num_samples`, that are left out because their unit is in a test or val set."""
    if len(left_out):
        counts = left_out["domain"].value_counts()
        log.warning(
            "%d of %d samples were left out of train or val (%s): others of their unit, such as %s, are in a test or"
            " val part. HINT: if each site numbers its units from the same start, make the names unique.",
            len(left_out), num_samples, shortened([f"{name}: {count}" for name, count in counts.items() if count]),
            left_out["unit"].iloc[0],
        )  # fmt: skip


def warn_of_gaps(arrays: Arrays, num_classes: int) -> None:
    """Log which samples were left out, and which clients lack samples or classes."""
    left_out = sum(num for of_client in arrays.left_out.values() for num in of_client.values())
    if left_out:
        log.warning(
            "%d %s of %s were left out of train or val: the same %s are in a test or val part.",
            left_out, arrays.noun, shortened([f"client {name}" for name in arrays.left_out]), arrays.noun,
        )  # fmt: skip
    if arrays.bad:
        log.warning(
            "%d image files could not be decoded and were left out: %s.", len(arrays.bad), shortened(arrays.bad)
        )
    trained = [client for client in arrays.clients if len(client.train)]
    gaps = {
        "have no training samples": [client for client in arrays.clients if not len(client.train)],
        "have no test samples": [client for client in arrays.clients if not len(client.test)],
        f"lack some of the {num_classes} classes in training": [
            client for client in trained if len(arrays.labels[client.train].unique()) < num_classes
        ],
    }
    for gap, clients in gaps.items():
        if clients:
            names = shortened([client.name for client in clients])
            log.warning("%d of %d clients %s: %s.", len(clients), len(arrays.clients), gap, names)
