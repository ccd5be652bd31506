"""Image files that lists name, found on a disk that spells them in another way.

Lists are made on other machines: with backslashes, endings in capitals, folders that only that machine has, names
without endings. What is there under the very name that a list gives is taken as it is.
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
"""What operating systems leave in folders; it is passed over like names that start with a dot."""

FEW = 3
"""So many files of a folder are looked up one by one."""

SAMPLED = 200
"""So many names of a list decide where its paths start."""


class Located(NamedTuple):
    """Where listed files are: the folder that paths start from, and the paths, those of missing files included."""

    base: Path
    files: list[str]


def locate(
    names: Sequence[str], bases: Sequence[Path], folders: Sequence[str] = (".",), look_below: bool = False
) -> Located:
    """Find the files of a list.

    A name that is not there as it is may have backslashes, quotes, percent codes, letters of another case, another
    Unicode form, no ending, or leading folders in common with all other names, such as those of another machine.

    Args:
        names: paths as the list has them.
        bases: folders that the paths may start from; taken is the one with most files, the first of equal ones.
        folders: folders below a base that files may be in; the first that has a file is taken.
        look_below: whether to look for the files anywhere below the base if none is where the list says.

    Returns:
        The base, and the path of every file from there; of a missing one, what the list has, with slashes.

    Raises:
        ValueError: if a name fits several files equally well.
    """
    if not names:
        return Located(bases[0], [])
    cleaned = [_clean(name) for name in names]
    common = _common_folders(cleaned)
    sample = list(zip(names, cleaned, strict=True))[:: max(1, len(names) // SAMPLED)]
    disk = _Disk()
    most, place = 0, _Place(disk, bases[0], folders, 0)
    for strip, base in product(range(common + 1), bases):
        tried = _Place(disk, base, folders, strip)
        count = sum(bool(tried.find(*pair)) for pair in sample)
        if count > most:
            most, place = count, tried
        if most == len(sample):
            break
    find = place.find
    if not most and look_below:
        find = _Below(place.base, folders, common).find
    files: list[str] = []
    unclear: list[str] = []
    for name, clean in zip(names, cleaned, strict=True):
        found = find(name, clean)
        if len(found) > 1:
            unclear.append(f"{name!r} may be {' or '.join(found[:4])}")
        files.append(found[0] if found else "/".join(clean.split("/")[place.strip :]))
    if unclear:
        raise ValueError(
            f"{len(unclear)} names in the list fit several files in {place.base}: {shortened(unclear, 3)}. HINT: rename"
            " or remove those that are not meant; of a table, name the folders that are meant with `images`."
        )
    return Located(place.base, files)


class _Disk:
    """Looks names up, with and without regard to how they are spelled; lists a folder once."""

    def __init__(self) -> None:
        self._entries: dict[str, set[str]] = {}
        self._spelled: dict[str, dict[str, list[str]]] = {}
        self._asked: Counter[str] = Counter()

    def has(self, path: str) -> bool:
        """Say whether there is a file; folders of which more is asked are listed, which is faster."""
        folder, _, name = path.rpartition("/")
        self._asked[folder] += 1
        if self._asked[folder] > FEW and name not in self._listed(folder):
            return False
        is_sure = self._asked[folder] > FEW and name.lower().endswith(EXTENSIONS)
        return is_sure or os.path.isfile(path)  # noqa: PTH113 (faster, and there may be a million)

    def _listed(self, folder: str) -> set[str]:
        if folder not in self._entries:
            self._entries[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()  # noqa: PTH112, PTH208
        return self._entries[folder]

    def fitting(self, folder: str, parts: Sequence[str]) -> list[str]:
        """Return the paths below a folder that differ least from a path, and only in how it is spelled."""
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


class _Place:
    """A base, the folders in it that files may be in, and how many leading folders of a list's names are not there."""

    def __init__(self, disk: _Disk, base: Path, folders: Sequence[str], strip: int) -> None:
        self.disk, self.base, self.folders, self.strip = disk, base, folders, strip

    def find(self, name: str, clean: str) -> list[str]:
        """Return the path of a file, none if there is no such file, several if all of them fit equally well."""
        short = "/".join(clean.split("/")[self.strip :])
        spelled = dict.fromkeys((short, unquote(short)) if self.strip else (name, short, unquote(short)))
        for path in (_inside(folder, path) for folder in self.folders for path in spelled):
            if self.disk.has(posixpath.join(self.base, path)):
                return [path]
        for folder in self.folders:
            place = posixpath.join(self.base, _inside(folder, "")).rstrip("/")
            for path in dict.fromkeys((short, unquote(short))):
                fitting = self.disk.fitting(place, path.split("/"))
                if fitting:
                    return [_inside(folder, path) for path in fitting]
        return []


class _Below:
    """All image files below some folders."""

    def __init__(self, base: Path, folders: Sequence[str], strip: int) -> None:
        self.strip = strip
        self.files: dict[str, list[str]] = {}
        for folder in folders:
            for path in images_below(base / folder):
                path = _inside(folder, path)
                self.files.setdefault(_key(posixpath.basename(path)), []).append(path)

    def find(self, name: str, clean: str) -> list[str]:
        """Return the paths that end in all of a listed name but the folders that all names have in common."""
        *folders, last = clean.split("/")[self.strip :]
        wanted = [_key(folder) for folder in folders]
        fitting = _with_ending(self.files, last, True)
        return [path for path in fitting if not wanted or _folders_of(path)[-len(wanted) :] == wanted]


def _with_ending(names: Mapping[str, list[str]], name: str, is_image: bool) -> list[str]:
    """Look a name up; an image that is named without its ending may have any."""
    wanted = _key(name)
    if wanted in names or not is_image or wanted.endswith(EXTENSIONS):
        return names.get(wanted, [])
    return [spelling for ending in EXTENSIONS for spelling in names.get(wanted + ending, [])]


def images_below(folder: Path) -> Iterator[str]:
    """Yield the image files below a folder, sorted, through links, every folder once; hidden ones are left out."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_BEHIND)
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                yield Path(place, name).relative_to(folder).as_posix()


def _folders_of(path: str) -> list[str]:
    return [_key(part) for part in path.split("/")[:-1]]


def _inside(folder: str, path: str) -> str:
    return path if folder == "." else posixpath.join(folder, path)


def _key(name: str) -> str:
    """Return what a name is without regard to case and to Unicode's forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _clean(name: str) -> str:
    """Write a path as Unix does, without quotes around it and without folders that say nothing."""
    path = name.strip().strip("\"'").replace("\\", "/")
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or name


def _common_folders(paths: Sequence[str]) -> int:
    """Count the leading folders that all paths have in common."""
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
