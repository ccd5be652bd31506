"""Configuration files: what a YAML parser accepts although it cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SECTIONS = ("data", "network", "federation", "personalization", "methods", "trainer", "tune")
"""Sections that may be given as the path of another file."""


class ConfigError(ValueError):
    """A configuration is not valid; the message says what was given, what is needed, and what to do."""


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
    """Read a YAML file that must hold keys, none of them twice."""
    try:
        text = path.read_text(encoding="utf-8")
        for key, first, second in _duplicate_keys(yaml.compose(text, Loader=yaml.SafeLoader)):
            raise ConfigError(
                f"{path}: the key `{key}` appears twice, in lines {first} and {second}. HINT: rename or remove one."
            )
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


def _duplicate_keys(node: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Yield every key that a mapping has twice, with both lines, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    yield key.value, lines[key.value], line
                lines[key.value] = line
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _duplicate_keys(value)
