"""The contents of a run's logs, for TensorBoard and the loggers of `lpft.reporting.loggers`.

A run has several parts, each with a folder: one for each seed and method, one for the global model of each seed, and
one for the means of each method over the seeds (``mean/METHOD``). A `Log` holds everything to be logged for one part; a
`Writer` writes it.
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
"""Column of curves.csv by tag, for a method; steps are epochs."""

GLOBAL_TAGS = {
    "federated/loss": "train_loss",
    "federated/val_accuracy": "val_accuracy",
    "federated/clients": "num_clients",
}
"""Column of history.csv by tag, for a global model; steps are rounds."""

END_OF_TRAINING = {"local": "local", "global_all": "global_all", "worst": "worst_row", "distortion": "distortion_own"}
"""Metric of the final model by column of curves.csv."""

MEAN = "mean"
"""Folder of the means over the seeds."""

Scalars = list[tuple[int, dict[str, float]]]
"""Steps with values by tag; steps ascend, and the last one may occur twice."""


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
    """Everything to be logged for one part of a run, so far.

    Args:
        folder: folder of the part.
        scalars: the curves.
        settled: whether these scalars are final, although others may follow. Those of a global model always are; those
            of a method are means over the completed clients, so they are final when all clients are complete.
        settings: hyperparameters by name; empty for a global model.
        pictures: images by tag, at the last step.
        walltime: time of the newest result, in seconds since 1970; 0 if no result is on disk.
        growing: whether more steps will follow; if training resumes, these may include steps that were logged before.
    """

    folder: Path
    scalars: Scalars
    settled: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    walltime: float = 0.0
    growing: bool = False


class Writer(Protocol):
    """Writes logs in one format."""

    def write(self, log: Log) -> None:
        """Write the log of a part, replacing its earlier one."""

    def close(self) -> None:
        """Write collected points, and close files and connections; writing more opens them again."""


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
        result: results of at least one client.
        config: the resolved experiment; by default, that in the run's folder.
        frames: data frames of several results, including this one; by default, they are computed from `result` only.
        pictures: see `Log`.
    """
    config = read_config(run) if config is None else config
    settings = method_settings(result.method, config)
    return Log(
        folder=run.method_file(result.seed, result.method, "cells").parent,
        scalars=list(method_scalars(result, frames, is_chosen_afterwards(result.method, config))),
        settled=result.complete,
        settings={**settings, "seed": result.seed},
        pictures=pictures or {},
        walltime=_newest(_result_files(run, result)),
    )


def global_log(run: Run, seed: int, history: Sequence[Mapping[str, float | None]]) -> Log:
    """Return the log of a global model, from rows of history.csv."""
    path = run.global_file(seed, "history.csv")
    newest = _newest([path]) if path.exists() else 0.0
    return Log(path.parent, list(global_scalars(history)), True, walltime=newest)


def method_scalars(
    result: MethodResult, frames: Frames | None = None, chosen: bool = False
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the curves of a method, followed by its metrics if it is complete; at least one step.

    Args:
        result: results of one seed and method.
        frames: see `method_log`.
        chosen: whether the values of the last epoch belong to a model that was chosen or averaged after training; the
            curves then end at the previous evaluated epoch, if there is one.
    """
    frames = frames or Frames([result])
    means, metrics = frames.mean_curves, frames.metrics_of(result)
    selected = means[(means["seed"] == result.seed) & (means["method"] == result.method)]
    curves: list[dict[str, Any]] = selected.to_dict("records") or [{"epoch": 0}]
    for column, name in END_OF_TRAINING.items():
        if chosen and any(_is_number(row.get(column)) for row in curves[:-1]):
            curves[-1][column] = None
        elif not _is_number(curves[-1].get(column)):  # from the matrix if not evaluated during training
            curves[-1][column] = metrics.get(name)
    for row in curves:
        yield from _scalars(int(row["epoch"]), {tag: row.get(column) for tag, column in TAGS.items()})
    final = {f"final/{metric.name}": metrics.get(metric.name) for metric in shown_metrics()}
    yield from _scalars(int(curves[-1]["epoch"]), final)


def mean_scalars(analysis: Analysis, method: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the means of a method's curves over its complete seeds, followed by the values in the report.

    A value is left out at epochs where a seed lacks it. ``final/NAME`` is the mean of a metric, ``interval/NAME`` half
    of its 95% interval over clients and seeds, if the report has one.
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
    """Yield each step once, with all its values."""
    values_by_step: dict[int, dict[str, float]] = {}
    for step, values in scalars:
        values_by_step.setdefault(step, {}).update(values)
    yield from values_by_step.items()


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
    """Yield the values that are numbers, if there are any."""
    numbers = {tag: float(value) for tag, value in values.items() if _is_number(value)}
    if numbers:
        yield step, numbers


def _is_number(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _result_files(run: Run, result: MethodResult) -> Iterator[os.DirEntry[str]]:
    with os.scandir(run.method_file(result.seed, result.method, "cells")) as files:
        yield from (file for file in files if file.name.endswith(".json"))


def _newest(files: Iterable[Path | os.DirEntry[str]]) -> float:
    return max((file.stat().st_mtime for file in files), default=0.0)
