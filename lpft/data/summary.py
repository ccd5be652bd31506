"""Summary of a dataset, to check before training: counts, classes, and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lpft.data.cache import ClientSplit
from lpft.data.checks import scaling
from lpft.data.datamodule import FederatedDataModule
from lpft.data.messages import shortened
from lpft.data.normalization import row_slices
from lpft.data.splits import SPLITS
from lpft.runtime.seeding import generator
from lpft.storage.atomic import replacing, write_atomically

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 40
MOST_CLIENTS = 40
"""Maximum number of clients listed; the file has all."""

MOST_CLASSES = 100
"""Maximum number of names of classes listed; the file has all."""

SHEET_CLIENTS, SHEET_IMAGES = 20, 12
"""Rows and columns of the contact sheet."""

LEAST_SIDE, MOST_SIDE = 48, 96
"""Range of the size of images on the contact sheet, in pixels; others are resized."""


def describe(data: FederatedDataModule, console: Console) -> None:
    """Print a summary: shape, every client's samples and classes, groups, samples left out."""
    spec, arrays = data.spec, data.arrays

    def print_plain(text: str) -> None:
        console.print(text, highlight=False)

    form = f"images {'x'.join(map(str, spec.shape))}"
    if spec.num_features is not None:
        form = f"rows of {spec.num_features} features"
    sizes = {split: sum(len(getattr(client, split)) for client in data.clients) for split in SPLITS}
    listed = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    print_plain(f"{len(data.clients)} clients, {spec.num_classes} classes, {form}: {listed}")
    if data.source.class_names:
        numbered = [f"{label} {name}" for label, name in enumerate(data.source.class_names)]
        print_plain(f"classes in their order: {shortened(numbered, MOST_CLASSES)}")
    if any(name != str(number) for number, name in enumerate(data.source.feature_names)):
        print_plain(f"features in their order: {shortened(data.source.feature_names, MOST_CLASSES)}")
    table = Table(*("client", *SPLITS, "classes", "class histogram of train"), box=None, header_style="bold")
    for client in data.clients[:MOST_CLIENTS]:
        counts = class_counts(data, client.train)
        sizes_of_client = (str(len(getattr(client, split))) for split in SPLITS)
        table.add_row(client.name, *sizes_of_client, f"{int((counts > 0).sum())}/{spec.num_classes}", bars(counts))
    console.print(table)
    if len(data.clients) > MOST_CLIENTS:
        print_plain(f"... and {len(data.clients) - MOST_CLIENTS} more")
    if data.held_out:
        print_plain(
            f"held out, {len(data.held_out)} of {len(data.clients)} clients: {shortened(data.held_out, MOST_CLIENTS)};"
            " they take no part in federated training and tuning"
        )
    for number, group in enumerate(arrays.group_names):
        in_split = {split: torch.cat([getattr(client, split) for client in data.clients]) for split in SPLITS}
        counted = (f"{int((arrays.groups[part] == number).sum())} {split}" for split, part in in_split.items())
        print_plain(f"group {group}: {', '.join(counted)}")
    for name, of_client in list(arrays.left_out.items())[:MOST_CLIENTS]:
        counted = (f"{count} of {split}" for split, count in of_client.items())
        print_plain(f"left out of {name}: {' and '.join(counted)}, the same {arrays.noun} are in a test or val part")
    if arrays.bad:
        print_plain(f"left out, cannot be decoded: {len(arrays.bad)} files: {shortened(arrays.bad)}")
    if arrays.blank:
        of_classes = [f"{count} of class {name_of_class(data, label)}" for label, count in arrays.blank.items()]
        print_plain(
            f"of one even colour, in any part: {sum(arrays.blank.values())} images: {shortened(of_classes, 20)}"
        )
    if arrays.ambiguous:
        print_plain(f"in several classes, {arrays.alike}: {arrays.ambiguous} {arrays.noun}")
    for depth in arrays.depths:
        print_plain(scaling(depth, data.pixels))
    if arrays.frames:
        print_plain(
            f"several frames or pages, the first is read: {len(arrays.frames)} files: {shortened(arrays.frames)}"
        )


