"""Tables in text files, and what must be in a data set's folder."""

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


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 if it starts with the mark of that; raise ValueError if it is neither."""
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no table of comma-separated values or text in UTF-8 ({error}). HINT: save it as text in UTF-8"
            f" (in Excel: CSV UTF-8); `iconv -f cp1252 -t utf-8 {path.name} > new` does so with text of Windows."
        ) from error


def read_lines(path: Path, home: str | None = None, blanks: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield number and values of each line of a table that is not empty, without the blanks around values.

    The first line tells whether commas, semicolons or tabs are between values; with `blanks` it is blanks. Raises
    ValueError if it is something else.
    """
    text = read_text(path)
    first = text.partition("\n")[0].strip()
    delimiter = max(",;\t", key=first.count)
    if first.lower().startswith("sep=") and len(first) == len("sep=") + 1:  # so Excel notes it
        delimiter, text = first[-1], "\n" + text.partition("\n")[2]
    file = io.StringIO(text, newline="")
    try:
        lines = map(str.split, file) if blanks else csv.reader(file, delimiter=delimiter, strict=True)
        for number, line in enumerate(lines, 1):
            values = [value.strip() for value in line]
            if any(values):
                yield number, values
    except csv.Error as error:
        raise wrong_file(f"{path} is no table of comma-separated values ({error})", home) from error


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
    lines = lines or read_lines(path, home)
    header = next(lines, (1, []))[1] if header is None else header
    missing = [name for name in wanted if name not in header]
    if missing:
        columns = shortened(header, 50) or "nothing"
        raise wrong_file(f"{path} has no column {', '.join(map(repr, missing))}; found {columns}", home)
    repeated = [name for name in wanted if header.count(name) > 1]
    if repeated:
        raise wrong_file(f"{path} has several columns {', '.join(map(repr, repeated))}", home)
    places = [header.index(name) for name in wanted]
    rows = []
    for number, values in lines:
        if len(values) > len(header):  # Excel ends lines with separators
            values = values[: len(header)] + [value for value in values[len(header) :] if value]
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
