"""The command line: arguments, output and exit codes. The modules of a command are imported when it runs."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from lpft import __version__
from lpft.arguments import ARGUMENTS, parser_of
from lpft.runtime import slurm
from lpft.runtime.output import CLOSED, discard_output, replacing_unencodable
from lpft.runtime.signals import STOPPED, Interrupted, Stopped, ignore, interruptible, listen

USAGE = """\
lpft - personalize a federated model for every client without forgetting the rest of the world

  lpft init        [NAME]      write a shipped experiment; `own_sites FOLDER` writes one for your images
  lpft run         -c FILE     federate, personalize with every method and report, for every seed; skip finished work
  lpft federate    -c FILE     train the global model of each seed
  lpft tune        -c FILE     tune each method on validation data (`run` does this if there is a section `tune`)
  lpft personalize -c FILE     fine-tune every client with every method, fill the accuracy matrix
  lpft prepare     -c FILE     check a dataset, convert it once into the array cache, show samples and counts
  lpft report      RUN [RUN..] write tables, figures, a page and TensorBoard events; --loggers also logs elsewhere
  lpft status      RUN         show what is done, in progress, failed and missing, and the remaining time
  lpft plan        -c FILE     count all work and the missing work of each stage, for scripts
  lpft export      RUN         save one client's model as a folder: tensors, model.json, programs for PyTorch and ONNX
  lpft predict     MODEL FILES..  predict classes and probabilities of images or feature files by an exported model
  lpft theory                  compare FT and LP-FT in a linear model, in closed form
  lpft completion  SHELL       print a script that completes commands, options and values in bash or zsh

  lpft COMMAND --help          all settings of a command
  lpft COMMAND -c FILE --print_config
  lpft --version

Exit codes: 0 done; 1 a run failed, finished results are kept; 2 bad usage or configuration; 75 stopped by signal USR1
after the current round or stack; 130, 143, 129 interrupted at once by Ctrl-C, TERM or HUP. The same command continues.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``lpft`` with the given arguments, by default those of the command line, and exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with replacing_unencodable():
            _main(arguments)
    except OSError as error:  # writing the output failed
        if discard_output():
            sys.exit(CLOSED)
        _fail(f"the output cannot be written: {error}", 1)


def _main(arguments: list[str]) -> NoReturn:
    command, args = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0)
    if command in ("-V", "--version"):
        print(f"lpft {__version__}")
        sys.exit(0)
    if command not in COMMANDS:
        _fail(f"there is no command {command!r}; there are {', '.join(COMMANDS)}.", 2)
    atexit.register(gc.freeze)  # otherwise the garbage collector visits all of torch's objects at exit, for seconds
    logging.basicConfig(format="lpft: %(message)s", level=logging.WARNING)
    logging.getLogger("lpft").setLevel(logging.INFO)
    try:
        listen()  # before slow imports: until then the signal would kill the process
        slurm.check_command(command)
    except ValueError as error:
        _fail(str(error), 2)
    try:
        with interruptible():
            sys.exit(COMMANDS[command](args))
    except KeyboardInterrupt as interrupt:
        code = interrupt.code if isinstance(interrupt, Interrupted) else 130
        _fail("interrupted; finished results are kept. Run the same command again to continue.", code)
    except BrokenPipeError:
        raise
    except OSError as error:  # full disk, read-only folder
        _fail(f"{error}. Finished results are kept; run the same command again to continue.", 1)
    finally:
        ignore()


def init(args: list[str]) -> int:
    """List the shipped experiments, or write one; print the files and the next commands."""
    parser = parser_of("init")
    options = parser.parse_args(args)
    from lpft.shipped import files

    if options.images and options.name != "own_sites":
        parser.error("only `own_sites` is fitted to a folder. HINT: to write to another folder, use --to FOLDER")
    try:
        if not options.name:
            print(files.listing())
            return 0
        if options.images:
            print(f"lpft init: scanning {options.images}", file=sys.stderr, flush=True)
            from lpft.shipped.own_sites import fitted_experiment

            texts, next_steps = fitted_experiment(options.images, options.to)
        else:
            texts, next_steps = files.copies(options.name, options.to), files.next_steps(options.name, options.to)
        files.write(texts, options.force)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        _fail(str(error), 2)
    print(*texts, "", next_steps, sep="\n")
    return 0


