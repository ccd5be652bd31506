"""Generates the shell script that completes lpft's commands, options and values.

The script contains all of them, so that completion does not start Python. It needs the extra `completion`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import shtab
from jsonargparse import ArgumentParser, Namespace

import lpft.shipped.files as shipped
from lpft.arguments import ARGUMENTS, with_arguments
from lpft.config.parser import ExperimentCLI

PLUGINS = ("data.sources", "data.partition", "models", "methods", "federated")
"""Packages with classes that configurations name."""
FOLDERS, FILES = ("RUN", "MODEL", "FOLDER"), ("FILE", "IMAGES")
"""Metavars of arguments that are paths of folders or files."""


class _ParserOnly(ExperimentCLI):
    """The parser of an experiment command, without a configuration."""

    def parse_arguments(self, parser: object, args: object) -> None:
        """Parse nothing."""
        self.config = Namespace()


def script(shell: str, experiment_commands: Sequence[str]) -> str:
    """Return the completion script of a shell.

    Args:
        shell: ``bash`` or ``zsh``.
        experiment_commands: names of the commands that read an experiment.
    """
    for package in PLUGINS:
        _import_all(f"lpft.{package}")
    root = ArgumentParser(prog="lpft")
    root.add_argument("-V", "--version", action="store_true", help="print the version")
    commands = root.add_subcommands(required=False)
    for name in experiment_commands:
        commands.add_subcommand(name, _ParserOnly(name, []).parser)
    for name in ARGUMENTS:
        parser = with_arguments(name, ArgumentParser(description=ARGUMENTS[name].__doc__))
        for action in parser._actions:
            if action.dest == "name":
                action.choices = [entry.name.removeprefix("experiments/") for entry in shipped.shipped()]
                action.choices.append(shipped.SCRIPTS)
            elif action.metavar in FOLDERS + FILES:
                action.complete = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
        commands.add_subcommand(name, parser)
    return root.get_completion_script(f"shtab-{shell}")


def _import_all(name: str) -> None:
    """Import all modules of a package, so that the parsers find their classes."""
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)
