"""Errors in configurations, and checks of YAML files beyond those of the parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

SECTIONS = ("data", "network", "federation", "personalization", "evaluation", "methods", "trainer", "tune")
"""Sections that may be given as the path of another file."""


ALTERNATIVES = re.compile(
    r"Does not validate [^\n]*\n *Subtypes: [^\n]*\n *Errors:\n(?P<errors>(?:(?!Does not validate ).)*?)"
    r"\n *Given value type: [^\n]*\n *Given value: (?P<value>[^\n]*)",
    re.S,
)
"""What jsonargparse says of a value that is none of several types, without any such text in it."""


class ConfigError(ValueError):
    """A configuration is not valid; the message says what was given, what is needed, and how to fix it."""


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise `ConfigError` instead of the errors of classes that check their own settings and files."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(shortened(str(error))) from error


def shortened(message: str) -> str:
    """Return jsonargparse's message without lists of types; of a value that may be null, without that alternative."""
    message = message.partition("\nSubclass types expect one of:")[0]
    while union := ALTERNATIVES.search(message):  # from the inside out
        reasons = [reason.strip() for reason in re.split(r"^ *- ", union["errors"], flags=re.M)]
        text = "; or ".join(reason for reason in reasons if reason and "NoneType" not in reason)
        if not re.search(rf"(?<![\w.>]){re.escape(union['value'])}(?!\w)|Got value: ", text):
            text += f". Got value: {union['value']}"
        message = message[: union.start()] + text + message[union.end() :]
    return message


def check_file(path: Path) -> None:
    """Check a configuration file and the files that it names for its sections and methods.

    Raises:
        ConfigError: if a file is missing, is not valid YAML, does not hold keys, has a key twice or an empty section.
    """
    content = _read(path)
    for section in SECTIONS:
        if section in content and content[section] is None:
            raise ConfigError(f"{path}: `{section}` is empty. HINT: remove the line, or give it settings.")
    named = {f"`{section}`": content.get(section) for section in SECTIONS}
    if isinstance(methods := content.get("methods"), dict):
        named |= {f"`methods.{name}`": method for name, method in methods.items()}
    for key, name in named.items():
        if isinstance(name, str) and name.endswith((".yaml", ".yml", ".json")):
            part = path.parent / name
            if not part.exists():
                raise ConfigError(f"{path}: {key} names a file that does not exist: {part}.")
            _read(part)


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold keys: text, none of them twice."""
    try:
        text = path.read_text(encoding="utf-8")
        for problem in _invalid_keys(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: {problem}")
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).replace('<unicode string>', path.name)}") from error
    if not isinstance(content, dict):
        what = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ConfigError(f"{path} {what}, but must hold keys and values. HINT: start from one of `configs/`.")
    return content


def _invalid_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield the errors in the keys of mappings: a key that appears twice, or one that is not text."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.tag != "tag:yaml.org,2002:str":
                    yield f"the key `{name}` in line {line} is not text in YAML. HINT: put it in quotes."
                if name in lines:
                    yield f"the key `{name}` appears twice, in lines {lines[name]} and {line}. HINT: rename one."
                lines[name] = line
            yield from _invalid_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _invalid_keys(value)
