"""Reads NumPy, CSV and Parquet files of features into columns and arrays. Nothing is unpickled."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lpft.data.messages import readable, shortened
from lpft.data.sources.tables import delimiter_of, encoding_of

TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
ENDINGS = (*TEXT, ".npz", ".npy", ".parquet")
"""Supported file endings, in lower case."""

ONE_ARRAY = "features"
"""Name given to the array in an ``.npy`` file."""

NAMES = "feature_names"
"""Array in an ``.npz`` file with the names of the features."""

NOTHING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NAN", "-nan", "null", "NULL", "None", "?", ".")
"""Entries of CSV files for missing features."""


@dataclass(frozen=True)
class FeatureFile:
    """Content of a file.

    Args:
        path: the file.
        columns: one value per row, by name.
        arrays: numbers, ``(num_rows, d)``, by name.
        names: names of the arrays' d columns, if the file has the array `NAMES`.
    """

    path: Path
    columns: pd.DataFrame
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else len(self.columns)

    def column(self, name: str) -> pd.Series:
        """Return a column; raise ValueError, with all names, if it is missing."""
        if name in self.arrays:
            raise ValueError(f"{self.path}: {name} has the shape {self.arrays[name].shape}, expected (rows,).")
        if name not in self.columns:
            listed = shortened(list(map(str, self.columns)), 30) or "none"
            arrays = f" and the arrays {', '.join(self.arrays)}" if self.arrays else ""
            raise ValueError(f"{self.path} has no column {name!r}, but {listed}{arrays}.")
        return self.columns[name]


@dataclass(frozen=True)
class Features:
    """Rows of numbers, ``(num_rows, d)``, and names of the d columns, if any."""

    values: np.ndarray
    names: tuple[str, ...] = ()


def ending_of(path: Path) -> str:
    """Return a file's ending if it is supported, else an empty string.

    >>> ending_of(Path("North.CSV.gz")), ending_of(Path("north.xlsx"))
    ('.csv.gz', '')
    """
    fitting = [ending for ending in ENDINGS if path.name.lower().endswith(ending)]
    return max(fitting, key=len, default="")


def read_feature_file(path: Path, words: Collection[str] = ()) -> FeatureFile:
    """Read a file.

    Args:
        path: ``.csv`` or ``.tsv``, also compressed (``.gz``), ``.npz``, ``.npy`` or ``.parquet``.
        words: columns whose values are names, so that ``NA`` or ``None`` in a CSV file are not missing values.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it has another format, is damaged, or needs a package that is not installed.
    """
    ending = ending_of(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. HINT: relative paths start from `root`.")
    if not ending:
        raise ValueError(
            f"{path} has an ending of no supported feature file. HINT: save them as {', '.join(ENDINGS)}; pickles and"
            " files of torch.save are never read, for reading one can run any program."
        )
    with readable(path, text=ending in TEXT):
        if ending == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return _of_arrays(path, {name: file[name] for name in file.files}, words)
        if ending == ".npy":
            return _of_arrays(path, {ONE_ARRAY: np.load(path, mmap_mode="r", allow_pickle=False)})
        table = _read_parquet(path) if ending == ".parquet" else _read_csv(path, words)
    repeated = sorted(set(table.columns[table.columns.duplicated()]))
    if repeated:
        raise ValueError(f"{path} has several columns {', '.join(map(repr, repeated))}.")
    return _with_lists_as_arrays(path, table.rename(columns=str))


def _of_arrays(path: Path, stored: dict[str, np.ndarray], words: Collection[str] = ()) -> FeatureFile:
    columns: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        if name in words and array.shape[1:] == (1,):
            array = array[:, 0]  # labels of shape (n, 1), as Keras and MedMNIST have them
        if array.dtype.names:  # a structured array is a table
            columns.update({key: np.asarray(array[key]) for key in array.dtype.names if array.ndim == 1})
        elif array.ndim == 1:
            columns[name] = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else np.asarray(array)
        elif array.ndim == 2:
            arrays[name] = array
        elif array.ndim > 2:
            raise ValueError(
                f"{path}: {name} has the shape {array.shape}, expected (rows, features)."
                " HINT: `array.reshape(len(array), -1)` makes rows; images are read by lpft.data.sources.Arrays."
            )
    names = tuple(map(str, columns.pop(NAMES).tolist())) if NAMES in columns else ()
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {NAMES} has the same name twice.")
    lengths = {name: len(array) for name, array in {**columns, **arrays}.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"{path}: the arrays have different numbers of rows ({listed}).")
    if not lengths:
        raise ValueError(f"{path} contains no array with one or two dimensions.")
    return FeatureFile(path, pd.DataFrame(columns), arrays, names)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except ImportError as error:
        raise ValueError(f"{path} needs the package pyarrow. HINT: pip install 'lpft[parquet]'") from error


def _read_csv(path: Path, words: Collection[str]) -> pd.DataFrame:
    """Read a table with a header line; values are separated by commas, semicolons or tabs."""
    open_file = gzip.open if path.suffix.lower() == ".gz" else Path.open
    with open_file(path, "rb") as binary:
        encoding = encoding_of(binary.read(2))
    with open_file(path, "rt", encoding=encoding) as file:
        start = next((line for line in file if line.strip()), "")
        delimiter = delimiter_of(start)
        records = csv.reader(itertools.chain([start], file), delimiter=delimiter, skipinitialspace=True)
        first = list(itertools.islice((record for record in records if record not in ([], [""])), 2))
    if len(first) < 2:
        raise ValueError(f"{path} has no rows. HINT: remove the file, or add rows.")
    header = first[0]
    names = [name.strip() for name in header]
    if all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", name, re.IGNORECASE) for name in names):
        raise ValueError(f"{path} starts with {shortened(names, 3)}. HINT: its first line must name the columns.")
    if len(first[1]) != len(names):
        raise ValueError(
            f"{path}: the first line names {len(names)} columns, but the next one has {len(first[1])} values."
            " HINT: R writes names of rows without a name of their column; `write.csv(x, row.names = FALSE)` does not."
        )
    reader: Any = pd.read_csv  # its overloads do not accept dictionaries that are built at run time
    table: pd.DataFrame = reader(
        path,
        sep=delimiter,
        encoding=encoding,
        skipinitialspace=True,
        low_memory=False,
        dtype={name: str for name in header if name.strip() in words},
        na_values={name: NOTHING for name in header if name.strip() not in words},
        keep_default_na=False,
    )
    table.columns = pd.Index(names)
    numbered = re.compile(r"|Unnamed: \d+")  # `DataFrame.to_csv` writes the row numbers without a name
    return table.loc[:, [not numbered.fullmatch(name) for name in names]]


def _with_lists_as_arrays(path: Path, table: pd.DataFrame) -> FeatureFile:
    """Turn columns of lists of numbers, such as embeddings in Parquet files, into arrays."""
    arrays = {}
    for name, column in table.items():
        lengths = [len(value) if isinstance(value, np.ndarray | list | tuple) else -1 for value in column]
        expected = next((length for length in lengths if length >= 0), None)
        if expected is not None:
            for row, length in enumerate(lengths):
                if length != expected:
                    problem = "is missing" if length < 0 else f"has the length {length}, others {expected}"
                    raise ValueError(f"{path}, row {row} (from 0): the list in column {name!r} {problem}.")
            arrays[str(name)] = np.stack([np.asarray(value) for value in column])
    return FeatureFile(path, table.drop(columns=list(arrays)), arrays)


def select(file: FeatureFile, requested: Sequence[str] | str | None, others: Collection[str]) -> Features:
    """Return the features of a file.

    Args:
        file: the file.
        requested: name of an array, or names of columns; None: the only array, or without arrays all columns.
        others: columns that are not features unless `requested` names them.

    Raises:
        ValueError: if features are missing or not numbers.
    """
    if requested is None and len(file.arrays) > 1:
        raise ValueError(
            f"{file.path} has the arrays {', '.join(file.arrays)}. HINT: select one with `features`, such as"
            f" `features: {next(iter(file.arrays))}`."
        )
    if requested is None and file.arrays:
        requested = next(iter(file.arrays))
    if isinstance(requested, str) and requested in file.arrays:
        values = file.arrays[requested]
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{file.path}: {requested} is {values.dtype}, expected numbers.")
        return Features(values, file.names if len(file.names) == values.shape[1] else ())
    names = [requested] if isinstance(requested, str) else requested
    if names is None:
        names = [str(name) for name in file.columns if name not in others]
    elif file.names and any(name not in file.columns for name in names):
        return Features(select_named(file, names), tuple(names))
    if not names:
        raise ValueError(f"{file.path} has no features other than {', '.join(map(str, others))}.")
    return Features(numbers_of([(name, file.column(name)) for name in names], file.path), tuple(map(str, names)))


def select_named(file: FeatureFile, names: Sequence[str]) -> np.ndarray:
    """Return the named features of a file, ``(num_rows, len(names))``.

    A table needs columns of these names and may have others; an array needs as many columns, in the same order unless
    the file names them.

    Raises:
        ValueError: if features are missing.
    """
    if all(name in file.columns for name in names):
        return numbers_of([(name, file.columns[name]) for name in names], file.path)
    for array in file.arrays.values():
        if file.names and set(names) <= set(file.names) and array.shape[1] == len(file.names):
            return array[:, [file.names.index(name) for name in names]]
        if not file.names and array.shape[1] == len(names) and array.dtype.kind in "biuf":
            return array
    missing = [name for name in names if name not in (file.names or file.columns)]
    available = shortened(
        [*map(str, file.columns), *(f"{name} {array.shape}" for name, array in file.arrays.items())], 8
    )
    if file.arrays and not file.names:
        raise ValueError(
            f"{file.path} has {available}, but an array needs one column of numbers for each of the {len(names)}"
            f" features, in this order: {shortened(names)}."
        )
    raise ValueError(
        f"{file.path} lacks {len(missing)} of the {len(names)} features, {shortened(missing)}; it has {available}."
    )


def numbers_of(columns: Sequence[tuple[str, pd.Series]], path: Path) -> np.ndarray:
    """Return columns as float64, ``(n, d)``, NaN where a value is missing; raise ValueError if one has other values."""
    values = np.empty((len(columns[0][1]), len(columns)))
    for number, (name, column) in enumerate(columns):
        if column.dtype == object and all(isinstance(value, bool) for value in column.dropna()):  # some are missing
            column = column.astype("boolean")
        numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype)
        if not numeric and not column.isna().all():
            example = column.dropna().iloc[0]
            raise ValueError(
                f"{path}: column {name!r} contains {example!r}, which is not a number. HINT: name it as `label`,"
                " `domain`, `split`, `unit`, `group`, in `attributes` or in `ignore`, or turn it into numbers; decimal"
                " commas must be points."
            )
        values[:, number] = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return values


def words_of(column: pd.Series) -> pd.Series:
    """Return the values of a column as text, whole numbers without a point, None for missing ones.

    >>> words_of(pd.Series([1.0, np.nan])).tolist(), words_of(pd.Series(["2.0", " a", ""])).tolist()
    (['1', None], ['2', 'a', None])
    >>> words_of(pd.Series(["1.000000e+00", "-5.0e-01", "1e3"])).tolist()  # as `numpy.savetxt` writes numbers
    ['1', '-0.5', '1e3']
    """

    def word(value: Any) -> str | None:
        text = unicodedata.normalize("NFC", str(value).strip())
        if re.fullmatch(r"[-+]?\d\.\d+[eE][-+]\d+", text):
            text = f"{float(text):.15g}"
        return re.sub(r"^([-+]?\d+)\.0*$", r"\1", text) or None

    distinct = {value: word(value) for value in column.dropna().unique()}
    return pd.Series([distinct.get(value) for value in column], index=column.index, dtype=object)
