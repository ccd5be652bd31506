"""The command table. A command's code is imported only when that command runs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from lpft import __version__
from lpft.runtime import slurm
from lpft.runtime.signals import STOPPED, Stopped, ignore, listen

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from lpft.experiment import Experiment

USAGE = """\
lpft - personalize a federated model for every client without forgetting the rest of the world

  lpft run         -c FILE     federate -> personalize every method -> report, for every seed; does only what is missing
  lpft federate    -c FILE     train the global model of each seed
  lpft tune        -c FILE     try each method's grid, choose by validation data (`run` does it if there is `tune:`)
  lpft personalize -c FILE     fine-tune every client with every method, fill the accuracy matrix
  lpft prepare     -c FILE     check a dataset, convert it once into the array cache, show what is in it
  lpft report      RUN [RUN..] tables, figures, page, TensorBoard events from what is on disk
  lpft status      RUN         what is done, at work, failed and why, missing, and how long the rest takes
  lpft plan        -c FILE     how much work each stage is, and how much of it is missing, for scripts
  lpft theory                  FT against LP-FT in a linear model, in closed form

  lpft COMMAND --help          all settings of a command
  lpft COMMAND -c FILE --print_config
  lpft --version

Exit codes: 0 done; 1 a run failed, what is finished is kept; 2 bad usage or configuration; 75 stopped by signal USR1
after the round or the stack at hand, the same command goes on from there.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``lpft`` with the given arguments, by default the command line's, and exit."""
    words = list(sys.argv[1:] if argv is None else argv)
    command, args = (words[0], words[1:]) if words else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0)
    if command in ("-V", "--version"):
        print(f"lpft {__version__}")
        sys.exit(0)
    if command not in COMMANDS:
        print(f"lpft: there is no command {command!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(format="lpft: %(message)s", level=logging.WARNING)
    try:
        listen()  # before anything heavy is imported: until then the signal would end the process
        slurm.check_command(command)
    except ValueError as error:
        _fail(str(error), 2)
    try:
        sys.exit(COMMANDS[command](args))
    except KeyboardInterrupt:
        _fail("interrupted; what is finished is kept. Start the same command again to go on.", 130)
    except OSError as error:  # full disk, read-only folder
        _fail(f"{error}. What is finished is kept; start the same command again to go on.", 1)
    finally:
        ignore()


def run(args: list[str]) -> int:
    """Federate, personalize, report."""
    experiment = _load("run", args)
    code = _each(experiment, _stages)
    return code if code == STOPPED else _report(experiment.run.root, show=True, code=code)


def federate(args: list[str]) -> int:
    """Train the global models."""
    return _each(_load("federate", args), _federate)


def tune(args: list[str]) -> int:
    """Try each method's grid."""
    experiment = _load("tune", args)
    if not experiment.tune.grids:
        _fail("the experiment has no section `tune`. HINT: tune: {grids: {ft: {lr: [0.01, 0.001]}}}", 2)
    return _each(experiment, _tune)


def personalize(args: list[str]) -> int:
    """Fine-tune every client."""
    return _each(_load("personalize", args), _personalize)


def prepare(args: list[str]) -> int:
    """Build the array cache, say what is in it, and write counts and a contact sheet."""
    experiment = _heavy()
    from rich.console import Console

    from lpft.data.summary import describe, write_contact_sheet, write_counts

    console = Console()
    for run, data in experiment.load_datasets(args):
        describe(data, console)
        counts, sheet = run.data_file("clients.csv"), run.data_file("contact_sheet.png")
        write_counts(counts, data)
        write_contact_sheet(sheet, data)
        console.print(f"{counts}\n{sheet}: look at it before you train on it", highlight=False, soft_wrap=True)
    return 0


def plan(args: list[str]) -> int:
    """Print the run's folder, then for every stage how many parts are missing, and how many there are.

    Parts are seeds for `federate`, stacks for `tune` and `personalize`. Nothing is written, and before tuning is done
    its choices count as missing.
    """
    experiment = _load("plan", args)
    counts = {stage: [0, 0] for stage in ("federate", "tune", "personalize")}
    for point in experiment.points:
        for stage, missing, total in point.work():
            counts[stage][0] += missing
            counts[stage][1] += total
    print("out", experiment.run.root)
    for stage, (missing, total) in counts.items():
        print(stage, missing, total)
    return 0


def report(args: list[str]) -> int:
    """Rewrite what is derived from the cells."""
    parser = _parser("report", "Tables, figures, page and TensorBoard events from what is on disk.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    return max(_report(folder, show=True) for folder in parser.parse_args(args).runs)


def status(args: list[str]) -> int:
    """Say what is done, at work, failed, missing, and how long the rest takes."""
    from lpft.reporting.status import print_status, read_status
    from lpft.storage.run import Run

    parser = _parser("status", "What is done, at work, failed, missing; the last errors; how long the rest takes.")
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(args)
    try:
        print_status(read_status(Run(options.run)), as_json=options.json)
    except FileNotFoundError as error:
        _fail(str(error), 2)
    return 0


def theory(args: list[str]) -> int:
    """Compare FT and LP-FT in the linear model."""
    parser = _parser("theory", "FT against LP-FT in a linear model, in closed form and on finite samples.")
    parser.add_argument("--dim", type=int, default=20, metavar="D", help="dimension of the inputs (20)")
    parser.add_argument("--shared", type=int, default=4, metavar="M", help="rows of the body that all clients use (4)")
    parser.add_argument("--clients", type=int, default=5, metavar="C", help="number of clients (5)")
    parser.add_argument("--signal", type=float, default=1.0, metavar="S", help="squared norm of the common head (1)")
    parser.add_argument("--shift", type=float, default=0.5, metavar="LAMBDA", help="heterogeneity of the heads (0.5)")
    parser.add_argument("--noise", type=float, metavar="EPS", help="combined shift: inputs are mu_i + EPS z")
    parser.add_argument("--eta", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.25, 0.5, 1.0], help="step sizes")
    parser.add_argument("--samples", type=int, metavar="N", help="train on N samples a client, too (concept shift)")
    parser.add_argument("--label-noise", type=float, default=0.5, metavar="SD", help="of the samples' targets (0.5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write theory.csv and theory.svg there")
    options = parser.parse_args(args)
    for name in ("dim", "shared", "clients", "signal", "shift", "samples", "noise"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} {value} must be above 0")
    if min(options.eta) <= 0:
        parser.error(f"--eta {min(options.eta):g} must be above 0")
    if options.samples and options.noise is not None:
        parser.error("--samples goes with concept shift. HINT: leave out --noise")
    from rich.console import Console

    from lpft.theory import lab, linear

    try:
        clients = linear.draw(
            options.dim, options.shared, options.clients, options.signal, options.shift, options.noise, options.seed
        )
    except ValueError as error:
        parser.error(str(error))
    console = Console()
    found = lab.print_comparison(clients, options.eta, console)
    if options.samples:
        lab.print_samples(clients, options.samples, options.label_noise, options.seed, console)
    if options.out:
        lab.write_comparison(options.out / "theory.csv", found)
        lab.draw_comparison(options.out / "theory.svg", clients, options.eta)
        console.print(f"{options.out / 'theory.csv'}, {options.out / 'theory.svg'}", highlight=False, soft_wrap=True)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "federate": federate,
    "tune": tune,
    "personalize": personalize,
    "prepare": prepare,
    "report": report,
    "status": status,
    "plan": plan,
    "theory": theory,
}


