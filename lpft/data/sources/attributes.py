"""Image files with a CSV file of classes and an attribute that may correlate with them."""

from __future__ import annotations

import json
import logging
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lpft.data.messages import shortened
from lpft.data.sources.base import FileSource, categories, without_repeats
from lpft.data.sources.listed import locate
from lpft.data.sources.tables import read_columns, require, split_words

log = logging.getLogger("lpft")

Value = str | bool | int | float
"""Types that YAML may give a word of a table."""

UNKNOWN = ("unknown", "nan", "na", "n/a", "none", "null", "?", "not available", "not reported")
"""Words for unknown values, for which a warning suggests `missing`."""


class AttributeSource(FileSource):
    """Images of two classes with a binary attribute, one domain; RGB, normalized as for ImageNet.

    Accuracies are shown for the four combinations of class and attribute.
    `lpft.data.partition.SpuriousCorrelation` makes clients in which the attribute correlates with the class.
    """

    draws = "spurious"
    one_domain = True
    image_size = 64
    num_classes = 2
    image_folders: Sequence[str] = (".",)
    """Folders of the images, relative to `folder`; subfolders are searched if no image has its path in the table."""
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, root: str, class_names: tuple[str, str], attribute_names: tuple[str, str]) -> None:
        super().__init__(root)
        self.class_names, self.attribute_names = tuple(class_names), tuple(attribute_names)

    @abstractmethod
    def read_rows(self) -> pd.DataFrame:
        """Read the usable images: `file`, `label` and `attribute` (0 or 1) and, where known, `split` and `unit`."""

    def table(self) -> pd.DataFrame:
        """Find the files and add the groups."""
        rows = self.read_rows().reset_index(drop=True)
        located = locate(list(rows["file"]), [self.folder], self.image_folders, look_below=True)
        rows = without_repeats(rows.assign(file=located.files), self.folder).reset_index(drop=True)
        rows = rows.astype({"label": np.int64, "attribute": np.int64})
        names = [f"{class_name}, {name}" for class_name in self.class_names for name in self.attribute_names]
        groups = 2 * rows["label"] + rows["attribute"]
        return rows.assign(
            domain=categories(["all"] * len(rows), ["all"]),
            group=pd.Categorical.from_codes(groups, pd.Index(names)),
        )


