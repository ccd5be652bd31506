"""Parts of messages: lists of names, contents of folders, subjects of errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


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
