"""The key `loggers`: any of Lightning's loggers by `class_path`, made anew for every part of a run."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import yaml
from lightning.pytorch.loggers import Logger

from lpft.config.files import ConfigError
from lpft.config.parser import Config, ExperimentParser, add_loggers, dumped, listed
from lpft.reporting.loggers import LoggerWriter, Record, shortened
from lpft.storage.fingerprint import digest

EXPERIMENT = ("experiment_name", "project", "name")
"""Parameters that name what belongs together; unset, the first that a class has gets the name of the run's folder."""

PART = ("run_name", "name", "version")
"""Parameters that name one of its runs; the first that is left gets that of the part, such as ``seed_0/lpft``."""

RUN_ID = ("run_id", "id", "experiment_key")
"""Parameters that choose the run to go on with."""

SECRET = re.compile(r"key$|token|secret|passw|credential", re.IGNORECASE)
"""Parameters whose values are written and printed nowhere."""

CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""Name and password in an address."""

_GIVEN: WeakKeyDictionary[Logger, dict[Path, Record]] = WeakKeyDictionary()
"""What objects that a caller has made have got in this process."""


@dataclass(frozen=True)
class ConfiguredLogger:
    """A logger of a configuration.

    Args:
        config: ``class_path``, ``init_args`` with all defaults, and perhaps ``dict_kwargs``.
    """

    config: Config

    @cached_property
    def name(self) -> str:
        """The class."""
        return str(self.config["class_path"]).rpartition(".")[2]

    @cached_property
    def key(self) -> str:
        """Class and hash of the settings that are not secret."""
        return f"{self.name}-{digest(_public(self.config))[:8]}"

    @property
    def continues(self) -> bool:
        """Whether there is a parameter for the run to go on with."""
        return self._parameters[2] is not None

    @property
    def shared(self) -> bool:
        """Whether there is no parameter for the name of a part."""
        return self._parameters[1] is None

    def open(self, experiment: str, part: str, run_id: str | None = None) -> Logger:
        """Return a logger for a part of an experiment, or for the run of this id."""
        values = {**self._settings, **self.config.get("dict_kwargs", {})}
        of_experiment, of_part, of_run = self._parameters
        if of_experiment is not None:
            values.setdefault(of_experiment, experiment)
        if of_part is not None:
            values[of_part] = f"{values[of_part]}/{part}" if of_part in values else part
        if of_run is not None and run_id is not None:
            values[of_run] = run_id
        logger: Logger = self._class(**values)
        return logger

    def without_secrets(self, text: str) -> str:
        """Return a message without secret settings."""
        for secret in _secrets(self.config):
            text = text.replace(secret, "***")
        return CREDENTIALS.sub("***", text)

    def check(self) -> None:
        """Raise ValueError if settings choose the run, of which there are several."""
        for parameter in (*RUN_ID, "version"):
            if parameter in self._settings and parameter not in self._parameters[:2]:
                raise ValueError(
                    f"`{parameter}` chooses one run, but every seed and method has its own, and is continued by itself."
                    f" HINT: leave out `{parameter}`."
                )

    @cached_property
    def _class(self) -> Any:
        module, _, name = str(self.config["class_path"]).rpartition(".")
        return getattr(importlib.import_module(module), name)

    @cached_property
    def _parameters(self) -> tuple[str | None, str | None, str | None]:
        """The parameters that name the experiment, the part, and the run to go on with; None where there is none."""
        names = set(self._defaults)
        experiment = next((name for name in EXPERIMENT if name in names), None)
        part = next((name for name in PART if name in names and name != experiment), None)
        return experiment, part, next((name for name in RUN_ID if name in names), None)

    @cached_property
    def _parser(self) -> ExperimentParser:
        parser = ExperimentParser()
        parser.add_class_arguments(self._class, "value", instantiate=False)
        return parser

    @cached_property
    def _defaults(self) -> Config:
        """All parameters, those of functions that the class hands them on to included."""
        return dict(self._parser.get_defaults().value)

    @cached_property
    def _settings(self) -> Config:
        """The arguments that are not default, objects among them built.

        Others are not handed on: in Lightning's loggers the default of a parameter may stand for another value.
        """
        built = self._parser.build({"value": self.config["init_args"]}).value if self.config.get("init_args") else {}
        return {name: value for name, value in dict(built).items() if value != self._defaults[name]}


class GivenLogger:
    """A logger that the caller has made: it gets all parts of a run.

    Args:
        logger: the object.
    """

    key, continues, shared = "", False, True

    def __init__(self, logger: Logger | None) -> None:
        self.logger = logger
        self.name = type(logger).__name__

    def __getstate__(self) -> dict[str, Any]:
        """Leave the object to the process that it was made in."""
        return {"name": self.name, "logger": None}

    def open(self, experiment: str, part: str, run_id: str | None = None) -> Any:
        """Return the object."""
        return self.logger

    def without_secrets(self, text: str) -> str:
        """Return a message without passwords in addresses."""
        return CREDENTIALS.sub("***", text)


def logger_writers(configs: Sequence[Config], given: Iterable[Logger] = (), folder: Path | None = None) -> list[Any]:
    """Return the writers of loggers, checked as far as that needs no connection.

    Args:
        configs: loggers of a configuration, resolved.
        given: loggers that a caller has made.
        folder: of a part of the run that will be logged.

    Raises:
        ConfigError: if a logger's package is missing, or its class does not take the settings.
    """
    writers = []
    for config in configs:
        source = ConfiguredLogger(config)
        writer = LoggerWriter(source)
        try:
            source.check()
            if folder is not None:
                writer.check(folder)
        except OSError:  # no connection: then training goes on without it
            pass
        except Exception as error:
            reason = shortened(source.without_secrets(str(error)), 600)
            missing = f" HINT: pip install {error.name}" if isinstance(error, ImportError) and error.name else ""
            raise ConfigError(f"`loggers`: {config['class_path']} cannot be used: {reason}{missing}") from error
        writers.append(writer)
    return [*writers, *(LoggerWriter(GivenLogger(logger), _GIVEN.setdefault(logger, {})) for logger in given)]


def read_loggers(words: Sequence[str]) -> tuple[list[str], list[Config]]:
    """Return the runs, and the loggers, that words of a command line name.

    Args:
        words: such as ``runs/digits --loggers CSVLogger --loggers.save_dir logs``; a file may also be an experiment's.

    Raises:
        ConfigError: if they are not valid.
    """
    parser = ExperimentParser(prog="lpft report", allow_abbrev=False)
    parser.add_argument("runs", nargs="+")
    add_loggers(parser)
    parsed = parser.parse_args([_of_experiment(word) for word in words])
    return parsed.runs, listed(dumped(parser, parsed)["loggers"])


def _of_experiment(word: str) -> str:
    """Replace the file of an experiment by its loggers, whose files lie relative to it."""
    option, equals, file = word.rpartition("=") if word.startswith("--loggers") else ("", "", word)
    path = Path(file)
    if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
        return word
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):  # the parser says what is wrong
        return word
    if not isinstance(content, dict) or "loggers" not in content:
        return word
    loggers = content["loggers"] if isinstance(content["loggers"], list) else [content["loggers"]]
    found = [str(path.parent / item) if isinstance(item, str) else item for item in loggers if item is not None]
    return f"{option}{equals}{json.dumps(found)}"


def sorted_out(loggers: Any) -> tuple[list[Any], list[Logger]]:
    """Return the configurations and files among loggers, or of a single one, and the objects among them.

    The file of an experiment stands for its loggers.
    """
    listed = list(loggers) if isinstance(loggers, list | tuple) else [] if loggers is None else [loggers]
    configured: list[Any] = []
    for item in listed:
        if isinstance(item, str | Path):
            of_experiment = _of_experiment(str(item))
            configured += json.loads(of_experiment) if of_experiment != str(item) else [of_experiment]
        elif not isinstance(item, Logger):
            configured.append(item)
    return configured, [logger for logger in listed if isinstance(logger, Logger)]


def _public(config: Any) -> Any:
    """Return settings without those that are secret."""
    if isinstance(config, Mapping):
        return {key: _public(value) for key, value in config.items() if not SECRET.search(str(key))}
    if isinstance(config, list):
        return [_public(value) for value in config]
    return CREDENTIALS.sub("", config) if isinstance(config, str) else config


def _secrets(config: Any, secret: bool = False) -> Iterator[str]:
    """Yield the secret values of settings."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _secrets(value, secret or bool(SECRET.search(str(key))))
    elif isinstance(config, list):
        for value in config:
            yield from _secrets(value, secret)
    elif secret and isinstance(config, str) and config:
        yield config