@dataclass
class Attribute:
    """A rule that turns a column of a table into yes or no. Images with a blank value are left out and counted.

    Comparison ignores case; 1 equals 1.0, yes equals true, and no equals false.

    Args:
        column: the column's name.
        values: values that mean yes.
        others: values that mean no, images with any other value are left out; by default all other values mean no.
        at_least: instead of `values`, the least number that means yes.
        names: names of no and yes, such as ``[under 40, 40 or more]``.
        missing: values for "unknown", such as ``[unknown]``; these images are left out, too.
    """

    column: str
    values: list[Value] | None = None
    others: list[Value] | None = None
    at_least: float | None = None
    names: tuple[str, str] | None = None
    missing: list[Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the combination of settings."""
        if (self.values is None) == (self.at_least is None) or (self.others is not None and self.values is None):
            raise ValueError(
                f"The attribute of column {self.column!r} has `values: {self.values}`, `others: {self.others}` and"
                f" `at_least: {self.at_least}`. HINT: give the `values` that mean yes (and, if need be, the `others`),"
                " or the least number that means yes as `at_least`."
            )
        ambiguous = all_normalized(self.values) & all_normalized(self.others)
        if ambiguous:
            raise ValueError(
                f"The attribute of column {self.column!r} has {shortened(sorted(ambiguous))} among both `values` and"
                " `others`. HINT: a value means yes or no."
            )

    @property
    def both_names(self) -> tuple[str, str]:
        """Names of no and yes; by default the rule itself."""
        rule = (
            f"{self.column} {' or '.join(map(str, self.values))}"
            if self.values
            else f"{self.column} from {self.at_least:g}"
        )
        return self.names or (f"not {rule}", rule)

    def answers(self, values: pd.Series, path: Path) -> pd.Series:
        """Apply the rule to the values of the column in a file: true, false, or null for images to leave out.

        Raises:
            ValueError: if `at_least` meets a value that is not a number, or all answers are the same.
        """
        words = values.map(normalized)
        answered = (words != "") & ~words.isin(all_normalized(self.missing))
        if self.at_least is not None:
            yes = self._numbers(values, answered, path) >= self.at_least
        else:
            yes = words.isin(all_normalized(self.values))
            if self.others is None:
                self._warn_of_unknown(values[answered & ~yes & words.isin(UNKNOWN)], path)
            else:
                answered &= yes | words.isin(all_normalized(self.others))
        if yes[answered].nunique() < 2:
            raise ValueError(
                f"{path}: all images have the same answer to {self.both_names[1]!r}; the column has the values"
                f" {shortened(sorted(values.unique()), 8)}. HINT: set `values`, `others` or `at_least` to what"
                " tells the images apart."
            )
        return yes.where(answered, None)

    def _numbers(self, values: pd.Series, answered: pd.Series, path: Path) -> pd.Series:
        """Return values as numbers; raise ValueError if an answered one is not a number."""
        numbers = pd.to_numeric(values, errors="coerce")
        texts = sorted(values[answered & numbers.isna()].unique())[:8]
        if texts:
            missing = json.dumps(texts, ensure_ascii=False)
            leave_out = f"`missing: {missing}` leaves such images out; or " if numbers.notna().any() else ""
            raise ValueError(
                f"{path}, column {self.column!r}: {' and '.join(map(repr, texts))} is not a number, which `at_least`"
                f" needs. HINT: {leave_out}name the `values` that mean yes instead."
            )
        return numbers

    def _warn_of_unknown(self, values: pd.Series, path: Path) -> None:
        if len(values):
            words = json.dumps(sorted(values.unique()), ensure_ascii=False)
            log.warning(
                "%s, column %r: %d images have a value of %s, which is taken for no. HINT: `missing: %s` leaves them"
                " out.", path, self.column, len(values), words, words,
            )  # fmt: skip


def normalized(value: Value) -> str:
    """Normalize a value for comparison: lower case, whole numbers without a point, yes as true.

    >>> [normalized(value) for value in ("Male", "1.0", -1, "1.05", "Yes", False)]
    ['male', '1', '-1', '1.05', 'true', 'false']
    """
    text = re.sub(r"^(-?\d+)\.0*$", r"\1", str(value).strip().lower())
    return {"yes": "true", "no": "false"}.get(text, text)


def all_normalized(values: Sequence[Value] | None) -> set[str]:
    """Normalize values; see `normalized`."""
    return {normalized(value) for value in values or ()}


class AttributeTable(AttributeSource):
    """A folder of images with a CSV file.

    All columns named below are available to partitions such as `lpft.data.partition.ByColumn`.

    Args:
        target: the rule for the class.
        attribute: the rule for the attribute.
        root: folder that `table` is relative to.
        table: the CSV file, with a header; its values are separated by commas, semicolons or tabs.
        file: column with the images' paths or names, with or without file ending; or a pattern with columns in
            braces, such as ``patches/patient_{patient}/{slide}.png``.
        images: folders with the images, relative to the folder of the table; by default that folder or, if it contains
            none of the images, any folder below it.
        split: column with an image's split: train, val or test, or 0, 1, 2; by default (null) there is none.
        unit: column with the person, patient, ... of an image; no unit is ever in two splits.
        columns: other columns for partitions.
        home: page of the data set; shown if files are missing.
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
        images: list[str] | None = None,
        columns: list[str] | None = None,
    ) -> None:
        super().__init__(root, target.both_names, attribute.both_names)
        self.target, self.attribute, self.table_name = target, attribute, table
        self.file, self.split, self.unit, self.home = file, split, unit, home
        self.columns = list(columns or [])
        self.image_folders = images or ["."]
        self._missing_hint = (
            "put the images below that folder, or name theirs with `--data.source.images '[FOLDER, ...]'`."
        )

    @property
    def folder(self) -> Path:
        """The folder of the table."""
        return (self.root / self.table_name).parent

    def read_rows(self) -> pd.DataFrame:
        """Read the CSV file."""
        require(self.root, {self.table_name: [self.table_name]}, self.home)
        path = self.root / self.table_name
        pattern = self.file if "{" in self.file else f"{{{self.file}}}"
        file_columns = re.findall(r"{(.*?)}", pattern)
        columns = [*file_columns, self.target.column, self.attribute.column, self.split, self.unit, *self.columns]
        table = read_columns(path, list(dict.fromkeys(filter(None, columns))), self.home)
        files = [pattern] * len(table)
        for column in file_columns:
            files = [file.replace(f"{{{column}}}", value) for file, value in zip(files, table[column], strict=True)]
        rows = table.assign(
            file=files,
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
