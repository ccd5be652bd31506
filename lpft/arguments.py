"""The arguments of the commands that do not read an experiment. The module imports only the standard library."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Parser = TypeVar("Parser", bound=ArgumentParser)

RUN = "folder of a run"


def parser_of(command: str) -> ArgumentParser:
    """Return the parser of a command in `ARGUMENTS`."""
    return with_arguments(command, ArgumentParser(prog=f"lpft {command}", description=ARGUMENTS[command].__doc__))


def with_arguments(command: str, parser: Parser) -> Parser:
    """Add the arguments of a command to a parser."""
    ARGUMENTS[command](parser)
    return parser


def init(parser: ArgumentParser) -> None:
    """Write a shipped experiment and the sections that it names; without a name, list all of them."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="an experiment, an addition or a section; `slurm` for its scripts")
    add("images", nargs="?", type=Path, metavar="FOLDER", help="`own_sites` only: your images, which it is fitted to")
    add("--to", type=Path, default=Path(), metavar="FOLDER", help="folder to write to (the working directory)")
    add("--force", action="store_true", help="replace existing files that differ")


def completion(parser: ArgumentParser) -> None:
    """Print a script that completes the commands, options and values of lpft in a shell."""
    destination = (
        "save it as ~/.local/share/bash-completion/completions/lpft for bash, as _lpft in a folder of $fpath for zsh"
    )
    parser.add_argument("shell", choices=["bash", "zsh"], help=destination)


def report(parser: ArgumentParser) -> None:
    """Write tables, figures, page and TensorBoard events from the results on disk."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN)
    loggers = "also send everything to loggers: a YAML file (or an experiment's), or `CLASS --loggers.SETTING VALUE`"
    parser.add_argument("--loggers", metavar="FILE|CLASS", help=loggers)


def status(parser: ArgumentParser) -> None:
    """Print what is done, in progress, failed and missing, the last errors, and the estimated time left."""
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """Parse a positive integer."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"{text} is not a positive integer")
    return number


def export(parser: ArgumentParser) -> None:
    """Write a client's model to a folder: tensors, model.json, programs for PyTorch and ONNX."""
    add = parser.add_argument
    add("run", metavar="RUN", help=RUN)
    add("--method", default="lpft", help="name of the method, or `global` (lpft)")
    add("--client", required=True, help="name of the client")
    add("--seed", type=int, default=0, help="seed of the run (0)")
    add("--to", type=Path, required=True, metavar="FOLDER", help="folder to write to, created if it does not exist")


def predict(parser: ArgumentParser) -> None:
    """Predict classes and probabilities of images, or of rows of features, with an exported model."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder written by `lpft export`")
    add("inputs", nargs="+", metavar="FILES", help="image files, files of features (.csv, .npz, ...), or folders")
    add("--to", type=Path, metavar="FILE", help="write a CSV file with the probability of every class")
    add("--batch-size", type=positive, default=64, help="inputs per forward pass (64)")
    add("--device", default="cpu", help="such as cpu or cuda:0 (cpu)")


def theory(parser: ArgumentParser) -> None:
    """Compare FT and LP-FT in a linear model, in closed form and on finite samples."""
    add = parser.add_argument
    add("--dim", type=int, default=20, metavar="D", help="dimension of the inputs (20)")
    add("--shared", type=int, default=4, metavar="M", help="rows of the body that all clients use (4)")
    add("--clients", type=int, default=5, metavar="C", help="number of clients (5)")
    add("--signal", type=float, default=1.0, metavar="S", help="squared norm of the common head (1)")
    add("--shift", type=float, default=0.5, metavar="LAMBDA", help="heterogeneity of the heads (0.5)")
    add("--noise", type=float, metavar="EPS", help="combined shift: inputs are mu_i + EPS z")
    add("--eta", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.25, 0.5, 1.0], help="step sizes")
    add("--samples", type=int, metavar="N", help="also train on N samples per client (concept shift)")
    add("--label-noise", type=float, default=0.5, metavar="SD", help="standard deviation of the targets' noise (0.5)")
    add("--seed", type=int, default=0, help="seed of clients and samples (0)")
    add("--out", type=Path, metavar="FOLDER", help="folder for theory.csv and theory.svg")


ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    command.__name__: command for command in (init, completion, report, status, export, predict, theory)
}