def completion(args: list[str]) -> int:
    """Print the completion script of a shell."""
    shell = parser_of("completion").parse_args(args).shell
    if find_spec("shtab") is None:
        _fail("completion needs shtab. HINT: pip install 'lpft[completion]'", 2)
    from lpft.completion import script

    print(script(shell, [name for name in COMMANDS if name not in ARGUMENTS]))
    return 0


def stage(command: str, args: list[str]) -> int:
    """Run a stage of the pipeline, or all stages; print the failures and how to continue."""
    with _session(command, args):
        from lpft import pipeline
        from lpft.config.study import open_study
        from lpft.reporting.report import write_any_report

        study = open_study(command, args)
        failures: list[str] = []
        code = 0
        try:
            if command == "run":
                pipeline.run(study, report=partial(write_any_report, show=True))
            else:
                getattr(pipeline, command)(study)
        except pipeline.RunFailed as error:
            failures, code = error.failures, 1
        except Stopped as stop:
            failures, code = stop.failures, STOPPED
    for text in failures:
        print(f"lpft: failed: {text}", file=sys.stderr)
    if code == STOPPED:
        print("lpft: stopped by a signal.", file=sys.stderr)
    if code:
        print("lpft: finished results are kept. Run the same command again to continue.", file=sys.stderr)
    return code


def prepare(args: list[str]) -> int:
    """Build the array cache, print a summary, write the counts and a contact sheet (or the ranges of features)."""
    with _session("prepare", args):
        from rich.console import Console

        from lpft.config.study import read_datasets
        from lpft.data.summary import describe, write_contact_sheet, write_counts, write_features

        console = Console()
        for run, data in read_datasets(args):
            describe(data, console)
            counts = run.data_file("clients.csv")
            write_counts(counts, data)
            if data.source.has_features:
                overview = run.data_file("features.csv")
                write_features(overview, data)
                note = "no contact sheet, augmentation or settings of pixels: these are for images"
            else:
                overview, note = run.data_file("contact_sheet.png"), "look at it before you train on it"
                write_contact_sheet(overview, data)
            console.print(f"{counts}\n{overview}: {note}", highlight=False, soft_wrap=True)
    return 0


def plan(args: list[str]) -> int:
    """Print the folder of the run, and the numbers of missing and of all parts of every stage; write nothing.

    The parts of `federate` are seeds, those of `tune` and `personalize` are stacks. Until tuning is done, the stacks of
    tuned methods count as missing.
    """
    with _session("plan", args):
        from lpft.config.study import open_study

        study = open_study("plan", args)
        counts = {stage: [0, 0] for stage in ("federate", "tune", "personalize")}
        for stage, missing, total in study.remaining():
            counts[stage][0] += missing
            counts[stage][1] += total
    print("out", study.run.root)
    for stage, (missing, total) in counts.items():
        print(stage, missing, total)
    return 0


def report(args: list[str]) -> int:
    """Write all files that are derived from the client results, and print the comparison."""
    if any(arg.startswith("--loggers") for arg in args):
        return _report_to_loggers(args)
    return _write_reports(parser_of("report").parse_args(args).runs)


def _report_to_loggers(args: list[str]) -> int:
    with _session("report", args):
        from lpft.config.loggers import logger_writers, read_loggers

        runs, configs = read_loggers(args)
        writers = logger_writers(configs)
        return _write_reports(runs, writers) or int(any(writer.failed for writer in writers))


def _write_reports(folders: list[str], writers: Sequence[Any] = ()) -> int:
    from lpft.reporting.report import write_any_report

    for folder in folders:
        try:
            write_any_report(folder, writers, show=True)
        except (FileNotFoundError, ValueError) as error:
            _fail(str(error), 2)
    return 0


