"""Finds listed image files whose paths are spelled differently on disk.

Lists made on other machines may have backslashes, endings in capitals, folders of that machine, or names without
endings. Files that exist under the listed name are used unchanged.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from lpft.data.messages import shortened
from lpft.data.sources.image_files import EXTENSIONS

LEFT_BEHIND = ("__MACOSX", "@eaDir", "lost+found", "Thumbs.db", "desktop.ini")
"""Files and folders of operating systems, which are ignored like names that start with a dot."""

FEW = 3
"""How many files of a folder are looked up one by one before the folder is listed."""

SAMPLED = 200
"""How many names of a list are tried to find the folder that its paths are relative to."""


class Located(NamedTuple):
    """The folder that paths are relative to, and the paths of all files, including missing ones."""

    base: Path
    files: list[str]


def locate(
    names: Sequence[str], bases: Sequence[Path], folders: Sequence[str] = (".",), look_below: bool = False
) -> Located:
    """Find the files of a list.

    A listed name may differ from the file's path by backslashes, quotes, percent codes, case, Unicode form, a missing
    ending, or leading folders that all names share, such as those of another machine.

    Args:
        names: listed paths.
        bases: folders that the paths may be relative to; the first one with the most files is chosen.
        folders: folders below a base, searched in this order for each file.
        look_below: whether to search everything below the base if no file has its listed path.

    Returns:
        The base, and the path of every file relative to it; for a missing file the listed path, with slashes.

    Raises:
        ValueError: if a name matches several files equally well.
    """
    if not names:
        return Located(bases[0], [])
    cleaned = [_clean(name) for name in names]
    common = _common_folders(cleaned)
    sample = list(zip(names, cleaned, strict=True))[:: max(1, len(names) // SAMPLED)]
    disk = _Disk()
    most_found, lookup = 0, _PathLookup(disk, bases[0], folders, 0)
    for strip, base in product(range(common + 1), bases):
        candidate = _PathLookup(disk, base, folders, strip)
        num_found = sum(bool(candidate.find(*pair)) for pair in sample)
        if num_found > most_found:
            most_found, lookup = num_found, candidate
        if most_found == len(sample):
            break
    find = lookup.find
    if not most_found and look_below:
        find = _NameLookup(lookup.base, folders, common).find
    files: list[str] = []
    ambiguous: list[str] = []
    for name, clean in zip(names, cleaned, strict=True):
        matches = find(name, clean)
        if len(matches) > 1:
            ambiguous.append(f"{name!r} may be {' or '.join(matches[:4])}")
        files.append(matches[0] if matches else "/".join(clean.split("/")[lookup.strip :]))
    if ambiguous:
        raise ValueError(
            f"{len(ambiguous)} names in the list fit several files in {lookup.base}: {shortened(ambiguous, 3)}. HINT:"
            " rename or remove those that are not meant; of a table, name the folders that are meant with `images`."
        )
    return Located(lookup.base, files)


class _Disk:
    """Looks up exact and differently spelled names; lists each folder at most once."""

    def __init__(self) -> None:
        self._entries: dict[str, set[str]] = {}
        self._spelled: dict[str, dict[str, list[str]]] = {}
        self._lookups: Counter[str] = Counter()

    def has(self, path: str) -> bool:
        """Return whether a file exists; after a few calls its folder is listed, which is faster."""
        folder, _, name = path.rpartition("/")
        self._lookups[folder] += 1
        if self._lookups[folder] > FEW and name not in self._listed(folder):
            return False
        is_sure = self._lookups[folder] > FEW and name.lower().endswith(EXTENSIONS)
        return is_sure or os.path.isfile(path)  # noqa: PTH113 (faster, and there may be a million)

    def _listed(self, folder: str) -> set[str]:
        if folder not in self._entries:
            self._entries[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()  # noqa: PTH112, PTH208
        return self._entries[folder]

    def fitting(self, folder: str, parts: Sequence[str]) -> list[str]:
        """Return the paths below a folder that differ from a path only in spelling, and least."""
        paths: list[tuple[int, list[str]]] = [(0, [])]
        for number, part in enumerate(parts):
            paths = [
                (changes + (spelling != part), [*path, spelling])
                for changes, path in paths
                for spelling in self._spellings(posixpath.join(folder, *path), part, number == len(parts) - 1)
            ]
        files = [(changes, "/".join(path)) for changes, path in paths if self.has("/".join([folder, *path]))]
        least = min((changes for changes, _ in files), default=0)
        return [path for changes, path in files if changes == least]

    def _spellings(self, folder: str, name: str, is_image: bool) -> list[str]:
        if name == "..":
            return [name]
        if folder not in self._spelled:
            names: dict[str, list[str]] = {}
            for entry in sorted(self._listed(folder)):
                names.setdefault(_key(entry), []).append(entry)
            self._spelled[folder] = names
        return _with_ending(self._spelled[folder], name, is_image)


class _PathLookup:
    """Looks up files in folders of a base, without the first `strip` folders of the listed names."""

    def __init__(self, disk: _Disk, base: Path, folders: Sequence[str], strip: int) -> None:
        self.disk, self.base, self.folders, self.strip = disk, base, folders, strip

    def find(self, name: str, clean: str) -> list[str]:
        """Return the path of a file: none if it is missing, several if they match equally well."""
        short = "/".join(clean.split("/")[self.strip :])
        spelled = dict.fromkeys((short, unquote(short)) if self.strip else (name, short, unquote(short)))
        for path in (_inside(folder, path) for folder in self.folders for path in spelled):
            if self.disk.has(posixpath.join(self.base, path)):
                return [path]
        for folder in self.folders:
            start = posixpath.join(self.base, _inside(folder, "")).rstrip("/")
            for path in dict.fromkeys((short, unquote(short))):
                fitting = self.disk.fitting(start, path.split("/"))
                if fitting:
                    return [_inside(folder, path) for path in fitting]
        return []


class _NameLookup:
    """Looks up files among all image files below some folders."""

    def __init__(self, base: Path, folders: Sequence[str], strip: int) -> None:
        self.strip = strip
        self.files: dict[str, list[str]] = {}
        for folder in folders:
            for path in images_below(base / folder):
                path = _inside(folder, path)
                self.files.setdefault(_key(posixpath.basename(path)), []).append(path)

    def find(self, name: str, clean: str) -> list[str]:
        """Return the paths that end in the listed name without the folders that all names share."""
        *folders, last = clean.split("/")[self.strip :]
        keys = [_key(folder) for folder in folders]
        fitting = _with_ending(self.files, last, True)
        return [path for path in fitting if not keys or _folders_of(path)[-len(keys) :] == keys]


def _with_ending(names: Mapping[str, list[str]], name: str, is_image: bool) -> list[str]:
    """Look up a name; an image named without ending may have any."""
    key = _key(name)
    if key in names or not is_image or key.endswith(EXTENSIONS):
        return names.get(key, [])
    return [spelling for ending in EXTENSIONS for spelling in names.get(key + ending, [])]


def images_below(folder: Path) -> Iterator[str]:
    """Yield the image files below a folder, sorted, without hidden ones; follow links, read each folder once."""
    visited: set[tuple[int, int]] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(path)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_BEHIND)
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                yield Path(path, name).relative_to(folder).as_posix()


def _folders_of(path: str) -> list[str]:
    return [_key(part) for part in path.split("/")[:-1]]


def _inside(folder: str, path: str) -> str:
    return path if folder == "." else posixpath.join(folder, path)


def _key(name: str) -> str:
    """Return a name without differences of case and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _clean(name: str) -> str:
    """Return a path with slashes, without quotes around it and without empty or ``.`` folders."""
    path = name.strip().strip("\"'").replace("\\", "/")
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or name


def _common_folders(paths: Sequence[str]) -> int:
    """Count the leading folders that all paths share."""
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
