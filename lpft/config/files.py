"""Errors in configurations, and checks of YAML files that the parser does not make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

SECTIONS = ("data", "network", "federation", "personalization", "evaluation", "methods", "trainer", "tune")
"""Sections that may be given as the path of another file."""

SUFFIXES = (".yaml", ".yml", ".json")
"""Endings of the names of configuration files."""

ALTERNATIVES = re.compile(
    r"Does not validate [^\n]*\n *Subtypes: [^\n]*\n *Errors:\n(?P<errors>(?:(?!Does not validate ).)*?)"
    r"\n *Given value type: [^\n]*\n *Given value: (?P<value>[^\n]*)",
    re.S,
)
"""jsonargparse's error for a value that matches none of several types, without nested errors of this kind."""


class ConfigError(ValueError):
    """A configuration is not valid; the message contains the value, the requirement and a hint."""


@contextmanager
def config_errors() -> Iterator[None]:
    """Convert errors of classes that check their own settings and files to `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(shortened(str(error))) from error


def shortened(message: str) -> str:
    """Return jsonargparse's message without lists of types, and for optional values without the alternative None."""
    message = message.partition("\nSubclass types expect one of:")[0]
    while union := ALTERNATIVES.search(message):  # innermost first
        reasons = [reason.strip() for reason in re.split(r"^ *- ", union["errors"], flags=re.M)]
        text = "; or ".join(reason for reason in reasons if reason and "NoneType" not in reason)
        if not re.search(rf"(?<![\w.>]){re.escape(union['value'])}(?!\w)|Got value: ", text):
            text += f". Got value: {union['value']}"
        message = message[: union.start()] + text + message[union.end() :]
    return message


def check_file(path: Path) -> None:
    """Check a configuration file, and the files that it names for sections and methods.

    Raises:
        ConfigError: if a file is missing, is not valid YAML or not a mapping, has a duplicate key or an empty section.
    """
    content = read_mapping(path)
    for section in SECTIONS:
        if section in content and content[section] is None:
            raise ConfigError(f"{path}: `{section}` is empty. HINT: remove the line, or give it settings.")
    values = {f"`{section}`": content.get(section) for section in SECTIONS}
    if isinstance(methods := content.get("methods"), dict):
        values |= {f"`methods.{name}`": method for name, method in methods.items()}
    for key, value in values.items():
        if isinstance(value, str) and value.endswith(SUFFIXES):
            file = path.parent / value
            if not file.exists():
                raise ConfigError(f"{path}: {key} names a file that does not exist: {file}.")
            read_mapping(file)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file.

    Raises:
        ConfigError: if it cannot be read, or is not a mapping whose keys are text and unique.
    """
    try:
        text = path.read_text(encoding="utf-8")
        for problem in _invalid_keys(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: {problem}")
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).replace('<unicode string>', path.name)}") from error
    if not isinstance(content, dict):
        problem = "is empty" if content is None else f"contains a {type(content).__name__}"
        raise ConfigError(f"{path} {problem}, but must contain keys and values. HINT: start from one of `configs/`.")
    return content


def _invalid_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield a message for every duplicate key and every key that is not text."""
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
