"""The key `loggers`: any Lightning logger by `class_path`, created for every part (seed and method) of a run."""

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
"""Parameters that name a group of runs. The first one that a class has is set to the run's folder, unless it is set."""

PART = ("run_name", "name", "version")
"""Parameters that name a run of the group. The first other one is set to the part's name, such as ``seed_0/lpft``."""

RUN_ID = ("run_id", "id", "experiment_key")
"""Parameters that select an existing run to continue."""

SECRET = re.compile(r"key$|token|secret|passw|credential", re.IGNORECASE)
"""Parameters whose values are never written or printed."""

CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User name and password in a URL."""

_RECORDS: WeakKeyDictionary[Logger, dict[Path, Record]] = WeakKeyDictionary()
"""What this process has already sent to the caller's logger objects."""


@dataclass(frozen=True)
class ConfiguredLogger:
    """A logger of a configuration.

    Args:
        config: ``class_path``, ``init_args`` with all defaults, and perhaps ``dict_kwargs``.
    """

    config: Config

    @cached_property
    def name(self) -> str:
        """Name of the class."""
        return str(self.config["class_path"]).rpartition(".")[2]

    @cached_property
    def key(self) -> str:
        """Name of the class, and a hash of the settings that are not secret."""
        return f"{self.name}-{digest(_public(self.config))[:8]}"

    @property
    def continues(self) -> bool:
        """Whether the class has a parameter that selects an existing run to continue."""
        return self._parameters[2] is not None

    @property
    def shared(self) -> bool:
        """Whether all parts share one run, since the class has no parameter for the name of a part."""
        return self._parameters[1] is None

    def open(self, experiment: str, part: str, run_id: str | None = None) -> Logger:
        """Create the logger of a part.

        Args:
            experiment: name of the group of runs.
            part: name of the part.
            run_id: id of an existing run to continue.
        """
        arguments = {**self._settings, **self.config.get("dict_kwargs", {})}
        experiment_parameter, part_parameter, run_parameter = self._parameters
        if experiment_parameter is not None:
            arguments.setdefault(experiment_parameter, experiment)
        if part_parameter is not None:
            prefix = f"{arguments[part_parameter]}/" if part_parameter in arguments else ""
            arguments[part_parameter] = f"{prefix}{part}"
        if run_parameter is not None and run_id is not None:
            arguments[run_parameter] = run_id
        logger: Logger = self._class(**arguments)
        return logger

    def without_secrets(self, text: str) -> str:
        """Return a message in which secret settings are masked."""
        for secret in _secrets(self.config):
            text = text.replace(secret, "***")
        return CREDENTIALS.sub("***", text)

    def check(self) -> None:
        """Raise ValueError if settings select a single run: every part has its own."""
        for parameter in (*RUN_ID, "version"):
            if parameter in self._settings and parameter not in self._parameters[:2]:
                raise ValueError(
                    f"`{parameter}` selects a single run, but every seed and method has its own run, which `lpft`"
                    f" continues by itself. HINT: remove `{parameter}`."
                )

    @cached_property
    def _class(self) -> Any:
        module, _, name = str(self.config["class_path"]).rpartition(".")
        return getattr(importlib.import_module(module), name)

    @cached_property
    def _parameters(self) -> tuple[str | None, str | None, str | None]:
        """Names of the parameters for the experiment, the part and the run to continue; None if the class has none."""
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
        """Defaults of all parameters, including those that the class passes on to other functions."""
        return dict(self._parser.get_defaults().value)

    @cached_property
    def _settings(self) -> Config:
        """The arguments that differ from their defaults, with objects instantiated.

        Defaults are not passed, since Lightning's loggers may replace the default of a parameter with another value.
        """
        built = self._parser.build({"value": self.config["init_args"]}).value if self.config.get("init_args") else {}
        return {name: value for name, value in dict(built).items() if value != self._defaults[name]}


