"""LightningCLI's parser, with errors that name the value, what is wrong with it, and what to do."""

from __future__ import annotations

import difflib
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc import locate
from textwrap import dedent
from typing import Any, NamedTuple, NoReturn

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

SECTIONS = ("data", "network", "federation", "personalization", "methods", "trainer", "tune")
"""Sections that may be given as the path of another file."""
EXAMPLES = {
    "source": "lpft.data.sources.Digits",
    "network": "lpft.models.cnn.SmallCNN",
    "methods": "lpft.methods.lpft.LPFT",
    "optimizer": "torch.optim.SGD",
    "clients": "lpft.data.partition.Dirichlet",
}
"""A class for every setting that takes one."""
TRAINER_HINTS = {
    "gradient_clip_val": "use `personalization.clip_norm`, which clips every client on its own",
    "max_epochs": "use `personalization.epochs`",
    "logger": "`lpft report` writes TensorBoard events for every method",
    "callbacks": "methods are written as `lpft.methods.base.Method`",
}
NO_CLASS = re.compile(r"No module named|has no attribute|[Ii]mport path|to be a subclass")


class ExperimentParser(LightningArgumentParser):
    """A parser whose errors are short, and end in a hint where the rule is ours."""

    def parse_path(self, cfg_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Read a file of settings; it must be one, and so must be the files that it names for its sections."""
        try:
            check_file(Path(cfg_path))
        except ValueError as error:
            self.error(str(error))
        return super().parse_path(cfg_path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and end with exit code 2; a parser inside of another raises, and leaves that to it."""
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        problem = explain(message)
        hint = self._hint(problem)
        text = f"{problem}\nHINT: {hint}." if hint else str(problem)
        sys.stderr.write(f"{self.prog}: {text}\nFor all settings: {self.prog} --help\n")
        sys.exit(2)

    def _hint(self, problem: Problem) -> str | None:
        reason, example = problem.reason, EXAMPLES.get(problem.key)
        if problem.owner and problem.option:
            return _perhaps(problem.option, settings_of(problem.owner), "it has")
        if missing := re.match(r"the following arguments are required: (.*)", reason):
            example = EXAMPLES.get(missing[1].rpartition(".")[2])
            if example:
                return f"give it in the YAML, such as {missing[1]}: {{class_path: {example}, init_args: {{...}}}}"
            return "name an experiment, such as `-c configs/digits.yaml`"
        if problem.key == "domains":
            return "write the settings of every domain, such as {ward: {path: ward.npz}}"
        if example and ("is abstract" in reason or reason.endswith("Got value: None")):
            return (
                f"`class_path` names a class, `init_args` its settings: {{class_path: {example}, init_args: {{...}}}}"
            )
        if example and NO_CLASS.search(reason):
            return f"give the full path of a class, such as {example}"
        if reason.startswith("Expected a list"):
            return f"write a list, such as --{problem.key} '[0, 1]'"
        return self._hint_for_key(problem)

    def _hint_for_key(self, problem: Problem) -> str | None:
        """Return what to do about a key that no section has."""
        in_file = re.match(r"Group '(.+?)' does not accept option '(.+?)'", problem.reason)
        in_words = re.match(r"unrecognized arguments: (--)?([^\s=]+)", problem.reason)
        if in_words and not in_words[1]:
            return "give a file as `-c FILE`"
        key = f"{in_file[1]}.{in_file[2]}" if in_file else in_words[2] if in_words else problem.option
        if key is None:
            return None
        if key == "shard":
            return "`--shard` belongs to `lpft tune` and `lpft personalize`"
        section = key.rpartition(".")[0]
        if section == "trainer":
            other = TRAINER_HINTS.get(key.removeprefix("trainer."))
            return "`trainer` has accelerator, devices, num_nodes and precision only" + (f"; {other}" if other else "")
        not_meant = ("help", "config", "print_config", "print_shtab", "lpft", section)
        known = [a.dest for a in self._actions if a.dest.rpartition(".")[0] == section and a.dest not in not_meant]
        return _perhaps(key, known, f"`{section}` has" if section else "there are")


class Problem(NamedTuple):
    """What a parser complains of.

    Args:
        path: where: settings, and between them the classes that they belong to, from the outermost on.
        reason: what is wrong there.
    """

    path: tuple[str, ...]
    reason: str

    @property
    def key(self) -> str:
        """The last word of the innermost setting."""
        settings = [part for part in self.path if part.startswith("`")]
        return settings[-1].strip("`").rpartition(".")[2] if settings else ""

    @property
    def owner(self) -> str | None:
        """The class whose settings are given, as a dotted path."""
        return self.path[-1] if self.path and not self.path[-1].startswith("`") else None

    @property
    def option(self) -> str | None:
        """The setting that is not known."""
        found = re.match(r"Option '(.+?)' is not accepted", self.reason)
        return found[1] if found else None

    def __str__(self) -> str:
        if self.option:
            where, what = self.path, f"there is no setting `{self.option}`."
            if self.owner:
                where, what = self.path[:-1], f"{self.owner} has no setting `{self.option}`."
        else:
            where, what = self.path, self.reason
        return f"{', '.join(where)}: {what}" if where else what


def explain(message: str) -> Problem:
    r"""Take apart what a parser says in nested paragraphs; what is not understood is the reason, as it is.

    >>> print(explain("Parser key \"data\":\n  Problem with given class_path 'x.Y':\n    Option 'z' is not accepted"))
    `data`: x.Y has no setting `z`.
    """
    path: list[str] = []
    while True:
        message = dedent(message).strip()
        if found := re.match(r'Parser key "(.+?)":', message):
            path.append(f"`{found[1]}`")
            message = message[found.end() :]
        elif found := re.match(r"Problem with given class_path '(.+?)':", message):
            path.append(found[1])
            message = message[found.end() :]
        elif found := re.match(r"- Expected a path but (.+) either not accessible or invalid\n\s*- ", message):
            message = f"There is no file {found[1]}." if _is_yaml(found[1]) else message[found.end() :]
        elif found := re.match(r"Type \S*Callable\[.*\] expects a function or a callable class: ", message):
            message, _, value = message[found.end() :].rpartition(" Got value: ")
            named = re.match(r"Namespace\(class_path='(.+?)', init_args=", value)
            path += [named[1]] if named else []
            message = _with_value(message, value)
        elif found := re.match(
            r"Does not validate .*?\nErrors:\n(.*)\nGiven value type: .*?\nGiven value:", message, re.S
        ):
            reasons = [text.strip() for text in re.split(r"^  - ", found[1], flags=re.M)[1:]]
            reasons = [text for text in reasons if text != "Expected a <class 'NoneType'>"]
            message = _with_value("; or ".join(reasons), message[found.end() :].strip())
        else:
            return Problem(tuple(path), _plain(message))


def _with_value(reason: str, value: str) -> str:
    """Add what was given, unless the reason has it, or it is but the parser's word for all settings of a class."""
    if "Got value" in reason or re.search(rf"(?<![\w<>=-]){re.escape(value)}(?!\w)", reason):
        return reason
    return reason if re.match(r"\w+\(|\{'class_path'", value) else f"{reason.rstrip('.')}. Got value: {value}"


def settings_of(class_path: str) -> list[str]:
    """Return the names of a class's settings; none if it cannot be looked at."""
    found = locate(class_path)
    if not isinstance(found, type):
        return []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(found, skip={"spec", "params"}, fail_untyped=False)
    return [action.dest for action in parser._actions if action.dest != "help"]


def check_file(path: Path) -> None:
    """Raise ValueError, naming the file, if a file of settings or one that it names for a section cannot be one."""
    content = _read(path)
    for section in SECTIONS:
        if section in content and content[section] is None:
            raise ValueError(f"{path}: `{section}` is empty. HINT: remove the line, or give it settings.")
    named = {f"`{section}`": content.get(section) for section in SECTIONS}
    if isinstance(methods := content.get("methods"), dict):
        named |= {f"`methods.{name}`": method for name, method in methods.items()}
    for key, name in named.items():
        if isinstance(name, str) and _is_yaml(name):
            part = path.parent / name
            if not part.exists():
                raise ValueError(f"{path}: {key} names a file that is not there: {part}.")
            _read(part)


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold keys, none of them twice."""
    try:
        text = path.read_text(encoding="utf-8")
        for key, first, second in _twice(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise ValueError(
                f"{path}: `{key}` stands twice, in line {first} and in line {second}. HINT: rename or remove one."
            )
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        where = str(error).replace('in "<unicode string>", ', "in ")
        raise ValueError(f"{path} is no valid YAML: {where}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ValueError(f"{path} {found}, but must hold keys and values. HINT: start from one of `configs/`.")
    return content


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Yield every key that stands twice in a mapping, with the lines of both, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    yield key.value, lines[key.value], line
                lines[key.value] = line
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _twice(value)


def _perhaps(given: str, known: Sequence[str], otherwise: str) -> str | None:
    close = difflib.get_close_matches(given, known, n=1)
    if close:
        return f"perhaps `{close[0]}` is meant"
    section = given.rpartition(".")[0]
    return f"{otherwise} {', '.join(key.removeprefix(f'{section}.') for key in known)}" if known else None


def _is_yaml(text: str) -> bool:
    return text.endswith((".yaml", ".yml", ".json"))


def _plain(reason: str) -> str:
    """Put Python's words for types into a reader's."""
    reason = reason.partition("\nSubclass types expect one of:")[0]
    reason = re.sub(r"\n *- Parser key .*", "", reason)
    reason = re.sub(r"^'utf-8' codec can't decode .*", "Expected settings, or a YAML file that has them", reason)
    reason = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", reason)
    reason = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", reason)
    return reason.replace("Expected a int", "Expected an int")
