"""Checks that a file contains data, not a Git LFS pointer, an error page or part of a download."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from pathlib import Path

HEAD = 1024
"""Number of bytes of a file that are checked."""
GZIP = b"\x1f\x8b\x08"
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2")
"""Suffixes that programs give to files during a download."""


def check_content(path: Path, text: bool = False) -> None:
    """Check that a file contains data.

    Only the first `HEAD` bytes are read. The check recognizes folders, empty files, unfinished downloads, pointers of
    Git LFS and git-annex, web pages and error messages of servers, also if they are compressed with gzip.

    Args:
        path: an existing path.
        text: whether the data may be text, such as CSV; if not, any text is refused.

    Raises:
        ValueError: if it does not; the message describes the content and how to get the data.
    """
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        content_list = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(f"{path} is a folder that contains {content_list or 'nothing'}. HINT: name a file.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    content = head
    if _is_gzip(head):
        with contextlib.suppress(zlib.error):
            content = zlib.decompressobj(31).decompress(head, HEAD)
    problem = _placeholder_problem(content, text) or _download_problem(path, head)
    if problem:
        raise ValueError(f"{path} {problem}")
    if _is_gzip(head) and not text:
        raise ValueError(f"{path} is compressed with gzip. HINT: unpack it with `gunzip` and name the unpacked file.")


def _is_gzip(head: bytes) -> bool:
    return head.startswith(GZIP) and head[8:9] != b"{"  # safetensors begin with a length


def _placeholder_problem(head: bytes, text: bool) -> str | None:
    """Return what a file contains instead of data, with a hint; None if nothing else is recognized."""
    start = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    lowered = start.lower()
    if start.startswith("version https://git-lfs.github.com/"):
        size = re.search(r"^size (\d+)", start, re.MULTILINE)
        target = f" to a file of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer{target}, not the file itself. HINT: run `git lfs pull` in the clone."
    if "annex/objects/" in start[:200]:
        return "is a git-annex pointer, not the file itself. HINT: run `git annex get` in the clone."
    if lowered.startswith(("<!doctype html", "<html", "<head")):
        title = re.search(r"<title[^>]*>\s*(.*?)\s*</title", start, re.IGNORECASE | re.DOTALL)
        return f"is a web page{f', {title[1][:60]!r},' if title else ''} not data. {AGAIN}"
    if lowered.startswith(("<?xml", "<error")):
        code = re.search(r"<(?:code|message)>(.*?)</", start, re.IGNORECASE)
        return f"is an XML document{f' with the message {code[1][:60]!r}' if code else ''}, not data. {AGAIN}"
    if not text and _is_text(head):
        return f"is a text file that starts with {start.splitlines()[0][:60]!r}, not data. {AGAIN}"
    return None


def _is_text(head: bytes) -> bool:
    try:
        decoded = head[: HEAD - 4].decode()
    except UnicodeDecodeError:
        return False
    return bool(decoded.strip()) and all(char.isprintable() or char.isspace() for char in decoded)


def _download_problem(path: Path, head: bytes) -> str | None:
    """Return why a file looks like part of a download, with a hint; None if it does not."""
    if not head:
        return f"is empty. {COMPLETE}"
    if path.suffix in UNFINISHED:
        return f"is an unfinished download, by its name. {COMPLETE}"
    if len(head) == HEAD and not any(head):
        return f"starts with zeros only, like an interrupted download. {COMPLETE}"
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"is truncated, like an interrupted download. {COMPLETE}"
    return None


AGAIN = "HINT: the download is a reply of the server; open the link in a browser, log in if asked, and save the file."
COMPLETE = "HINT: copy or download it again, and compare its size with the original's."
