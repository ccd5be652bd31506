"""Parts of messages: lists of names, what is in a folder, what an error is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def printable(name: str) -> str:
    r"""Write a file's name in one line that any terminal shows: control characters and stray bytes are escaped.

    >>> print(printable("two\nlines"))
    two\nlines
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in name)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Join names, and count those after the first few.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    listed = ", ".join(printable(name) for name in names[:most])
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed


def content_of(folder: Path, most: int = 8) -> str:
    """List what is in a folder, for an error about what is missing there."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return shortened(names, most) or "nothing"


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Start the message of a ValueError or FileNotFoundError with what it is about."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{subject}: {error}") from error