def _load(command: str, args: list[str]) -> Experiment:
    return _heavy().load(command, args)


def _heavy() -> ModuleType:
    """Import what reads experiments."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a process, before torch is imported
    import torch

    from lpft import experiment

    torch.set_num_threads(1)
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # how many processes there are is no news
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # classes named in YAML may be in files there
    return experiment


def _each(experiment: Experiment, stage: Callable[[Experiment], int]) -> int:
    """Do a stage for every point of a sweep; a failing point does not stop the others, a signal does."""
    codes = [0]
    for point in experiment.points:
        codes.append(stage(point))
        if codes[-1] == STOPPED:
            break
    return max(codes)


def _stages(experiment: Experiment) -> int:
    """Do all stages; where one has failed, go on with what does not need it."""
    code = _federate(experiment)
    if code == STOPPED:
        return code
    seeds = None
    if code:
        from lpft.federated.federate import is_done

        task = experiment.global_task()
        seeds = [seed for seed in task.seeds if is_done(task, seed)]
    can_tune = seeds is None or not experiment.trials or set(experiment.tune.seeds) <= set(seeds)
    tuning = _tune(experiment) if can_tune else 1
    if tuning == STOPPED:
        return tuning
    return max(code, tuning, _personalize(experiment, seeds, tuned=not tuning))


def _federate(experiment: Experiment) -> int:
    from lpft.federated.federate import federate, take_trained

    task = experiment.global_task()
    take_trained(task, (other.global_task() for other in experiment.siblings))
    return _finish(lambda: federate(task))


def _tune(experiment: Experiment) -> int:
    """Run the trials of tuning, if there are any, and choose."""
    from lpft.personalization.pool import personalize

    if not experiment.trials:
        return 0
    trials = experiment.tuning
    for seed in trials.seeds:
        trials.run.take_global_model(experiment.run, seed)
    code = _finish(lambda: personalize(trials.personal_task(), experiment.shard))
    if not code and experiment.shard == (0, 1):
        for trial in experiment.read_trials()[1]:
            if trial.method not in experiment.methods:
                continue
            print(f"tuned {trial.method}: {trial.settings or 'the untuned settings are best'}")
    return code


def _personalize(experiment: Experiment, seeds: list[int] | None = None, tuned: bool = True) -> int:
    """Personalize the experiment's seeds, or those of them that are given; by the tuned methods too if they are."""
    from lpft.personalization.pool import personalize
    from lpft.reporting.report import write_tables

    shard = experiment.shard  # the point's own
    if experiment.trials and tuned:
        try:
            experiment = experiment.tuned()
            experiment.settle()
        except ValueError as error:
            _fail(str(error), 2)
    task = experiment.personal_task()
    task.seeds = [seed for seed in task.seeds if seeds is None or seed in seeds]
    code = _finish(lambda: personalize(task, shard))
    if experiment.command == "personalize":
        with contextlib.suppress(FileNotFoundError):  # nothing is there yet
            write_tables(experiment.run)
    if experiment.fallback and not code and seeds is None:
        _write_advised(experiment)
    return code