class GivenLogger:
    """A logger object of the caller, which gets all parts of a run.

    Args:
        logger: the object; None in other processes.
    """

    key, continues, shared = "", False, True

    def __init__(self, logger: Logger | None) -> None:
        self.logger = logger
        self.name = type(logger).__name__

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the object, which stays in the process that created it."""
        return {"name": self.name, "logger": None}

    def open(self, experiment: str, part: str, run_id: str | None = None) -> Any:
        """Return the object."""
        return self.logger

    def without_secrets(self, text: str) -> str:
        """Return a message in which user names and passwords in URLs are masked."""
        return CREDENTIALS.sub("***", text)


def logger_writers(configs: Sequence[Config], objects: Iterable[Logger] = (), folder: Path | None = None) -> list[Any]:
    """Return the writers of loggers, checked as far as possible without a connection.

    Args:
        configs: loggers of a configuration, resolved.
        objects: logger objects of the caller.
        folder: folder of a part of the run, for the check.

    Raises:
        ConfigError: if the package of a logger is missing, or if its class does not accept the settings.
    """
    writers = []
    for config in configs:
        source = ConfiguredLogger(config)
        writer = LoggerWriter(source)
        try:
            source.check()
            if folder is not None:
                writer.check(folder)
        except OSError:  # no connection: training continues without the logger
            pass
        except Exception as error:
            reason = shortened(source.without_secrets(str(error)), 600)
            missing = f" HINT: pip install {error.name}" if isinstance(error, ImportError) and error.name else ""
            raise ConfigError(f"`loggers`: {config['class_path']} cannot be used: {reason}{missing}") from error
        writers.append(writer)
    return [*writers, *(LoggerWriter(GivenLogger(logger), _RECORDS.setdefault(logger, {})) for logger in objects)]


def read_loggers(args: Sequence[str]) -> tuple[list[str], list[Config]]:
    """Return the runs and the loggers of a command line.

    Args:
        args: such as ``runs/digits --loggers CSVLogger --loggers.save_dir logs``; for the file of an experiment, its
            loggers are used.

    Raises:
        ConfigError: if they are not valid.
    """
    parser = ExperimentParser(prog="lpft report", allow_abbrev=False)
    parser.add_argument("runs", nargs="+")
    add_loggers(parser)
    parsed = parser.parse_args([_with_experiment_resolved(arg) for arg in args])
    return parsed.runs, listed(dumped(parser, parsed)["loggers"])


def _with_experiment_resolved(arg: str) -> str:
    """Replace the file of an experiment with its loggers, whose paths are relative to the file; keep anything else."""
    option, equals, file = arg.rpartition("=") if arg.startswith("--loggers") else ("", "", arg)
    path = Path(file)
    if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
        return arg
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):  # the parser reports the error
        return arg
    if not isinstance(content, dict) or "loggers" not in content:
        return arg
    loggers = content["loggers"] if isinstance(content["loggers"], list) else [content["loggers"]]
    resolved = [str(path.parent / item) if isinstance(item, str) else item for item in loggers if item is not None]
    return f"{option}{equals}{json.dumps(resolved)}"


def split_loggers(loggers: Any) -> tuple[list[Any], list[Logger]]:
    """Split loggers into configurations (or files), and objects.

    Args:
        loggers: a logger or a list of loggers; for the file of an experiment, its loggers are used.
    """
    items = list(loggers) if isinstance(loggers, list | tuple) else [] if loggers is None else [loggers]
    configured: list[Any] = []
    for item in items:
        if isinstance(item, str | Path):
            resolved = _with_experiment_resolved(str(item))
            configured += json.loads(resolved) if resolved != str(item) else [resolved]
        elif not isinstance(item, Logger):
            configured.append(item)
    return configured, [logger for logger in items if isinstance(logger, Logger)]


def _public(config: Any) -> Any:
    """Return settings without secret ones."""
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
