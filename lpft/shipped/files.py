"""The experiments, sections and scripts that the package brings along, and copies of them in a folder of yours.

`configs` and `slurm` beside this file are links to the folders of the repository; in an installed package they are
folders.
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
"""An experiment, by its data, or a template of one; what can be added to one; what can be a section of one."""


TITLES: dict[Kind, str] = {
    "included": "Experiments whose data are included",
    "to bring": "Experiments whose data you bring; after it is written, `lpft init` says which files",
    "template": "Templates for your own data (`lpft init own_sites FOLDER` fits it to your images)",
    "addition": "Additions to an experiment, given after it (-c EXPERIMENT -c ADDITION)",
}


class Shipped(NamedTuple):
    """A configuration file that the package brings along.

    Args:
        name: its path below `configs`, without ending.
        kind: what it is for.
        about: the first sentence of its comment.
        root_about: of an experiment whose data must be brought: the comment of the file that names them.
    """

    name: str
    kind: Kind
    about: str
    root_about: str = ""


def shipped() -> list[Shipped]:
    """Return all configuration files, experiments first."""
    return [describe(path) for path in sorted(_paths(), key=lambda path: (len(path.relative_to(CONFIGS).parts), path))]


def describe(path: Path) -> Shipped:
    """Say what one of the files is, by what is in it and by its comment."""
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
    if isinstance(source, dict) and "root" in source.get("init_args", {}):  # the folder of files that are not shipped
        return Shipped(name, "to bring", about, comment_of(file))
    return Shipped(name, "included", about)


def comment_of(path: Path) -> str:
    """Return the comment that a file starts with, in one line and without the commands in it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line[2:] for line in lines[:start] if not line.startswith("#   "))


def find(name: str) -> Path:
    """Return the file that a name means: its path below `configs`, or the name of an experiment or addition alone.

    Raises:
        ValueError: if there is no such file; it names similar ones.
    """
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in _paths()}
    short = {path.stem: path for path in names.values() if not _is_section(path)}
    if wanted in names or wanted in short:
        return names.get(wanted) or short[wanted]
    close = difflib.get_close_matches(wanted, {*names, *short}, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`lpft init` lists them."
    raise ValueError(f"nothing shipped is called {name!r}. HINT: {hint}")


def sections(path: Path) -> list[Path]:
    """Return a file and all files that it names, directly or through others."""
    found, waiting = list[Path](), [path]
    while waiting:
        file = waiting.pop().resolve()
        if file not in found:
            found.append(file)
            waiting += [file.parent / text for text in _texts(_load(file)) if text.endswith(".yaml")]
    return [CONFIGS / file.relative_to(CONFIGS.resolve()) for file in found]


def copies(name: str, folder: Path) -> dict[Path, str]:
    """Return the files to write for what a name means (``slurm``: the scripts), and their text.

    Files keep their place to one another, so that sections are found. Where comments name a file in ``configs/``, they
    name it in `folder`.

    Raises:
        ValueError: if nothing has that name.
    """
    if name == SCRIPTS:
        files = {HERE: sorted(path for path in (HERE / SCRIPTS).rglob("*") if path.is_file())}
    else:
        files = {CONFIGS: sections(find(name))}
    typed = "" if folder == Path() else printable(shlex.quote(folder.as_posix())) + "/"
    return {
        folder / path.relative_to(start): path.read_text(encoding="utf-8").replace("configs/", typed)
        for start, paths in files.items()
        for path in paths
    }


def following(name: str, folder: Path) -> str:
    """Say what can be done with what `copies` returns: commands, and which data must be brought."""
    if name == SCRIPTS:
        return f"Next: edit {folder / SCRIPTS / 'settings.sh'}, then {folder / SCRIPTS / 'submit.sh'} FILE"
    entry = describe(find(name))
    file = shlex.quote((folder / f"{entry.name}.yaml").as_posix())
    if entry.kind == "to bring":
        return f"{entry.root_about}\n\nNext: lpft run -c {file} --data.source.root FOLDER"
    if entry.kind == "template":
        return f"Next: change what is marked in {file}; `lpft init own_sites FOLDER` fits it to a folder of images"
    if entry.kind == "addition":
        return f"Next: give it after an experiment: lpft run -c FILE -c {file}"
    if entry.kind == "section":
        section, _, part = entry.name.partition("/")
        option = {"networks": "network", "methods": f"methods.{part}"}.get(section, section)
        return f"Next: give it to an experiment: lpft run -c FILE --{option} {file}"
    return f"Next: lpft run -c {file}"


def listing() -> str:
    """List what is shipped, with one line for each experiment; paragraphs as wide as the terminal, if there is one."""
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
    """Write files: all of them, or none if one of them is there already and differs.

    Args:
        texts: path and content.
        force: replace files that differ.

    Raises:
        FileExistsError: if some would be replaced, and `force` is not set.
    """
    there = [path for path in texts if path.exists()]
    differing = [path for path in there if not path.is_file() or path.read_bytes() != texts[path].encode()]
    if differing and not force:
        raise FileExistsError(
            f"{', '.join(map(str, differing))}: there already, and different. Nothing was written. HINT: `--force`"
            " replaces what differs; `--to FOLDER` writes somewhere else."
        )
    for path, text in texts.items():
        if path in differing or path not in there:
            write_atomically(path, text)
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | 0o111)


def _paths() -> list[Path]:
    paths = list(CONFIGS.rglob("*.yaml"))
    if not paths:
        raise FileNotFoundError(
            f"{CONFIGS} holds no files. HINT: in a checkout it is a link to the folder configs, which git makes on"
            " Windows only after `git config core.symlinks true`; the wheel has the files themselves."
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