def name_of_class(data: FederatedDataModule, label: int) -> str:
    """Return a class's name, or its number if it has none."""
    return data.source.class_names[label] if data.source.class_names else str(label)


def class_counts(data: FederatedDataModule, samples: Tensor) -> Tensor:
    """Count the samples of every class, int64, ``(num_classes,)``."""
    return torch.bincount(data.labels[samples], minlength=data.spec.num_classes)


def bars(counts: Tensor) -> str:
    """Draw a histogram with one character a class, or for several neighbouring classes if there are many.

    >>> bars(torch.tensor([8, 0, 4, 1]))
    '█ ▄▁'
    """
    summed = [int(part.sum()) for part in torch.tensor_split(counts, min(len(counts), MOST_BARS))]
    highest = max(summed)
    return "".join(BARS[-(-count * len(BARS) // highest) - 1] if count else " " for count in summed)


def write_counts(path: Path, data: FederatedDataModule) -> None:
    """Write how many samples of each class every client has, one line a client and split."""
    rows = [
        [client.name, split, len(samples), *class_counts(data, samples).tolist()]
        for client in data.clients
        for split in SPLITS
        for samples in [getattr(client, split)]
    ]
    classes = data.source.class_names or range(data.spec.num_classes)
    write_atomically(path, pd.DataFrame(rows, columns=["client", "split", "samples", *classes]).to_csv(index=False))


def write_features(path: Path, data: FederatedDataModule) -> None:
    """Write a line for each feature: what it is standardized by, and its range and missing values in training data."""
    train = torch.cat([client.train for client in data.participants().clients]).sort().values
    lowest, highest = (np.full(data.spec.shape, end) for end in (np.inf, -np.inf))
    missing = np.zeros(data.spec.shape, np.int64)
    for chunk in row_slices(len(train), len(data.source.feature_names)):
        rows = data.images[train[chunk]].numpy()
        lowest, highest = np.fmin(lowest, np.fmin.reduce(rows)), np.fmax(highest, np.fmax.reduce(rows))
        missing += np.isnan(rows).sum(0)
    columns = {
        "feature": list(data.source.feature_names),
        "mean": data.normalize.mean,
        "std": data.normalize.std,
        "min": lowest,
        "max": highest,
        "missing": missing,
    }
    write_atomically(path, pd.DataFrame(columns).to_csv(index=False))


def write_contact_sheet(path: Path, data: FederatedDataModule) -> None:
    """Write a picture of random training images, one row for each of the first clients, labelled by class."""
    clients = [client for client in data.clients if len(client.train)][:SHEET_CLIENTS]
    side = int(np.clip(data.spec.image_size, LEAST_SIDE, MOST_SIDE))
    font = ImageFont.load_default(11)
    names, gap, below = 8 + max(int(font.getlength(client.name)) for client in clients), 4, 16
    size = (names + SHEET_IMAGES * (side + gap) + gap, len(clients) * (side + below) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, client in enumerate(clients):
        top = gap + row * (side + below)
        draw.text((gap, top + side // 2 - 6), client.name, "black", font)
        for column, sample in enumerate(drawn(client)):
            left = names + column * (side + gap)
            sheet.paste(picture(data.images[sample], side), (left, top))
            label = int(data.labels[sample])
            draw.text((left, top + side + 1), fitting(name_of_class(data, label), side, font), "dimgray", font)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def drawn(client: ClientSplit) -> Tensor:
    """Draw a few of a client's training samples; the same at each call."""
    order = torch.randperm(len(client.train), generator=generator("contact sheet", client.name))
    return client.train[order[:SHEET_IMAGES]]


def picture(image: Tensor, side: int) -> Image.Image:
    """Resize an image ``(channels, size, size)`` to a side; it is enlarged without smoothing."""
    original = to_pil_image(image)
    resampling = Image.Resampling.NEAREST if side > original.width else Image.Resampling.BILINEAR
    return original.resize((side, side), resampling)


def fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Truncate a text to a width in pixels."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
