"""The tables of a run, as CSV.

Percent, full precision (the shortest text that reads back as the same float); blank where a value is not defined. A
method with missing or damaged results has its own tables, but no row in results.csv: a mean over some of the clients
cannot be compared with a mean over all of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import numpy as np
from pandas import DataFrame, factorize

from lpft.evaluation.groups import Where
from lpft.evaluation.metric import Matrix
from lpft.evaluation.metrics import CLIENT_METRICS
from lpft.evaluation.recommend import Recommendation
from lpft.reporting import english
from lpft.reporting.analysis import Analysis, sweep_frame
from lpft.reporting.frames import COUNTS, CURVE_COLUMNS, accuracy_matrix, metric_columns
from lpft.reporting.held_out import held_out_frame, held_out_names, took_part
from lpft.reporting.ladder import ladder, ladder_frame
from lpft.reporting.results import MethodResult
from lpft.reporting.tradeoff import LINE_COLUMNS
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run

DIAGNOSTIC_COLUMNS = ("diagnostic", "client", "method", "seed", "value", "message", "remedy")


def write_all_tables(analysis: Analysis) -> None:
    """Write all tables of a run."""
    for result in analysis.method_results:
        if result.cells or result.damaged:
            write_method_tables(analysis, result)
    root, results = analysis.run.root, analysis.frames.results
    write_csv(root / "results.csv", results.loc[results["complete"], ["seed", "method", *metric_columns(results)]])
    write_csv(root / "summary.csv", analysis.frames.summary)
    write_csv(root / "intervals.csv", analysis.certainty.intervals)
    write_csv(root / "differences.csv", analysis.certainty.differences)
    for name, frame in {"tradeoff.csv": analysis.tradeoff.summary, "matched.csv": analysis.tradeoff.matched}.items():
        write_or_remove(root / name, frame)
    write_or_remove(root / "held_out.csv", held_out_frame(analysis))
    write_csv(root / "recommendations.csv", recommendations_frame(analysis))
    write_csv(root / "diagnostics.csv", diagnostics_frame(analysis))
    write_ladder(analysis)
    write_sweep_table(analysis.run, [analysis])


def write_ladder(analysis: Analysis) -> None:
    """Write ladder.csv of a run that has a ladder; remove it from one that has none."""
    rungs = ladder(analysis)
    if rungs:
        write_csv(analysis.run.root / "ladder.csv", ladder_frame(rungs))
    else:
        (analysis.run.root / "ladder.csv").unlink(missing_ok=True)


def write_method_tables(analysis: Analysis, result: MethodResult) -> None:
    """Write accuracy.csv, clients.csv, depth.csv and, if there is anything in them, curve.csv and curves.csv."""
    frames = analysis.frames

    def rows_of(frame: DataFrame) -> DataFrame:
        return frame[(frame["seed"] == result.seed) & (frame["method"] == result.method)]

    names = [metric.name for metric in CLIENT_METRICS if metric.name in frames.clients.columns]
    clients = rows_of(frames.clients)[["client", "status", *COUNTS, *names]]
    if held_out_names(analysis):
        clients.insert(1, "took_part", took_part(analysis, clients["client"]).map({True: "true", False: "false"}))
    curves = rows_of(frames.mean_curves)[list(CURVE_COLUMNS)]
    tables = {
        "clients.csv": clients.merge(_groups_by_client(rows_of(frames.groups)), on="client", how="left"),
        "curves.csv": curves if curves["local"].notna().any() else curves[:0],
        "curve.csv": rows_of(analysis.tradeoff.lines)[list(LINE_COLUMNS)],
        "depth.csv": rows_of(frames.depth)[["depth", "layer", "distortion_relative"]],
    }
    path = analysis.run.method_file(result.seed, result.method, "accuracy.csv")
    if result.clients:
        write_atomically(path, matrix_csv(accuracy_matrix(result), result.clients))
    else:
        path.unlink(missing_ok=True)
    for name, frame in tables.items():
        write_or_remove(analysis.run.method_file(result.seed, result.method, name), frame)


def recommendations_frame(analysis: Analysis) -> DataFrame:
    """Return the columns of recommendations.csv: one row per client."""
    columns = [field.name for field in fields(Recommendation)]
    return DataFrame(map(asdict, analysis.recommendations), columns=columns)


def diagnostics_frame(analysis: Analysis) -> DataFrame:
    """Return the columns of diagnostics.csv: one row per diagnostic."""
    rows = [
        (d.name, d.client, d.method, d.seed, d.value, english.message(d), english.remedy(d.name))
        for d in analysis.diagnostics
    ]
    return DataFrame(rows, columns=DIAGNOSTIC_COLUMNS).astype({"seed": "Int64"})


def write_sweep_table(run: Run, points: Sequence[Analysis]) -> None:
    """Write sweep.csv of a run that sweeps over anything; remove it from one that does not."""
    if any(point.experiment.values or point.experiment.variants for point in points):
        write_csv(run.root / "sweep.csv", sweep_frame(points))
    else:
        (run.root / "sweep.csv").unlink(missing_ok=True)


def write_csv(path: Path, frame: DataFrame) -> None:
    """Write a frame as CSV, without its index."""
    write_atomically(path, str(frame.to_csv(index=False, lineterminator="\n")))


def write_or_remove(path: Path, frame: DataFrame) -> None:
    """Write a frame as CSV; remove the file of one without rows."""
    if len(frame):
        write_csv(path, frame)
    else:
        path.unlink(missing_ok=True)


def matrix_csv(matrix: Matrix, names: Sequence[str]) -> bytes:
    """Return a matrix as CSV, the names above and on the left: the bytes of pandas, which takes far longer.

    Equal values, of which there are many in an accuracy matrix, are turned into text once.

    Args:
        matrix: ``(C, C)``; NaN is left blank.
        names: of the clients.
    """
    codes, values = factorize(matrix.ravel())
    texts = np.array([f",{value!r}" for value in values.tolist()] + [","], dtype=bytes)  # the last: that of -1, NaN
    quoted = [_quoted(name).encode() for name in names]
    lines = [b",".join([b"", *quoted])]
    for name, row in zip(quoted, codes.reshape(matrix.shape), strict=True):
        lines.append(name + texts[row].tobytes().translate(None, b"\0"))  # texts are padded to the same length
    return b"\n".join(lines) + b"\n"


def _quoted(name: str) -> str:
    """Return a name as CSV has it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([name, ""])
    return line.getvalue().removesuffix(",\n")


def _groups_by_client(groups: DataFrame) -> DataFrame:
    """Return one row per client with the columns ``group_local/NAME`` and ``group_all/NAME``."""
    names = "group_" + groups["test_set"] + "/" + groups["group"]
    wide = groups.assign(column=names).pivot(index="client", columns="column", values="accuracy")
    order = [f"group_{where}/{name}" for where in get_args(Where) for name in groups["group"].unique()]
    return wide.reindex(columns=order).reset_index()
