"""Parts of messages: lists of names, contents of folders, subjects of errors, errors of reading a file."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lpft.storage.file_checks import check_content

READ_ERRORS = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, csv.Error)
"""What numpy, pandas and zipfile raise for a damaged file or one of another format."""

PICKLED = ("allow_pickle", "Object arrays", "Python objects")
"""Words of numpy's errors for arrays that would have to be unpickled."""


def printable(name: str) -> str:
    r"""Return a file's name on one line, with control characters and invalid bytes escaped.

    >>> print(printable("two\nlines"))
    two\nlines
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in name)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Join the first few names, and count the others.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    listed = ", ".join(printable(name) for name in names[:most])
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed


def content_of(folder: Path, most: int = 8) -> str:
    """List a folder's content, for errors about missing files."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return shortened(names, most) or "nothing"


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Prefix the message of a ValueError or FileNotFoundError with its subject."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{subject}: {error}") from error


@contextmanager
def readable(path: Path, text: bool = False) -> Iterator[None]:
    """Check the start of a file (see `check_content`), and turn errors of reading it into ValueErrors with its path."""
    if path.exists():
        check_content(path, text)
    try:
        yield
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). HINT: save it as CSV UTF-8.") from error
    except READ_ERRORS as error:
        if str(path) in str(error):
            raise ValueError(str(error)) from error
        hint = ""
        if any(words in str(error) for words in PICKLED):
            hint = (
                " HINT: it holds Python objects, which are never unpickled; save numbers with"
                " `array.astype('float32')` and names with `array.astype(str)`."
            )
        raise ValueError(f"{path} cannot be read: {error}.{hint}") from error
