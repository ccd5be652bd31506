"""From sources of samples to the arrays of a dataset: who gets which, and writing it down."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from lpft.data.cache import ArrayWriter, Interrupted, Split
from lpft.data.images import Decoded, ImageFiles
from lpft.runtime.processes import available_cores, leave_with_parent
from lpft.runtime.progress import Steps
from lpft.types import DataSpec

CHUNK_BYTES = 8 * 2**20
"""Most bytes of images that are decoded and resized at once."""

FEW_FILES = 1000
"""So many image files are decoded sooner by one process than helpers are started."""

SHOWN_FROM = 5000
"""Progress is shown from so many samples on."""

WRITTEN_IN_ORDER: tuple[Split, ...] = ("test", "val", "train")

OnBadImage = Literal["error", "skip"]


class BadImageError(Interrupted):
    """A file that should be an image cannot be decoded."""


class Part(NamedTuple):
    """Samples of one source.

    Args:
        labels: int64, ``(n,)``.
        images: image files, or a function that returns the images at given positions as stored: uint8, one array
            ``(m, height, width, 1 or 3)`` or a list of ``(height, width, 1 or 3)``.
        groups: position of every sample's group in the dataset's group names, int64, ``(n,)``; by default there are
            none.
    """

    labels: np.ndarray
    images: ImageFiles | Callable[[np.ndarray], np.ndarray | list[np.ndarray]]
    groups: np.ndarray | None = None


class Share(NamedTuple):
    """What one client gets of a part: the positions for one of its splits."""

    client: str
    split: Split
    part: Part
    positions: np.ndarray


def write_shares(writer: ArrayWriter, shares: Iterable[Share], on_bad_image: OnBadImage = "error") -> None:
    """Decode, resize and write the samples of all clients: all test parts, then val, then train.

    In this order the writer can leave out of val and train what is tested or chosen on. Clients come in the order of
    the shares. Many image files are decoded by several processes. No more than a few chunks are held in memory.

    Args:
        writer: of the cache's entry.
        shares: all clients' samples; the same at each call.
        on_bad_image: what to do about a file that cannot be decoded: raise, or leave it out and list it.

    Raises:
        BadImageError: if a file cannot be decoded and is not to be skipped.
    """
    shares, spec = list(shares), writer.spec
    for client in dict.fromkeys(share.client for share in shares):
        nothing = np.empty((0, spec.in_channels, spec.image_size, spec.image_size), np.uint8)
        writer.add(client, "train", nothing, np.empty(0, np.int64))
    in_order = sorted(shares, key=lambda share: WRITTEN_IN_ORDER.index(share.split))
    chunks = [chunk for share in in_order for chunk in _cut(share, spec)]
    waiting = [chunk for chunk in chunks if not writer.skip()]
    done, total = (sum(len(chunk.positions) for chunk in each) for each in (chunks[: -len(waiting) or None], chunks))
    with Steps("prepare", total, "image", total >= SHOWN_FROM, done, counted="images", lines=10) as steps:
        for chunk, decoded in _decode_all(waiting, spec):
            if decoded.bad and on_bad_image == "error":
                raise BadImageError(said_of_bad(decoded.bad))
            positions = chunk.positions[decoded.good]
            groups = None if chunk.part.groups is None else chunk.part.groups[positions]
            writer.add(chunk.client, chunk.split, decoded.images, chunk.part.labels[positions], groups, decoded.bad)
            steps.advance(chunk.client, len(chunk.positions), len(chunk.positions))


def said_of_bad(bad: Sequence[str]) -> str:
    """Say which files cannot be decoded, and what can be done."""
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    return (
        f"{len(bad)} image files cannot be decoded:\n  " + "\n  ".join(bad[:5]) + more + "\nHINT: mend or remove them,"
        " or leave such files out with `--data.init_args.on_bad_image skip`."
    )


def fit(images: np.ndarray, channels: int, size: int) -> np.ndarray:
    """Give images the wanted channels and size.

    Args:
        images: uint8, ``(n, height, width, 1 or 3)``.
        channels: 1 or 3; RGB becomes grey by luminance as in Pillow, grey becomes RGB by repetition.
        size: wanted height and width; resized bilinearly with antialiasing.

    Returns:
        uint8, ``(n, channels, size, size)``.

    >>> fit(np.full((2, 4, 6, 3), 7, np.uint8), channels=1, size=8)[:, 0, 0, 0]
    array([7, 7], dtype=uint8)
    """
    if channels == 1 and images.shape[3] == 3:
        weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 in units of 2**-16
        images = ((images @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if pixels.shape[2:] != (size, size):
        resized = interpolate(torch.from_numpy(pixels).float(), size=(size, size), mode="bilinear", antialias=True)
        pixels = resized.round().clamp(0, 255).to(torch.uint8).numpy()
    return np.repeat(pixels, channels, axis=1) if pixels.shape[1] < channels else pixels


def _cut(share: Share, spec: DataSpec) -> Iterator[Share]:
    size = max(1, min(1024, CHUNK_BYTES // (3 * spec.image_size**2)))
    for start in range(0, len(share.positions), size):
        yield share._replace(positions=share.positions[start : start + size])


def _decode_all(chunks: list[Share], spec: DataSpec) -> Iterator[tuple[Share, Decoded]]:
    """Decode chunks in their order; image files by as many processes as there are cores, if there are many."""
    num_files = sum(len(chunk.positions) for chunk in chunks if isinstance(chunk.part.images, ImageFiles))
    workers = available_cores()
    if num_files <= FEW_FILES or workers == 1:
        for chunk in chunks:
            yield chunk, _decode(chunk, spec)
        return
    remaining, running = iter(chunks), deque[tuple[Share, Future[Decoded] | None]]()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, leave_with_parent, (os.getpid(),)) as pool:
        try:
            while True:
                for chunk in islice(remaining, 2 * workers - len(running)):
                    future = None
                    if isinstance(chunk.part.images, ImageFiles):
                        files = chunk.part.images.at(chunk.positions)
                        future = pool.submit(files.decode, spec.in_channels, spec.image_size)
                    running.append((chunk, future))
                if not running:
                    return
                chunk, future = running.popleft()
                yield chunk, _decode(chunk, spec) if future is None else future.result()
        except BrokenProcessPool as error:
            raise Interrupted(
                "A process that decodes images was killed (out of memory?). What is decoded is kept."
                " HINT: start the same command again; with fewer cores, it needs less memory."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(chunk: Share, spec: DataSpec) -> Decoded:
    """Read the images of one chunk as a network gets them."""
    images = chunk.part.images
    if isinstance(images, ImageFiles):
        return images.at(chunk.positions).decode(spec.in_channels, spec.image_size)
    stored = images(chunk.positions)
    if isinstance(stored, list) and len({image.shape for image in stored}) == 1:
        stored = np.stack(stored)
    batches = [image[None] for image in stored] if isinstance(stored, list) else [stored]
    fitted = np.concatenate([fit(batch, spec.in_channels, spec.image_size) for batch in batches])
    return Decoded(fitted, np.ones(len(fitted), bool), [])
