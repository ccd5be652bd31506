"""Reads tables from text files, and checks data sets' folders for files."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from lpft.data.messages import content_of, shortened
from lpft.data.splits import Split

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "0"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "1"), "val"),
    **dict.fromkeys(("test", "2"), "test"),
}
"""Allowed values of split columns; the numbers are those of CelebA and Waterbirds."""


def wrong_file(problem: str, home: str | None = None) -> ValueError:
    """Return the error for a file with unexpected content; `home` is the page to get it from."""
    return ValueError(f"{problem}." + (f" HINT: download the original file from {home}." if home else ""))


def require(root: Path, alternatives: Mapping[str, Sequence[str]], home: str | None) -> None:
    """Raise FileNotFoundError unless a folder has at least one of the files or folders for each description."""
    missing = [name for name, names in alternatives.items() if not any((root / name).exists() for name in names)]
    if missing:
        page = f" Get the data set from {home}; nothing is downloaded." if home else " Nothing is downloaded."
        raise FileNotFoundError(
            f"{' and '.join(missing)} must be in {str(root)!r}, which has: {content_of(root)}. HINT: set"
            f" `--data.source.root` to the folder that holds {', '.join(alternatives)}.{page}"
        )


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text that starts with some bytes: UTF-16 with a byte order mark, or UTF-8."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def delimiter_of(line: str) -> str:
    """Return the most frequent of comma, semicolon and tab in a line."""
    return max(",;\t", key=line.count)


def read_text(path: Path) -> str:
    """Read a text file; raise ValueError if it is neither in UTF-8 nor in UTF-16."""
    content = path.read_bytes()
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is neither a table of comma-separated values nor UTF-8 text ({error}). HINT: save it as UTF-8"
            f" text (in Excel: CSV UTF-8); `iconv -f cp1252 -t utf-8 {path.name} > new` does so with text of Windows."
        ) from error


def read_lines(path: Path, home: str | None = None, blanks: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield number and stripped values of each non-empty line of a table.

    Values are separated by blanks if `blanks`, else by the most frequent of comma, semicolon and tab in the first line.
    Raises ValueError if the file is not a table.
    """
    text = read_text(path)
    first = text.partition("\n")[0].strip()
    delimiter = delimiter_of(first)
    if first.lower().startswith("sep=") and len(first) == len("sep=") + 1:  # Excel's notation
        delimiter, text = first[-1], "\n" + text.partition("\n")[2]
    file = io.StringIO(text, newline="")
    try:
        lines = map(str.split, file) if blanks else csv.reader(file, delimiter=delimiter, strict=True)
        for number, line in enumerate(lines, 1):
            values = [value.strip() for value in line]
            if any(values):
                yield number, values
    except csv.Error as error:
        raise wrong_file(f"{path} is not a table of comma-separated values ({error})", home) from error


def read_columns(
    path: Path,
    columns: Sequence[str],
    home: str | None,
    header: list[str] | None = None,
    lines: Iterator[tuple[int, list[str]]] | None = None,
) -> pd.DataFrame:
    """Read columns of a table as text.

    Args:
        path: the file.
        columns: names of the columns to read.
        home: page to get the file from.
        header: names of all columns; by default the first line.
        lines: the lines to read, as from `read_lines`; by default all lines of a CSV file.

    Raises:
        ValueError: if a column or all rows are missing, or a line has more or fewer values than there are columns.
    """
    lines = lines or read_lines(path, home)
    header = next(lines, (1, []))[1] if header is None else header
    missing = [name for name in columns if name not in header]
    if missing:
        available = shortened(header, 50) or "nothing"
        raise wrong_file(f"{path} has no column {', '.join(map(repr, missing))}; found {available}", home)
    repeated = [name for name in columns if header.count(name) > 1]
    if repeated:
        raise wrong_file(f"{path} has several columns {', '.join(map(repr, repeated))}", home)
    positions = [header.index(name) for name in columns]
    rows = []
    for number, values in lines:
        if len(values) > len(header):  # Excel ends lines with separators
            values = values[: len(header)] + [value for value in values[len(header) :] if value]
        if len(values) != len(header):
            raise wrong_file(
                f"{path}, line {number} ({values[0]}) has {len(values)} values, expected {len(header)}", home
            )
        rows.append([values[position] for position in positions])
    if not rows:
        raise wrong_file(f"{path} has no rows", home)
    return pd.DataFrame(rows, columns=list(columns), dtype=object)


def split_words(words: pd.Series, where: str) -> pd.Series:
    """Convert a column of splits to train, val and test; raise ValueError for other values.

    >>> split_words(pd.Series(["0", "valid", "test"]), "example").tolist()
    ['train', 'val', 'test']
    """
    splits = words.str.lower().map(SPLIT_WORDS)
    if splits.isna().any():
        unknown = sorted(words[splits.isna()].unique())
        raise ValueError(
            f"{where} has the values {shortened(unknown, 8)}, expected train, val and test, or 0, 1 and 2."
        )
    return splits
