"""Tables in text files, and what must be in a data set's folder."""

from __future__ import annotations

import csv
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
"""What a column of splits may say; the numbers are those of CelebA and Waterbirds."""


def wrong_file(problem: str, home: str | None = None) -> ValueError:
    """Make the error about a file that is not what it should be; `home` is the page that it comes from."""
    return ValueError(f"{problem}." + (f" HINT: the file as it should be comes from {home}." if home else ""))


def require(root: Path, wanted: Mapping[str, Sequence[str]], home: str | None) -> None:
    """Raise FileNotFoundError unless a folder has, for each description in `wanted`, one of some files or folders."""
    missing = [name for name, names in wanted.items() if not any((root / name).exists() for name in names)]
    if missing:
        page = f" Get the data set from {home}; nothing is downloaded." if home else " Nothing is downloaded."
        raise FileNotFoundError(
            f"{' and '.join(missing)} must be in {str(root)!r}, which has: {content_of(root)}. HINT: set"
            f" `--data.source.root` to the folder that holds {', '.join(wanted)}.{page}"
        )


def read_lines(path: Path, delimiter: str | None = ",", home: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield number and values of each line of a CSV file that is not empty, without the blanks around values.

    With `delimiter` None it is a text file with blanks between values. Raises ValueError if it is something else.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=delimiter, strict=True) if delimiter else map(str.split, file)
            for number, line in enumerate(lines, 1):
                values = [value.strip() for value in line]
                if any(values):
                    yield number, values
    except (UnicodeDecodeError, csv.Error) as error:
        form = "comma-separated values" if delimiter else "text"
        raise wrong_file(f"{path} is no table of {form} in UTF-8 ({error})", home) from error


def read_columns(
    path: Path,
    wanted: Sequence[str],
    home: str | None,
    header: list[str] | None = None,
    lines: Iterator[tuple[int, list[str]]] | None = None,
) -> pd.DataFrame:
    """Read the wanted columns of a table as text.

    Args:
        path: the file.
        wanted: names of the columns.
        home: page that the file can be got from.
        header: names of all columns; by default the first line.
        lines: those of the file that come next; by default it is CSV.

    Raises:
        ValueError: if a column or all rows are missing, or a line has more or fewer values than there are columns.
    """
    lines = lines or read_lines(path, home=home)
    header = next(lines, (1, []))[1] if header is None else header
    missing = [name for name in wanted if name not in header]
    if missing:
        columns = shortened(header, 50) or "nothing"
        raise wrong_file(f"{path} has no column {', '.join(map(repr, missing))}; found {columns}", home)
    places = [header.index(name) for name in wanted]
    rows = []
    for number, values in lines:
        if len(values) != len(header):
            raise wrong_file(
                f"{path}, line {number} ({values[0]}) has {len(values)} values, expected {len(header)}", home
            )
        rows.append([values[place] for place in places])
    if not rows:
        raise wrong_file(f"{path} has no rows", home)
    return pd.DataFrame(rows, columns=list(wanted), dtype=object)


def split_words(words: pd.Series, where: str) -> pd.Series:
    """Read what a column says of splits; raise ValueError if that is something else.

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
