"""The shipped experiments, sections and scripts, and how `lpft init` copies them to a folder.

`configs` and `slurm` next to this file are links to the folders of the repository; an installed package contains the
folders themselves.
"""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from lpft.data.messages import printable
from lpft.storage.atomic import write_atomically

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
SCRIPTS = "slurm"

Kind = Literal["included", "to bring", "template", "addition", "section"]
"""Experiments with data included and with data to bring; templates, additions and sections of experiments."""

TITLES: dict[Kind, str] = {
    "included": "Experiments whose data are included",
    "to bring": "Experiments whose data you bring; after it is written, `lpft init` says which files",
    "template": "Templates for your own data (`lpft init own_sites FOLDER` fits it to your images)",
    "addition": "Additions to an experiment, given after it (-c EXPERIMENT -c ADDITION)",
}


class Shipped(NamedTuple):
    """A shipped configuration file.

    Args:
        name: its path below `configs`, without suffix.
        kind: the kind of the file.
        about: the first sentence of its comment.
        data_about: for an experiment whose data you bring, the comment of the file that describes them.
    """

    name: str
    kind: Kind
    about: str
    data_about: str = ""


def shipped() -> list[Shipped]:
    """Return all shipped configuration files, experiments first."""
    return [describe(path) for path in sorted(_paths(), key=lambda path: (len(path.relative_to(CONFIGS).parts), path))]


def describe(path: Path) -> Shipped:
    """Describe a shipped configuration file by its content and comment."""
    content, name = _load(path), path.relative_to(CONFIGS).with_suffix("").as_posix()
    about = re.split(r"(?<=[.?])\s", comment_of(path))[0].rstrip(":").replace("configs/", "")
    if name.startswith("own_"):
        return Shipped(name, "template", about)
    if not {"name", "methods"} <= content.keys():
        return Shipped(name, "section" if _is_section(path) else "addition", about)
    data, file = content["data"], path
    if isinstance(data, str):
        file = path.parent / data
        data = _load(file)
    source = data["source"]
    if isinstance(source, dict) and "root" in source.get("init_args", {}):  # a folder of data that are not shipped
        return Shipped(name, "to bring", about, comment_of(file))
    return Shipped(name, "included", about)


