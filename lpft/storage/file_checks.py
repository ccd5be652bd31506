"""What a file is that should hold data but does not: a pointer, an error page, an unfinished download."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from pathlib import Path

HEAD = 1024
"""Bytes of a file that are looked at."""
GZIP = b"\x1f\x8b\x08"
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2")
"""Endings that programs give to files while they are downloading them."""


def check_content(path: Path, text: bool = False) -> None:
    """Raise ValueError if a path holds something in place of data, and say what it is and what to do.

    Only the first bytes are read. Folders, empty files, unfinished downloads, pointers of Git LFS and git-annex, web
    pages, and error messages of servers are recognized, also where they are compressed by gzip.

    Args:
        path: where data are expected; it exists.
        text: whether the data may be text, such as CSV; otherwise any text is refused.
    """
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(f"{path} is a folder that holds {listed or 'nothing'}. HINT: name a file.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    content = head
    if _is_gzip(head):
        with contextlib.suppress(zlib.error):
            content = zlib.decompressobj(31).decompress(head, HEAD)
    problem = _stand_in(content, text) or _unfinished(path, head)
    if problem:
        raise ValueError(f"{path} {problem}")
    if _is_gzip(head) and not text:
        raise ValueError(f"{path} is compressed by gzip. HINT: unpack it with `gunzip`, and name what comes out.")


def _is_gzip(head: bytes) -> bool:
    return head.startswith(GZIP) and head[8:9] != b"{"  # safetensors begin with a length


def _stand_in(head: bytes, text: bool) -> str | None:
    """Tell what text stands in for data, and what to do; None if nothing known does."""
    start = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    lowered = start.lower()
    if start.startswith("version https://git-lfs.github.com/"):
        size = re.search(r"^size (\d+)", start, re.MULTILINE)
        of = f" to a file of {int(size[1]):,} bytes" if size else ""
        return f"is a pointer of Git LFS{of}, not the file itself. HINT: run `git lfs pull` where it was cloned."
    if "annex/objects/" in start[:200]:
        return "is a pointer of git-annex, not the file itself. HINT: run `git annex get` where it was cloned."
    if lowered.startswith(("<!doctype html", "<html", "<head")):
        title = re.search(r"<title[^>]*>\s*(.*?)\s*</title", start, re.IGNORECASE | re.DOTALL)
        return f"is a web page{f', {title[1][:60]!r},' if title else ''} not data. {AGAIN}"
    if lowered.startswith(("<?xml", "<error")):
        code = re.search(r"<(?:code|message)>(.*?)</", start, re.IGNORECASE)
        return f"is an XML text{f' that says {code[1][:60]!r}' if code else ''}, not data. {AGAIN}"
    if not text and _is_text(head):
        return f"is a text that begins with {start.splitlines()[0][:60]!r}, not data. {AGAIN}"
    return None


def _is_text(head: bytes) -> bool:
    try:
        decoded = head[: HEAD - 4].decode()
    except UnicodeDecodeError:
        return False
    return bool(decoded.strip()) and all(char.isprintable() or char.isspace() for char in decoded)


def _unfinished(path: Path, head: bytes) -> str | None:
    if not head:
        return f"is empty. {COMPLETE}"
    if path.suffix in UNFINISHED:
        return f"is an unfinished download by its name. {COMPLETE}"
    if len(head) == HEAD and not any(head):
        return f"begins with zeros alone, as a download that was interrupted. {COMPLETE}"
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"is cut off: its end is missing, as of a download that was interrupted. {COMPLETE}"
    return None


AGAIN = (
    "HINT: what was downloaded is a server's answer; open the link in a browser, log in if asked, and save the file."
)
COMPLETE = "HINT: copy or download it again, and compare its size with the original's."
