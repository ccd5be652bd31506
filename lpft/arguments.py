"""The arguments of the commands that read no experiment. Imports nothing heavy."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Parser = TypeVar("Parser", bound=ArgumentParser)

RUN = "folder of a run"


def parser_of(command: str) -> ArgumentParser:
    """Make the parser of one of the commands in `ARGUMENTS`."""
    return with_arguments(command, ArgumentParser(prog=f"lpft {command}", description=ARGUMENTS[command].__doc__))


def with_arguments(command: str, parser: Parser) -> Parser:
    """Add the arguments of a command to a parser."""
    ARGUMENTS[command](parser)
    return parser


def init(parser: ArgumentParser) -> None:
    """Write an experiment that comes with lpft, and the sections it names; without a name, list them."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="an experiment, an addition or a section; `slurm` for its scripts")
    add("images", nargs="?", type=Path, metavar="FOLDER", help="`own_sites` only: your images, which it is fitted to")
    add("--to", type=Path, default=Path(), metavar="FOLDER", help="where to write (the working folder)")
    add("--force", action="store_true", help="replace files that are there and differ")


def completion(parser: ArgumentParser) -> None:
    """Print a script that completes the commands, options and values of lpft in a shell."""
    where = "it belongs in ~/.local/share/bash-completion/completions/lpft, or, as _lpft, in a folder of zsh's $fpath"
    parser.add_argument("shell", choices=["bash", "zsh"], help=where)


def report(parser: ArgumentParser) -> None:
    """Tables, figures, page and TensorBoard events from what is on disk."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN)
    loggers = (
        "give everything to these loggers, too: a YAML file, also an experiment's, or `CLASS --loggers.SETTING VALUE`"
    )
    parser.add_argument("--loggers", metavar="FILE|CLASS", help=loggers)


def status(parser: ArgumentParser) -> None:
    """What is done, in progress, failed and missing; the last errors; how long the rest takes."""
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """Read a number from 1 on."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def export(parser: ArgumentParser) -> None:
    """One client's model as a folder: tensors, model.json, programs for PyTorch and ONNX."""
    add = parser.add_argument
    add("run", metavar="RUN", help=RUN)
    add("--method", default="lpft", help="name of the method, or `global` (lpft)")
    add("--client", required=True, help="name of the client")
    add("--seed", type=int, default=0)
    add("--to", type=Path, required=True, metavar="FOLDER", help="folder to write, made if it is not there")


def predict(parser: ArgumentParser) -> None:
    """Classes and probabilities of images or rows of features, by an exported model."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder that `lpft export` has written")
    add("inputs", nargs="+", metavar="FILES", help="image files, or files of features (.csv, .npz, ...), or folders")
    add("--to", type=Path, metavar="FILE", help="write a CSV file with the probability of every class")
    add("--batch-size", type=positive, default=64, help="inputs in a forward pass (64)")
    add("--device", default="cpu", help="such as cpu or cuda:0 (cpu)")


def theory(parser: ArgumentParser) -> None:
    """FT against LP-FT in a linear model, in closed form and on finite samples."""
    add = parser.add_argument
    add("--dim", type=int, default=20, metavar="D", help="dimension of the inputs (20)")
    add("--shared", type=int, default=4, metavar="M", help="rows of the body that all clients use (4)")
    add("--clients", type=int, default=5, metavar="C", help="number of clients (5)")
    add("--signal", type=float, default=1.0, metavar="S", help="squared norm of the common head (1)")
    add("--shift", type=float, default=0.5, metavar="LAMBDA", help="heterogeneity of the heads (0.5)")
    add("--noise", type=float, metavar="EPS", help="combined shift: inputs are mu_i + EPS z")
    add("--eta", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.25, 0.5, 1.0], help="step sizes")
    add("--samples", type=int, metavar="N", help="also train on N samples per client (concept shift)")
    add("--label-noise", type=float, default=0.5, metavar="SD", help="of the samples' targets (0.5)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="FOLDER", help="write theory.csv and theory.svg there")


ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    command.__name__: command for command in (init, completion, report, status, export, predict, theory)
}
