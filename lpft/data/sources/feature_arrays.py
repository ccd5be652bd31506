"""Your own feature arrays: embeddings, or the tables of sites."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lpft.data.messages import content_of, shortened
from lpft.data.sources.base import OnBadImage, categories
from lpft.data.sources.feature_checks import check_values, lacks_values
from lpft.data.sources.feature_files import (
    ENDINGS,
    FeatureFile,
    Features,
    ending_of,
    read_feature_file,
    select,
    words_of,
)
from lpft.data.sources.features import FeatureSource
from lpft.data.sources.image_files import stamp_paths
from lpft.data.sources.names import check_known, check_spellings, checked_classes, in_order
from lpft.data.sources.tables import split_words
from lpft.storage.run import check_client_names

log = logging.getLogger("lpft")

SUSPICIOUS = (
    "site", "domain", "client", "hospital", "center", "centre", "split", "fold", "unit", "patient", "patient_id",
    "subject", "id", "index", "row", "group", "target", "class", "y",
)  # fmt: skip
"""Names of columns that are hardly features."""

RESERVED = ("label", "domain", "split", "unit", "group", "client", "_file", "_row")
"""Columns of the table of samples, which no attribute may be named after."""


class Content(NamedTuple):
    """Content of the files: the features of each until they are released, their names, classes, table of samples."""

    features: list[tuple[Path, Features]]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    table: pd.DataFrame


class FeatureArrays(FeatureSource):
    """Rows of numbers from one file, or from a folder with one file per site; each file is a domain of that name.

    Files are ``.csv`` or ``.tsv`` (also compressed, ``.gz``), ``.parquet``, ``.npz`` or ``.npy``:

    - A table has a column for every feature, or, in Parquet, one column of lists (embeddings).
    - An ``.npz`` file has an array ``(n, d)`` and arrays ``(n,)``, which are its columns. ``feature_names`` ``(d,)``
      names the features.
    - An ``.npy`` file has the array ``(n, d)``; columns are other ``.npy`` files in its folder, such as
      ``label: labels.npy``.

    Nothing is unpickled. Values are stored in float32. Labels may be names or numbers: the classes are the distinct
    values in all files, sorted, as numbers if all are.

    Args:
        path: the file or folder, relative to `root`.
        root: folder that `path` is relative to.
        label: column with the class.
        features: name of the array, or names of the columns with features, in this order; by default the only array
            or, in tables, all columns without another role.
        domain: column with the site; by default the names of the files.
        split: column with a row's split: train, val or test, or 0, 1, 2; rows without a value are split by `lpft`.
        unit: column with the person, device, ... of a row; no unit is ever in two splits.
        group: column with the group for accuracies by group.
        attributes: other columns for partitions, such as `lpft.data.partition.ByColumn`.
        ignore: other columns that are not features.
        classes: names of the classes in the order of the model's outputs.
        missing: how to handle rows with missing features: stop, leave the rows out, or fill in the mean of the
            training data.
        equal_rows: how to handle training rows that equal a row in any client's test or val set: leave them out as
            copies, or keep them, if features have so few values that different samples can be equal.

    Raises:
        ValueError: if a setting is out of range.
    """

    def __init__(
        self,
        path: str,
        root: str = ".",
        label: str = "label",
        features: list[str] | str | None = None,
        domain: str | None = None,
        split: str | None = None,
        unit: str | None = None,
        group: str | None = None,
        attributes: list[str] | None = None,
        ignore: list[str] | None = None,
        classes: list[str] | None = None,
        missing: Literal["error", "leave_out", "mean"] = "error",
        equal_rows: Literal["leave_out", "keep"] = "leave_out",
    ) -> None:
        self.path, self.root = path, Path(root).expanduser()
        self.label, self.features, self.domain, self.split = label, features, domain, split
        self.unit, self.group, self.missing, self.equal_rows = unit, group, missing, equal_rows
        self.attributes, self.ignore, self.classes = list(attributes or []), list(ignore or []), classes
        roles = [label, *filter(None, (domain, split, unit, group)), *self.ignore]
        repeated = sorted({name for name in roles if roles.count(name) > 1})
        reserved = [name for name in self.attributes if name in RESERVED]
        if isinstance(features, list) and (label in features or len(set(features)) < len(features) or not features):
            raise ValueError(f"`features: {features}` must name columns once each, and not the label {label!r}.")
        if reserved:
            raise ValueError(f"`attributes` cannot have a column called {reserved[0]!r}. HINT: rename it in the file.")
        if repeated:
            raise ValueError(
                f"The column {repeated[0]!r} is named twice, among {', '.join(roles)}. HINT: name it once."
            )

    @property
    def equal_are_copies(self) -> bool:  # type: ignore[override]
        """Whether equal rows count as copies."""
        return self.equal_rows == "leave_out"

    @property
    def fills_missing(self) -> bool:  # type: ignore[override]
        """Whether missing values are replaced by the mean of the training data."""
        return self.missing == "mean"

    @property
    def feature_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the features; their numbers if they have none."""
        return self._content.names

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes, in the order of the labels."""
        return self._content.classes

    def table(self) -> pd.DataFrame:
        """Read all files."""
        return self._content.table

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return rows, each file's at once."""
        file_of, row_of = (self._content.table[column].to_numpy()[positions] for column in ("_file", "_row"))
        features = self._features
        parts = [features[number][1].values[row_of[file_of == number]] for number in np.unique(file_of)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])

    def check_samples(self) -> None:
        """Check all values.

        Raises:
            ValueError: if a value is infinite, does not fit float32, or is missing without permission.
        """
        check_values(self._features, self._content.names, permits_missing=self.missing != "error")

    def release(self) -> None:
        """Free the rows; they are read again when needed."""
        if "_content" in vars(self):
            self._content.features.clear()

    @property
    def _features(self) -> list[tuple[Path, Features]]:
        if not self._content.features:
            del self._content  # they were released
        return self._content.features

    def settings(self) -> dict[str, object]:
        """Return class and settings, and the names of the classes."""
        return {**super().settings(), "classes": list(self.class_names)}

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Hash names, sizes and modification times of the files."""
        columns = [name for name in self._roles if name.endswith(".npy")]
        return stamp_paths(self.root, (path.parent / name for path in self._files for name in (path.name, *columns)))

    @property
    def _roles(self) -> list[str]:
        """The columns that are not features, unless `features` names them."""
        others = filter(None, (self.domain, self.split, self.unit, self.group))
        return list(dict.fromkeys([self.label, *others, *self.attributes, *self.ignore]))

    @cached_property
    def _files(self) -> list[Path]:
        path = self.root / self.path
        if not path.is_dir():
            if not path.exists():
                folder = path.absolute().parent
                raise FileNotFoundError(
                    f"`path: {self.path}` is missing; {folder} has: {content_of(folder)}."
                    " HINT: it starts from `root`; set it with `--data.source.root`."
                )
            return [path]
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if entry.is_file() and ending_of(entry)]
        if not files:
            raise FileNotFoundError(
                f"The folder {path} has: {content_of(path)}. Expected one file for each site, such as north.csv;"
                f" files end in {', '.join(ENDINGS)}."
            )
        if len(files) < len(entries):
            others = [entry.name for entry in entries if entry not in files]
            log.warning("%s: %d files or folders are left out: %s.", path, len(others), shortened(others))
        check_client_names(map(site_of, files))
        return files

    @cached_property
    def _content(self) -> Content:
        files = [self._opened(path) for path in self._files]
        selected = self._selected(files)
        names = selected[0].names or tuple(map(str, range(selected[0].values.shape[1])))
        tables = []
        for number, (file, features) in enumerate(zip(files, selected, strict=True)):
            table = self._columns(file).assign(_file=number, _row=np.arange(len(file)))
            if self.missing == "leave_out":
                lacking = lacks_values(features.values)
                if lacking.any():
                    log.warning("%s: %d of %d rows lack values and are left out.", file.path, lacking.sum(), len(table))
                table = table[~lacking]
            tables.append(table)
        table = pd.concat(tables, ignore_index=True)
        if not len(table):
            raise ValueError(f"{self.root / self.path} has no rows, or none without missing values.")
        self._warn_of_names(selected[0].names)
        classes = self._classes(table["label"])
        codes = {name: code for code, name in enumerate(classes)}
        domains = list(dict.fromkeys(table["domain"]))
        table["domain"] = categories(table["domain"], in_order(domains) if self.domain else domains)
        check_client_names(table["domain"].cat.categories)
        for name in [*(["group"] if self.group else []), *self.attributes]:
            table[name] = categories(table[name], in_order(table[name].dropna()))
        table["label"] = table["label"].map(codes).astype("int64")
        of_files = [(file.path, features) for file, features in zip(files, selected, strict=True)]
        return Content(of_files, names, classes, table)

    def _opened(self, path: Path) -> FeatureFile:
        """Read a file, and add the columns from other ``.npy`` files."""
        file = read_feature_file(path, self._roles)
        columns = file.columns
        for name in (name for name in self._roles if name.endswith(".npy")):
            if len(self._files) > 1:
                raise ValueError(f"`{name}` is one file, but there are {len(self._files)}. HINT: use `.npz` files.")
            if not (path.parent / name).exists():
                raise FileNotFoundError(
                    f"There is no file `{name}` next to {path.name}. HINT: give its path relative to"
                    f" {path.parent}, which has: {content_of(path.parent)}."
                )
            column = read_feature_file(path.parent / name)
            values = next(iter(column.arrays.values()))[:, 0] if column.arrays else column.columns.iloc[:, 0]
            if len(values) != len(file):
                raise ValueError(f"{column.path} has {len(values)} values for the {len(file)} rows of {path}.")
            columns = columns.assign(**{name: np.asarray(values)})
        file = FeatureFile(path, columns, file.arrays, file.names)
        file.column(self.label)  # fails early
        return file

    def _selected(self, files: list[FeatureFile]) -> list[Features]:
        """Return the features of all files, in the order of the first file."""
        first = select(files[0], self.features, self._roles)
        selected = [first]
        for file in files[1:]:
            features = select(file, self.features, self._roles)
            if set(features.names) != set(first.names) or features.values.shape[1] != first.values.shape[1]:
                differing = sorted(set(first.names) ^ set(features.names))
                which = f"; only one of them has {shortened(differing, 8)}" if differing else ""
                raise ValueError(
                    f"{files[0].path} has {first.values.shape[1]} features and {file.path} has"
                    f" {features.values.shape[1]}{which}. HINT: give all sites the same features, or name those"
                    " that are in all by `features`."
                )
            if features.names != first.names:
                order = [features.names.index(name) for name in first.names]
                features = Features(features.values[:, order], first.names)
            selected.append(features)
        return selected

    def _columns(self, file: FeatureFile) -> pd.DataFrame:
        """Return label, domain and all other columns for a file's rows."""
        columns: dict[str, Any] = {"label": words_of(file.column(self.label)), "domain": site_of(file.path)}
        for role in ("domain", "unit", "group"):
            if name := getattr(self, role):
                columns[role] = words_of(file.column(name))
        if self.split:
            words = words_of(file.column(self.split))
            splits = split_words(words.dropna(), f"{file.path}, column {self.split!r}")
            columns["split"] = splits.reindex(words.index).fillna("")
        for role in ("label", "domain", "unit"):
            if isinstance(columns.get(role), pd.Series) and (missing := int(columns[role].isna().sum())):
                first = int(np.flatnonzero(columns[role].isna())[0])
                raise ValueError(
                    f"{file.path}: {missing} rows have no `{role}`, the first is row {first} (from 0)."
                    " HINT: fill in or remove them."
                )
        columns.update({name: words_of(file.column(name)) for name in self.attributes})
        return pd.DataFrame(columns, index=range(len(file)))

    def _classes(self, labels: pd.Series) -> tuple[str, ...]:
        """Return the names of the classes; raise ValueError if the labels cannot be classes."""
        names = in_order(labels)
        if all(re.fullmatch(r"-?\d+", name) for name in names):
            names = tuple(sorted(names, key=int))
        if self.classes is not None:
            classes = checked_classes([str(name) for name in self.classes], "`classes`")
            check_known(f"`label: {self.label}` has the values", names, classes, "remove these rows")
            return classes
        if len(names) == 1:
            raise ValueError(
                f"`label: {self.label}` is {names[0]!r} in all {len(labels)} rows, but two classes are needed."
                " HINT: name the column with the class by `label`; if it is this one, name all classes by `classes`."
            )
        if len(names) > max(20, len(labels) // 2):
            raise ValueError(
                f"`label: {self.label}` has {len(names)} different values in {len(labels)} rows, such as"
                f" {shortened(names, 3)}, which are not classes. HINT: set `label` to the column with the class."
            )
        check_spellings({name: repr(name) for name in names})
        return names

    def _warn_of_names(self, names: Sequence[str]) -> None:
        suspicious = [name for name in names if name.lower() in SUSPICIOUS and not self.features]
        if suspicious:
            log.warning(
                "The columns %s are taken for features. HINT: if they are none, name them as `domain`, `split`, `unit`,"
                " `group`, in `attributes` or in `ignore`.", shortened(suspicious),
            )  # fmt: skip


def site_of(path: Path) -> str:
    """Return the name of a file without its ending.

    >>> site_of(Path("sites/north.csv.gz"))
    'north'
    """
    return path.name[: len(path.name) - len(ending_of(path))]
