"""Image files and a CSV file about them: a class and an attribute that may go with it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lpft.data.messages import shortened
from lpft.data.sources.base import FileSource, categories
from lpft.data.sources.tables import read_columns, require, split_words

log = logging.getLogger("lpft")


class AttributeSource(FileSource):
    """Images of two classes with a binary attribute, one domain; RGB, normalised as for ImageNet.

    The four combinations of class and attribute are the groups that accuracies are shown for.
    `lpft.data.partition.SpuriousCorrelation` makes clients in which the attribute goes with the class.
    """

    draws = "spurious"
    image_size = 64
    num_classes = 2
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, root: str, class_names: tuple[str, str], attribute_names: tuple[str, str]) -> None:
        super().__init__(root)
        self.class_names, self.attribute_names = tuple(class_names), tuple(attribute_names)

    @abstractmethod
    def read_rows(self) -> pd.DataFrame:
        """Read the usable images: `file`, `label` and `attribute` (0 or 1) and, where known, `split` and `unit`."""

    def table(self) -> pd.DataFrame:
        """Add the groups."""
        rows = self.read_rows().reset_index(drop=True)
        rows = rows.astype({"label": np.int64, "attribute": np.int64})
        names = [f"{which}, {has}" for which in self.class_names for has in self.attribute_names]
        groups = 2 * rows["label"] + rows["attribute"]
        return rows.assign(
            domain=categories(["all"] * len(rows), ["all"]),
            group=pd.Categorical.from_codes(groups, pd.Index(names)),
        )

    def partition_key(self, domain: str | None) -> tuple[str | int, ...]:
        """Leave out the domain, of which there is one only."""
        return ()


@dataclass
class Attribute:
    """A yes-or-no question to a column of a table. Images for which the column is blank are left out.

    Args:
        column: the column's name.
        values: those that mean yes.
        others: those that mean no, and images with yet others are left out; by default all others mean no.
        at_least: instead of values, the least number that means yes.
        names: what no and yes are called, such as ``[under 40, 40 or more]``.
    """

    column: str
    values: list[str] | None = None
    others: list[str] | None = None
    at_least: float | None = None
    names: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if (self.values is None) == (self.at_least is None) or (self.others is not None and self.values is None):
            raise ValueError(
                f"The attribute of column {self.column!r} has `values: {self.values}`, `others: {self.others}` and"
                f" `at_least: {self.at_least}`. HINT: give the `values` that mean yes (and, if need be, the `others`),"
                " or the least number that means yes as `at_least`."
            )

    @property
    def both_names(self) -> tuple[str, str]:
        """What no and yes are called; by default the rule itself."""
        rule = f"{self.column} {' or '.join(self.values)}" if self.values else f"{self.column} from {self.at_least:g}"
        return self.names or (f"not {rule}", rule)

    def answers(self, values: pd.Series, path: Path) -> pd.Series:
        """Answer the question for the values of the column in a file: true, false, or null where there is no answer.

        Raises:
            ValueError: if a value is no number where numbers are needed, or one of the answers is never given.
        """
        answered = values != ""
        if self.at_least is not None:
            numbers = pd.to_numeric(values, errors="coerce")
            if (answered & numbers.isna()).any():
                raise ValueError(
                    f"{path}, column {self.column!r}: {values[answered & numbers.isna()].iloc[0]!r} is no number, which"
                    " `at_least` needs. HINT: name the `values` that mean yes instead."
                )
            yes = numbers >= self.at_least
        else:
            yes = values.isin(self.values or [])
            if self.others is not None:
                answered &= yes | values.isin(self.others)
        if yes[answered].nunique() < 2:
            raise ValueError(
                f"{path}: all images have the same answer to {self.both_names[1]!r}; the column has the values"
                f" {shortened(sorted(values.unique()), 8)}. HINT: set `values`, `others` or `at_least` to what"
                " tells the images apart."
            )
        return yes.where(answered, None)


class AttributeTable(AttributeSource):
    """A folder of images and a CSV file about them.

    The columns that are named here are in the table, for partitions such as `lpft.data.partition.ByColumn`.

    Args:
        target: what tells the two classes.
        attribute: what tells the attribute.
        root: folder that `table` starts from.
        table: the CSV file, with a header.
        file: column with the images' paths, from the folder of the table.
        split: column with the part that an image belongs to: train, val or test, or 0, 1, 2; by default (null) there is
            none.
        unit: column with the person, patient, ... that an image is of; none is ever in two parts.
        home: page to get the data set from; shown where files are missing.
    """

    def __init__(
        self,
        target: Attribute,
        attribute: Attribute,
        root: str = ".",
        table: str = "metadata.csv",
        file: str = "file",
        split: str | None = None,
        unit: str | None = None,
        home: str | None = None,
    ) -> None:
        super().__init__(root, target.both_names, attribute.both_names)
        self.target, self.attribute, self.table_name = target, attribute, table
        self.file, self.split, self.unit, self.home = file, split, unit, home

    @property
    def folder(self) -> Path:
        """The folder of the table."""
        return (self.root / self.table_name).parent

    def read_rows(self) -> pd.DataFrame:
        """Read the CSV file."""
        require(self.root, {self.table_name: [self.table_name]}, self.home)
        path = self.root / self.table_name
        wanted = [self.file, self.target.column, self.attribute.column, self.split, self.unit]
        table = read_columns(path, list(dict.fromkeys(filter(None, wanted))), self.home)
        rows = table.assign(
            file=table[self.file],
            label=self.target.answers(table[self.target.column], path),
            attribute=self.attribute.answers(table[self.attribute.column], path),
        )
        if self.split is not None:
            rows["split"] = split_words(table[self.split], f"{path}, column {self.split!r}")
        if self.unit is not None:
            rows["unit"] = table[self.unit]
        usable = rows.dropna(subset=["label", "attribute"])
        if len(usable) < len(rows):
            num = len(rows) - len(usable)
            log.warning("%d of %d images of %s have no known class or attribute.", num, len(rows), path)
        return usable