def _write_advised(experiment: Experiment) -> None:
    """Write the model that each client should use, unless other shards have still to finish."""
    from lpft.personalization.recommended import write_recommended

    task = experiment.personal_task()
    if any(task.missing(job) for job in task.jobs()):
        print("lpft: not all clients are finished: start it again for --fallback to choose.", file=sys.stderr)
        return
    chosen = write_recommended(experiment.run, experiment.seeds, list(experiment.methods))
    kept = sum(method is None for method in chosen.values())
    print(f"--fallback: {kept} of {len(chosen)} clients keep the global model ({experiment.run.root}/seed_*/advised)")


def _finish(stage: Callable[[], list[str]]) -> int:
    """Run a stage; print what has failed, and how to go on."""
    import torch

    stopped = False
    try:
        failures = stage()
    except Stopped as stop:
        failures, stopped = stop.failures, True
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException) as error:
        failures = [f"A process has ended: {error}"]
    for text in failures:
        print(f"lpft: failed: {text}", file=sys.stderr)
    if stopped:
        print("lpft: stopped by a signal.", file=sys.stderr)
    if failures or stopped:
        print("lpft: what is finished is kept. Start the same command again to go on.", file=sys.stderr)
    return STOPPED if stopped else 1 if failures else 0


def _report(folder: Any, show: bool, code: int = 0) -> int:
    """Report and return the code; without one, having nothing to report is an error."""
    from lpft.reporting.report import write_report, write_sweep_report
    from lpft.storage.run import Run

    root = Run(folder)
    try:
        if root.points():
            write_sweep_report(root, show=show)
        else:
            write_report(root, show=show)
        root.remove_leftovers()
    except (FileNotFoundError, ValueError) as error:
        if not code:
            _fail(str(error), 2)
        print(f"lpft: no report: {error}", file=sys.stderr)
    return code


def _parser(command: str, description: str) -> ArgumentParser:
    import argparse

    return argparse.ArgumentParser(prog=f"lpft {command}", description=description)


def _fail(message: str, code: int) -> NoReturn:
    print(f"lpft: {message}", file=sys.stderr)
    sys.exit(code)
