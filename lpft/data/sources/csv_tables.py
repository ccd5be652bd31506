"""CSV files about images, and what must be in a data set's folder."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lpft.data.messages import counted
from lpft.data.splits import Split

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "0"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "1"), "val"),
    **dict.fromkeys(("test", "2"), "test"),
}
"""What a column of splits may say; the numbers are those of CelebA and Waterbirds."""


def split_words(words: Iterable[str], whose: str) -> np.ndarray:
    """Read what a table says of splits; raise ValueError, starting with `whose`, if that is something else.

    >>> split_words(["0", "valid", "test"], "example").tolist()
    ['train', 'val', 'test']
    """
    words = [word.strip().lower() for word in words]
    unknown = sorted(set(words) - SPLIT_WORDS.keys())
    if unknown:
        raise ValueError(f"{whose} has the values {counted(unknown)}, expected train, val and test, or 0, 1 and 2.")
    return np.array([SPLIT_WORDS[word] for word in words])


def require(root: Path, wanted: Mapping[str, Sequence[str]], home: str | None) -> None:
    """Raise FileNotFoundError unless a folder has what a data set consists of; all that is missing is named.

    Args:
        root: the folder.
        wanted: by a description, the names of which one must be there.
        home: page that the data set can be got from.
    """
    missing = [name for name, names in wanted.items() if not any((root / name).exists() for name in names)]
    if missing:
        there = (
            sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir()) if root.is_dir() else []
        )
        found = f"which has {counted(there)}" if there else "which is empty" if root.is_dir() else "which is no folder"
        source = f" Get the data set from {home}; nothing is downloaded." if home else " Nothing is downloaded."
        raise FileNotFoundError(
            f"{' and '.join(missing)} must be in {str(root)!r}, {found}. HINT: set `--data.source.root` to the"
            f" folder that holds {', '.join(wanted)}.{source}"
        )


def read_columns(path: Path, wanted: Sequence[str], home: str | None) -> dict[str, list[str]]:
    """Read some columns of a CSV file with a header, without the blanks around values.

    Raises:
        ValueError: if a column or all rows are missing, or the file is no CSV.
    """
    source = f" HINT: the file as it should be comes from {home}." if home else ""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise ValueError(
                    f"{path} has no column {', '.join(map(repr, missing))}; found"
                    f" {counted(header) or 'nothing'}.{source}"
                )
            places = [header.index(name) for name in wanted]
            content = []
            for row in filter(None, rows):
                if len(row) != len(header):
                    raise csv.Error(f"line {rows.line_num} has {len(row)} values, the header has {len(header)}")
                content.append([row[place].strip() for place in places])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of comma-separated values in UTF-8 ({error}).{source}") from error
    if not content:
        raise ValueError(f"{path} has a header and no rows.{source}")
    return dict(zip(wanted, map(list, zip(*content, strict=True)), strict=True))
