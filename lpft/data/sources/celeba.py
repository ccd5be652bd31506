"""CelebA: hair colour, where it goes with the sex of the person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lpft.data.sources.attributes import AttributeSource
from lpft.data.sources.csv_tables import read_columns, require, split_words

HOME = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
ATTRIBUTES, PARTITION, IDENTITY = "list_attr_celeba", "list_eval_partition", "identity_CelebA.txt"
IMAGES = "img_align_celeba"


class CelebA(AttributeSource):
    """CelebA (Liu et al., 2015): is a celebrity's hair blond, where that goes with being a man?

    The data set's own parts are kept; no identity is in two of them, which is made sure of where
    ``identity_CelebA.txt`` is there. The middle 178x178 pixels of an image are taken. The four combinations of the two
    attributes are the groups that accuracies are shown for.

    In ``root``: ``img_align_celeba/000001.jpg`` ..., ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, or the
    two lists as ``.csv``. The images are for non-commercial research only.

    Args:
        root: folder of the data set.
        target: the attribute that makes the classes.
        attribute: the attribute that goes with it.

    Raises:
        ValueError: if there is no such attribute, a list is not what it should be, or there are too few images.
        FileNotFoundError: if files are missing.

    References:
        Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015; the task is that of Sagawa et al.,
        arXiv:1911.08731.
    """

    crop = 178

    def __init__(
        self,
        root: str = "celeba",
        target: str = "Blond_Hair",
        attribute: str = "Male",
    ) -> None:
        super().__init__(root, (f"not {target}", target), (f"not {attribute}", attribute))
        self.target, self.attribute = target, attribute

    @property
    def folder(self) -> Path:
        """The folder with the images; some archives have it within one of the same name."""
        inner = self.root / IMAGES / IMAGES
        return inner if inner.is_dir() else self.root / IMAGES

    def read_rows(self) -> pd.DataFrame:
        """Read the lists of attributes and of parts and, if it is there, that of identities."""
        lists = {name: [f"{name}.txt", f"{name}.csv"] for name in (ATTRIBUTES, PARTITION)}
        require(self.root, {f"{IMAGES}/": [IMAGES], **{" or ".join(names): names for names in lists.values()}}, HOME)
        paths = {key: next(p for name in names if (p := self.root / name).exists()) for key, names in lists.items()}
        names, target, attribute = read_attributes(paths[ATTRIBUTES], [self.target, self.attribute])
        part_of = read_pairs(paths[PARTITION], "partition")
        parts = split_words(_looked_up(names, part_of, paths[PARTITION]), str(paths[PARTITION]))
        path = self.root / IDENTITY
        people = np.array(_looked_up(names, read_pairs(path, "identity"), path)) if path.exists() else None
        rows = pd.DataFrame({"file": names, "label": target, "attribute": attribute, "split": parts})
        return rows if people is None else rows.assign(unit=people)


def read_attributes(path: Path, wanted: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read two attributes of every image.

    Args:
        path: the list, as ``.csv`` with a header, or as ``.txt``: the number of images, the attributes' names, then one
            line with an image's name and its values, -1 or 1.
        wanted: names of the two attributes.

    Returns:
        Names of the images, and which have the one and the other attribute, bool, ``(n,)``.

    Raises:
        ValueError: if there is no such attribute, or the list is of another form.
    """
    if path.suffix == ".csv":
        columns = read_columns(path, ["image_id", *wanted], HOME)
        names, values = columns["image_id"], [columns[name] for name in wanted]
    else:
        names, values = _read_text(path, wanted)
    odd = sorted({value for column in values for value in column} - {"-1", "1"})
    if odd:
        raise ValueError(f"{path} has the values {', '.join(odd[:5])}, expected -1 and 1. {_hint()}")
    target, attribute = (np.array(column) == "1" for column in values)
    return names, target, attribute


def _read_text(path: Path, wanted: list[str]) -> tuple[list[str], list[list[str]]]:
    lines = _lines(path)
    count, header = next(lines, ""), next(lines, "")
    attributes = header.split()
    if not count.strip().isdigit() or not attributes:
        raise ValueError(
            f"{path} starts with {count[:40]!r} and {header[:40]!r}, expected the number of images, then the names of"
            f" the attributes. {_hint()}"
        )
    missing = [name for name in wanted if name not in attributes]
    if missing:
        raise ValueError(
            f"{path} has no attribute {', '.join(map(repr, missing))}. HINT: set `target` and `attribute` to two of"
            f" {', '.join(attributes)}."
        )
    names: list[str] = []
    values: list[list[str]] = [[] for _ in wanted]
    places = [1 + attributes.index(name) for name in wanted]
    for line in lines:
        words = line.split()
        if len(words) != 1 + len(attributes):
            raise ValueError(
                f"{path} has {len(words) - 1} values for {words[0]}, expected {len(attributes)}. {_hint()}"
            )
        names.append(words[0])
        for column, place in zip(values, places, strict=True):
            column.append(words[place])
    if len(names) != int(count):
        raise ValueError(f"{path} has {len(names)} images, expected {int(count)} as its first line says. {_hint()}")
    return names, values


def read_pairs(path: Path, column: str) -> dict[str, str]:
    """Read a list with one value per image: ``.txt`` without a header, or ``.csv`` with `column`."""
    if path.suffix == ".csv":
        columns = read_columns(path, ["image_id", column], HOME)
        return dict(zip(columns["image_id"], columns[column], strict=True))
    pairs: dict[str, str] = {}
    for line in _lines(path):
        words = line.split()
        if len(words) != 2:
            raise ValueError(
                f"{path} has the line {line.strip()[:40]!r}, expected an image's name and a value. {_hint()}"
            )
        pairs[words[0]] = words[1]
    return pairs


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if not line.isspace())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}). {_hint()}") from error


def _looked_up(names: list[str], values: dict[str, str], path: Path) -> list[str]:
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(
            f"{path} says nothing of {len(missing)} images that have attributes: {', '.join(missing[:5])}. {_hint()}"
        )
    return [values[name] for name in names]


def _hint() -> str:
    return f"HINT: the list as it should be comes from {HOME}."