def comment_of(path: Path) -> str:
    """Return the comment at the start of a file as one line, without the commands in it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line[2:] for line in lines[:start] if not line.startswith("#   "))


def find(name: str) -> Path:
    """Return the file with a name: its path below `configs`, or only the stem of an experiment or addition.

    Raises:
        ValueError: if no file has this name; the message lists similar names.
    """
    key = name.removeprefix("configs/").removesuffix(".yaml")
    by_path = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in _paths()}
    by_stem = {path.stem: path for path in by_path.values() if not _is_section(path)}
    if key in by_path or key in by_stem:
        return by_path.get(key) or by_stem[key]
    close = difflib.get_close_matches(key, {*by_path, *by_stem}, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`lpft init` lists them."
    raise ValueError(f"no shipped file is called {name!r}. HINT: {hint}")


def with_sections(path: Path) -> list[Path]:
    """Return a file and all files that it names, directly or through other files."""
    files, queue = list[Path](), [path]
    while queue:
        file = queue.pop().resolve()
        if file not in files:
            files.append(file)
            queue += [file.parent / text for text in _texts(_load(file)) if text.endswith(".yaml")]
    return [CONFIGS / file.relative_to(CONFIGS.resolve()) for file in files]


def copies(name: str, folder: Path) -> dict[Path, str]:
    """Return path and text of the files to write for a name (``slurm`` for the scripts).

    The files keep their relative paths, by which they name their sections. In their comments, ``configs/`` is replaced
    with `folder`.

    Raises:
        ValueError: if no file has this name.
    """
    if name == SCRIPTS:
        files = {HERE: sorted(path for path in (HERE / SCRIPTS).rglob("*") if path.is_file())}
    else:
        files = {CONFIGS: with_sections(find(name))}
    prefix = "" if folder == Path() else printable(shlex.quote(folder.as_posix())) + "/"
    return {
        folder / path.relative_to(root): path.read_text(encoding="utf-8").replace("configs/", prefix)
        for root, paths in files.items()
        for path in paths
    }


def next_steps(name: str, folder: Path) -> str:
    """Return what to do with the files of `copies`: the commands, and which data to bring."""
    if name == SCRIPTS:
        return f"Next: edit {folder / SCRIPTS / 'settings.sh'}, then {folder / SCRIPTS / 'submit.sh'} FILE"
    entry = describe(find(name))
    file = shlex.quote((folder / f"{entry.name}.yaml").as_posix())
    if entry.kind == "to bring":
        return f"{entry.data_about}\n\nNext: lpft run -c {file} --data.source.root FOLDER"
    if entry.kind == "template":
        return f"Next: edit the marked lines in {file}; `lpft init own_sites FOLDER` fits it to a folder of images"
    if entry.kind == "addition":
        return f"Next: give it after an experiment: lpft run -c FILE -c {file}"
    if entry.kind == "section":
        section, _, part = entry.name.partition("/")
        option = {"networks": "network", "methods": f"methods.{part}"}.get(section, section)
        return f"Next: give it to an experiment: lpft run -c FILE --{option} {file}"
    return f"Next: lpft run -c {file}"


def listing() -> str:
    """Return the list of all shipped files as text, wrapped to the width of the terminal if there is one."""
    width = shutil.get_terminal_size(fallback=(1000, 24)).columns
    entries = shipped()
    lines = ["lpft init NAME [--to FOLDER] writes one of these, with the files it names."]
    for kind, title in TITLES.items():
        lines += ["", f"{title}:"]
        for entry in entries:
            if entry.kind == kind:
                start = f"  {entry.name.removeprefix('experiments/'):27} "
                lines.append(textwrap.fill(entry.about, width, initial_indent=start, subsequent_indent=" " * 30))
    lines += ["", "Sections of experiments:"]
    folders: dict[str, list[str]] = {}
    for entry in entries:
        if entry.kind == "section":
            folder, _, name = entry.name.partition("/")
            folders.setdefault(folder, []).append(name)
    for folder, names in folders.items():
        start = f"  {folder + '/':27} "
        lines.append(textwrap.fill(", ".join(names), width, initial_indent=start, subsequent_indent=" " * 30))
    return "\n".join([*lines, "", f"  {SCRIPTS:27} Scripts that run the stages of an experiment as Slurm arrays."])


def write(texts: dict[Path, str], force: bool) -> None:
    """Write all files, or none if an existing file would change.

    Args:
        texts: content of the files by path.
        force: whether to replace existing files that differ.

    Raises:
        FileExistsError: if existing files differ and `force` is not set.
    """
    existing = [path for path in texts if path.exists()]
    differing = [path for path in existing if not path.is_file() or path.read_bytes() != texts[path].encode()]
    if differing and not force:
        raise FileExistsError(
            f"{', '.join(map(str, differing))}: already exists and differs. Nothing was written. HINT: `--force`"
            " replaces files that differ; `--to FOLDER` writes to another folder."
        )
    for path, text in texts.items():
        if path in differing or path not in existing:
            write_atomically(path, text)
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | 0o111)


def _paths() -> list[Path]:
    paths = list(CONFIGS.rglob("*.yaml"))
    if not paths:
        raise FileNotFoundError(
            f"{CONFIGS} contains no files. HINT: in a checkout it is a link to the folder configs, which git creates on"
            " Windows only after `git config core.symlinks true`; the wheel contains the files."
        )
    return paths


def _is_section(path: Path) -> bool:
    folder = path.relative_to(CONFIGS).parts[0]
    return folder not in (path.name, "experiments", "sizes")


def _load(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return content


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for element in value.values() if isinstance(value, dict) else value:
            yield from _texts(element)
