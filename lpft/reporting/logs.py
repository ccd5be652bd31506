"""What is logged of a run, whoever writes it: TensorBoard's events and the loggers of `lpft.reporting.loggers`.

A run has several parts, each with a folder: every seed and method, the global model of every seed, and for every method
the means over the seeds (``mean/METHOD``). A `Log` is all that there is to log of one part; a `Writer` writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lpft.evaluation.metrics import shown_metrics
from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import class_name, flat, is_chosen_afterwards, section
from lpft.reporting.frames import Frames
from lpft.reporting.results import MethodResult, read_config
from lpft.storage.run import Run

TAGS = {
    "train/loss": "train_loss",
    "local/accuracy": "local",
    "global/accuracy": "global_all",
    "worst/accuracy": "worst",
    "distortion": "distortion",
    "lr/head": "lr_head",
    "lr/body": "lr_body",
}
"""Tag of a method: column of curves.csv; the steps are epochs."""

GLOBAL_TAGS = {
    "federated/loss": "train_loss",
    "federated/val_accuracy": "val_accuracy",
    "federated/clients": "num_clients",
}
"""Tag of a global model: column of history.csv; the steps are rounds."""

END_OF_TRAINING = {"local": "local", "global_all": "global_all", "worst": "worst_row", "distortion": "distortion_own"}
"""Column of curves.csv: the metric that it ends with."""

MEAN = "mean"
"""The folder of the means over the seeds."""

Scalars = list[tuple[int, dict[str, float]]]
"""Step, and values by tag; steps ascend, and the last one may come twice."""


@dataclass(frozen=True)
class Picture:
    """An image.

    Args:
        png: PNG data.
        width: in pixels.
        height: in pixels.
    """

    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Log:
    """All that is to be logged of one part of a run, as far as it is known.

    Args:
        folder: of the part.
        scalars: the curves.
        settled: whether these scalars stay as they are, though others may follow: those of a global model do, those of
            a method are means over the clients that are done, so they do when all are.
        settings: hyperparameters, by name; none of a global model.
        pictures: images by tag, at the last step.
        walltime: of the newest result, in seconds since 1970; 0 if there is none on disk.
        growing: whether more steps are on their way, perhaps some that were there before: training resumes.
    """

    folder: Path
    scalars: Scalars
    settled: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    walltime: float = 0.0
    growing: bool = False


class Writer(Protocol):
    """Writes logs for one program that shows them."""

    def write(self, log: Log) -> None:
        """Write all that is known of a part, in place of what was written of it before."""

    def close(self) -> None:
        """Write what is still waiting, and let go of files and connections; more may be written later."""


def final_logs(analysis: Analysis) -> Iterator[Log]:
    """Yield the logs of every seed and method that has results, of every method's means and of every global model."""
    from lpft.reporting.heatmap import color_scale, heatmap_png

    scale = color_scale(analysis.drawn_matrices)
    walltimes: dict[tuple[int, str], float] = {}
    for result, matrix in zip(analysis.method_results, analysis.drawn_matrices, strict=True):
        if result.client_results:
            picture = Picture(*heatmap_png(matrix, result.clients, scale))
            pictures = {"accuracy matrix": picture}
            log = method_log(analysis.run, result, analysis.experiment.config, analysis.frames, pictures)
            walltimes[result.seed, result.method] = log.walltime
            yield log
    for method in analysis.experiment.complete_methods:
        own = [result for result in analysis.method_results if result.method == method and result.complete]
        settings = method_settings(method, analysis.experiment.config)
        yield Log(
            folder=analysis.run.root / MEAN / method,
            scalars=list(mean_scalars(analysis, method)),
            settled=True,
            settings={**settings, "seeds": ", ".join(str(result.seed) for result in own)},
            walltime=max(walltimes[result.seed, method] for result in own),
        )
    for seed, history in analysis.histories.items():
        if history:
            yield global_log(analysis.run, seed, history)


def method_log(
    run: Run,
    result: MethodResult,
    config: Mapping[str, Any] | None = None,
    frames: Frames | None = None,
    pictures: Mapping[str, Picture] | None = None,
) -> Log:
    """Return the log of a method with one seed.

    Args:
        run: the run.
        result: at least one client's.
        config: the resolved experiment; by default that of the run's folder.
        frames: of several results with this one; by default they are made of `result` alone.
        pictures: see `Log`.
    """
    config = read_config(run) if config is None else config
    settings = method_settings(result.method, config)
    cells = run.method_file(result.seed, result.method, "cells")
    return Log(
        folder=cells.parent,
        scalars=list(method_scalars(result, frames, is_chosen_afterwards(result.method, config))),
        settled=result.complete,
        settings={**settings, "seed": result.seed},
        pictures=pictures or {},
        walltime=_newest(_cells(run, result)),
    )


