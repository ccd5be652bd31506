"""CelebA: hair colour, which correlates with the sex of the person."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lpft.data.messages import shortened
from lpft.data.sources.attributes import AttributeSource
from lpft.data.sources.tables import read_columns, read_lines, require, split_words, wrong_file

HOME = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
ATTRIBUTES, PARTITION, IDENTITY = "list_attr_celeba", "list_eval_partition", "identity_CelebA.txt"
IMAGES = "img_align_celeba"


class CelebA(AttributeSource):
    """CelebA (Liu et al., 2015): is a celebrity's hair blond? The spurious attribute is the sex.

    The official splits are used; no identity is in two of them, which is checked if ``identity_CelebA.txt`` exists.
    Images are cropped to the middle 178x178 pixels. Accuracies are shown for the four combinations of the two
    attributes.

    In ``root``: ``img_align_celeba/000001.jpg`` ..., ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, or the
    two lists as ``.csv``. The images are for non-commercial research only.

    Args:
        root: folder of the data set.
        target: the attribute to predict.
        attribute: the spurious attribute.

    References:
        Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015; the task is from Sagawa et al.,
        arXiv:1911.08731.
    """

    crop = 178

    def __init__(self, root: str = "celeba", target: str = "Blond_Hair", attribute: str = "Male") -> None:
        super().__init__(root, (f"not {target}", target), (f"not {attribute}", attribute))
        self.target, self.attribute = target, attribute

    @property
    def folder(self) -> Path:
        """The folder with the images; some archives nest it in one of the same name."""
        inner = self.root / IMAGES / IMAGES
        return inner if inner.is_dir() else self.root / IMAGES

    def read_rows(self) -> pd.DataFrame:
        """Read the lists of attributes and splits and, if it exists, the list of identities."""
        lists = {name: [f"{name}.txt", f"{name}.csv"] for name in (ATTRIBUTES, PARTITION)}
        require(self.root, {f"{IMAGES}/": [IMAGES], **{" or ".join(names): names for names in lists.values()}}, HOME)
        attributes, partition = (
            next(self.root / name for name in names if (self.root / name).exists()) for names in lists.values()
        )
        values = read_attributes(attributes, [self.target, self.attribute])
        rows = values.set_axis(["file", "label", "attribute"], axis=1)
        rows["split"] = split_words(_values(partition, "partition", rows["file"]), str(partition))
        identity = self.root / IDENTITY
        return rows.assign(unit=_values(identity, "identity", rows["file"])) if identity.exists() else rows


def read_attributes(path: Path, attributes: list[str]) -> pd.DataFrame:
    """Read attributes of images: the column `image_id`, and one with bool for each attribute.

    The list is a ``.csv`` with a header, or a ``.txt``: the number of images, the attributes' names, then one line with
    an image's name and its values, -1 or 1.
    """
    table = _read_list(path, ["image_id", *attributes], has_header=True)
    other_values = sorted(set(table[attributes].to_numpy().ravel()) - {"-1", "1"})
    if other_values:
        raise wrong_file(f"{path} has the values {shortened(other_values)}, expected -1 and 1", HOME)
    return table.assign(**{name: table[name] == "1" for name in attributes})


def _values(path: Path, column: str, images: pd.Series) -> pd.Series:
    """Read a list with one value per image: ``.txt`` without a header, or ``.csv``."""
    table = _read_list(path, ["image_id", column], has_header=False)
    values = images.map(table.set_index("image_id")[column].to_dict())
    missing = images[values.isna()].tolist()
    if missing:
        problem = f"{path} lacks {len(missing)} images that have attributes: {shortened(missing)}"
        raise wrong_file(problem, HOME)
    return values


def _read_list(path: Path, columns: list[str], has_header: bool) -> pd.DataFrame:
    """Read columns of a list: ``.csv``, or ``.txt`` with or without its two lines of header."""
    if path.suffix == ".csv":
        return read_columns(path, columns, HOME)
    lines = read_lines(path, HOME, blanks=True)
    if not has_header:
        return read_columns(path, columns, HOME, columns, lines)
    count, names = (" ".join(next(lines, (0, [""]))[1]) for _ in range(2))
    if not count.isdigit() or not names:
        raise wrong_file(
            f"{path} starts with {count[:40]!r} and {names[:40]!r}, expected the number of images, then the names of"
            " the attributes", HOME,
        )  # fmt: skip
    table = read_columns(path, columns, HOME, ["image_id", *names.split()], lines)
    if len(table) != int(count):
        raise wrong_file(f"{path} has {len(table)} images, expected {count} according to its first line", HOME)
    return table