def status(args: list[str]) -> int:
    """Print what is done, in progress, failed and missing, and the estimated time left."""
    from lpft.reporting.status import print_status, read_status
    from lpft.storage.run import Run

    options = parser_of("status").parse_args(args)
    try:
        print_status(read_status(Run(options.run)), as_json=options.json)
    except FileNotFoundError as error:
        _fail(str(error), 2)
    return 0


def export_model(args: list[str]) -> int:
    """Export a client's model to a folder, and print its files."""
    options = parser_of("export").parse_args(args)
    from lpft.export import export
    from lpft.storage.run import Run

    try:
        for path in export(Run(options.run), options.method, options.client, options.to, options.seed):
            print(path)
    except (FileExistsError, NotADirectoryError) as error:
        _fail(f"{error}. HINT: `--to` names a folder.", 2)
    except (FileNotFoundError, ValueError) as error:
        _fail(str(error), 2)
    return 0


def predict(args: list[str]) -> int:
    """Print the predictions, or write them to a file; return 1 if some inputs could not be read."""
    options = parser_of("predict").parse_args(args)
    for path in options.inputs:
        if not Path(path).exists():
            _fail(f"{path} does not exist. HINT: name files or folders.", 2)
    if options.to is not None and options.to.is_dir():
        _fail(f"{options.to} is a folder. HINT: `--to` names a CSV file.", 2)
    from lpft.prediction import ExportedModel, write_predictions

    try:
        model = ExportedModel.load(options.model, options.device)
        predictions = model.predict(model.files(options.inputs), options.batch_size)
    except (FileNotFoundError, ValueError) as error:
        _fail(str(error), 2)
    problems = write_predictions(predictions, options.to)
    for problem in problems:
        print(f"lpft predict: not read: {problem}", file=sys.stderr)
    return 1 if problems else 0


def theory(args: list[str]) -> int:
    """Compare FT and LP-FT in the linear model."""
    parser = parser_of("theory")
    options = parser.parse_args(args)
    for name in ("dim", "shared", "clients", "signal", "shift", "samples", "noise"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} {value} must be above 0")
    if min(options.eta) <= 0:
        parser.error(f"--eta {min(options.eta):g} must be above 0")
    if options.samples and options.noise is not None:
        parser.error("--samples requires concept shift. HINT: remove --noise")
    from rich.console import Console

    from lpft.theory import lab, linear

    try:
        clients = linear.draw(
            options.dim, options.shared, options.clients, options.signal, options.shift, options.noise, options.seed
        )
    except ValueError as error:
        parser.error(str(error))
    console = Console()
    comparisons = lab.print_comparison(clients, options.eta, console)
    if options.samples:
        lab.print_samples(clients, options.samples, options.label_noise, options.seed, console)
    if options.out:
        lab.write_comparison(options.out / "theory.csv", comparisons)
        lab.draw_comparison(options.out / "theory.svg", clients, options.eta)
        console.print(f"{options.out / 'theory.csv'}, {options.out / 'theory.svg'}", highlight=False, soft_wrap=True)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "init": init,
    **{command: partial(stage, command) for command in ("run", "federate", "tune", "personalize")},
    "prepare": prepare,
    "report": report,
    "status": status,
    "plan": plan,
    "export": export_model,
    "predict": predict,
    "theory": theory,
    "completion": completion,
}


@contextmanager
def _session(command: str, args: list[str]) -> Iterator[None]:
    """Prepare the process for training; exit with code 2 if the configuration is not valid."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", nargs="?", action="append", default=[])
    files = [file for file in parser.parse_known_args(args)[0].config if file]
    print(f"lpft {command}: reading {', '.join(files) or 'the settings'}", file=sys.stderr, flush=True)
    from lpft.runtime.session import training_session

    with training_session():
        from lpft.config.files import ConfigError

        try:
            yield
        except ConfigError as error:
            print(f"lpft {command}: {error}\nFor all settings: lpft {command} --help", file=sys.stderr)
            sys.exit(2)


def _fail(message: str, code: int) -> NoReturn:
    print(f"lpft: {message}", file=sys.stderr)
    sys.exit(code)