def global_log(run: Run, seed: int, history: Sequence[Mapping[str, float | None]]) -> Log:
    """Return the log of a global model, from rows of history.csv."""
    path = run.global_file(seed, "history.csv")
    newest = _newest([path]) if path.exists() else 0.0
    return Log(path.parent, list(global_scalars(history)), True, walltime=newest)


def method_scalars(
    result: MethodResult, frames: Frames | None = None, chosen: bool = False
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the curves of a method, and at their end its metrics if it is complete; at least one step.

    Args:
        result: of one seed and method.
        frames: see `method_log`.
        chosen: whether the last epoch's values are of a model that was chosen or averaged after it: the lines then end
            at the epoch evaluated before, if there is one.
    """
    frames = frames or Frames([result])
    every, metrics = frames.mean_curves, frames.metrics_of(result)
    own = every[(every["seed"] == result.seed) & (every["method"] == result.method)]
    curves: list[dict[str, Any]] = own.to_dict("records") or [{"epoch": 0}]
    for column, name in END_OF_TRAINING.items():
        if chosen and any(_is_number(row.get(column)) for row in curves[:-1]):
            curves[-1][column] = None
        elif not _is_number(curves[-1].get(column)):  # the matrix, if the last epoch was not evaluated while training
            curves[-1][column] = metrics.get(name)
    for row in curves:
        yield from _scalars(int(row["epoch"]), {tag: row.get(column) for tag, column in TAGS.items()})
    final = {f"final/{metric.name}": metrics.get(metric.name) for metric in shown_metrics()}
    yield from _scalars(int(curves[-1]["epoch"]), final)


def mean_scalars(analysis: Analysis, method: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield a method's curves as means over its complete seeds, at their end the page's figures.

    An epoch is left out where not every seed has the value. ``final/NAME`` is the mean of a metric, and
    ``interval/NAME`` half of its 95% interval over clients and seeds, if the page has one.
    """
    chosen = is_chosen_afterwards(method, analysis.experiment.config)
    results = [result for result in analysis.method_results if result.method == method and result.complete]
    by_seed = [dict(by_step(method_scalars(result, analysis.frames, chosen))) for result in results]
    last = 0
    for step in sorted(set.intersection(*map(set, by_seed))):
        rows = [of_seed[step] for of_seed in by_seed]
        common = [tag for tag in rows[0] if tag in TAGS and all(tag in row for row in rows)]
        yield from _scalars(step, {tag: sum(row[tag] for row in rows) / len(rows) for tag in common})
        last = step
    summary = analysis.frames.summary
    means = summary[summary["method"] == method].set_index("metric")["mean"]
    final = {f"final/{metric.name}": means.get(metric.name) for metric in shown_metrics()}
    spread = [metric.name for metric in shown_metrics() if metric.spread]
    intervals = {f"interval/{name}": analysis.certainty.estimates[method, name].margin for name in spread}
    yield from _scalars(last, final | intervals)


def global_scalars(history: Iterable[Mapping[str, float | None]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield loss, validation accuracy and number of clients of every round of federated training."""
    for row in history:
        if (number := row.get("round")) is not None:
            yield from _scalars(int(number), {tag: row.get(column) for tag, column in GLOBAL_TAGS.items()})


def by_step(scalars: Iterable[tuple[int, Mapping[str, float]]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield every step once, with all its values."""
    found: dict[int, dict[str, float]] = {}
    for step, values in scalars:
        found.setdefault(step, {}).update(values)
    yield from found.items()


def method_settings(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings with dotted names.

    >>> method_settings("lpft", {"methods": {"lpft": {"class_path": "a.LPFT", "init_args": {"lp_epochs": 5}}}})
    {'method': 'lpft', 'class': 'LPFT', 'lp_epochs': 5}
    """
    settings = section(config, "methods", method)
    named = {"class": class_name(settings)} if "class_path" in settings else {}
    values = dict(flat(section(settings, "init_args")))
    plain = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in values.items()}
    return {"method": method, **named, **plain}


def _scalars(step: int, values: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield those of the values that are numbers, if there are any."""
    numbers = {tag: float(value) for tag, value in values.items() if _is_number(value)}
    if numbers:
        yield step, numbers


def _is_number(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _cells(run: Run, result: MethodResult) -> Iterator[os.DirEntry[str]]:
    with os.scandir(run.method_file(result.seed, result.method, "cells")) as files:
        yield from (file for file in files if file.name.endswith(".json"))


def _newest(files: Iterable[Path | os.DirEntry[str]]) -> float:
    return max((file.stat().st_mtime for file in files), default=0.0)
