"""Lists of names in messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Join names, but for those after the first few.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def counted(names: Sequence[str], most: int = 8) -> str:
    """Join names and count those after the first few.

    >>> counted(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def content_of(folder: Path, most: int = 5) -> str:
    """List what is in a folder, for an error about what is missing there."""
    if not folder.is_dir():
        return "no such folder"
    return shortened(sorted(path.name for path in folder.iterdir()), most) or "nothing"


def bad_image_message(bad: Sequence[str]) -> str:
    """Say which files cannot be decoded, and what can be done."""
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    return (
        f"{len(bad)} image files cannot be decoded:\n  "
        + "\n  ".join(bad[:5])
        + more
        + "\nHINT: repair or remove them,"
        " or leave such files out with `--data.on_bad_image skip`."
    )
