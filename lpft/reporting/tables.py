"""The tables of a run, as CSV.

Percent, full precision (the shortest text that reads back as the same float); blank where a value is not defined. A
method with missing or damaged results has its own tables, but no row in results.csv: a mean over some of the clients
cannot be compared with a mean over all of them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, factorize

from lpft.evaluation.groups import Where
from lpft.evaluation.metric import Matrix, Vector
from lpft.evaluation.metrics import CLIENT_METRICS
from lpft.evaluation.recommend import Recommendation
from lpft.reporting import sentences
from lpft.reporting.analysis import Analysis, sweep_frame
from lpft.reporting.frames import COUNTS, CURVE_COLUMNS, accuracy_matrix, metric_columns
from lpft.reporting.held_out import took_part
from lpft.reporting.ladder import ladder_frame
from lpft.reporting.results import MethodResult
from lpft.reporting.verdicts import NamedVerdict
from lpft.storage.atomic import write_atomically
from lpft.storage.result_parser import common_levels, share_levels
from lpft.storage.run import Run

DIAGNOSTIC_COLUMNS = ("diagnostic", "client", "method", "seed", "value", "message", "remedy")


def write_all_tables(analysis: Analysis) -> None:
    """Write all tables of a run."""
    write_method_tables(analysis)
    root, results = analysis.run.root, analysis.frames.results
    write_csv(root / "results.csv", results.loc[results["complete"], ["seed", "method", *metric_columns(results)]])
    write_csv(root / "summary.csv", analysis.frames.summary)
    write_csv(root / "intervals.csv", analysis.certainty.intervals)
    write_csv(root / "differences.csv", analysis.certainty.differences)
    write_csv(root / "recommendations.csv", recommendations_frame(analysis))
    write_csv(root / "diagnostics.csv", diagnostics_frame(analysis))
    write_or_remove(root / "tradeoff.csv", analysis.tradeoff.summary)
    write_or_remove(root / "matched.csv", analysis.tradeoff.matched)
    write_or_remove(root / "held_out.csv", analysis.held_out)
    write_or_remove(root / "ladder.csv", ladder_frame(analysis.ladder))
    write_sweep_table(analysis.run, [analysis])


def write_method_tables(analysis: Analysis) -> None:
    """Write accuracy.csv, clients.csv, depth.csv and, if there is anything in them, curve.csv and curves.csv."""
    frames = analysis.frames
    names = [metric.name for metric in CLIENT_METRICS if metric.name in frames.clients.columns]
    clients = frames.clients[["seed", "method", "client", "status", *COUNTS, *names]]
    if analysis.experiment.held_out:
        participants = took_part(analysis.experiment, clients["client"])
        clients.insert(3, "took_part", participants.map({True: "true", False: "false"}))
    clients_of, groups_of = by_result(clients), by_result(frames.groups)
    curves_of = by_result(frames.mean_curves[["seed", "method", *CURVE_COLUMNS]])
    lines_of, depth_of = by_result(analysis.tradeoff.lines), by_result(frames.depth)
    for result in analysis.method_results:
        begun = bool(result.client_results or result.damaged)  # otherwise tables may be left of other settings
        curves = curves_of(result)
        path = analysis.run.method_file(result.seed, result.method, "accuracy.csv")
        if begun and result.clients:
            write_atomically(path, accuracy_csv(result))
        else:
            path.unlink(missing_ok=True)
        clients = _with_groups(clients_of(result), groups_of(result))
        write_or_remove(path.with_name("clients.csv"), clients if begun else clients[:0])
        write_or_remove(path.with_name("curves.csv"), curves if curves["local"].notna().any() else curves[:0])
        write_or_remove(path.with_name("curve.csv"), lines_of(result))
        write_or_remove(path.with_name("depth.csv"), depth_of(result))


def by_result(frame: DataFrame) -> Callable[[MethodResult], DataFrame]:
    """Return a function that looks up the rows of a method and seed in a frame, without the columns of the two."""
    row_numbers = frame.groupby(["seed", "method"]).indices
    values = frame.drop(columns=["seed", "method"])
    return lambda result: values.iloc[row_numbers.get((result.seed, result.method), [])]


def recommendations_frame(analysis: Analysis) -> DataFrame:
    """Return the columns of recommendations.csv: one row per client."""
    columns = [field.name for field in fields(Recommendation)]
    return DataFrame(map(asdict, analysis.recommendations), columns=columns)


def diagnostics_frame(analysis: Analysis) -> DataFrame:
    """Return the columns of diagnostics.csv: one row per diagnostic."""
    rows = [
        (d.name, d.client, d.method, d.seed, d.value, sentences.message(d), sentences.remedy(d.name))
        for d in analysis.diagnostics
    ]
    return DataFrame(rows, columns=DIAGNOSTIC_COLUMNS).astype({"seed": "Int64"})


def write_sweep_table(run: Run, points: Sequence[Analysis]) -> None:
    """Write sweep.csv of a run that sweeps over anything; remove it from one that does not."""
    if any(point.experiment.values or point.experiment.variants for point in points):
        write_csv(run.root / "sweep.csv", sweep_frame(points))
    else:
        (run.root / "sweep.csv").unlink(missing_ok=True)


def write_verdicts(run: Run, verdicts: Sequence[NamedVerdict]) -> None:
    """Write verdicts.csv, one row per line; remove the file if there are no verdicts."""
    rows = [(verdict.name, line) for verdict in verdicts for line in verdict.lines]
    write_or_remove(run.root / "verdicts.csv", DataFrame(rows, columns=["verdict", "line"]))


def write_csv(path: Path, frame: DataFrame) -> None:
    """Write a frame as CSV, without its index."""
    write_atomically(path, str(frame.to_csv(index=False, lineterminator="\n")))


def write_or_remove(path: Path, frame: DataFrame) -> None:
    """Write a frame as CSV; remove the file of one without rows."""
    if len(frame):
        write_csv(path, frame)
    else:
        path.unlink(missing_ok=True)


def accuracy_csv(result: MethodResult) -> bytes:
    """Return the accuracy matrix of a method and seed as CSV."""
    rows = [cell.accuracy for cell in result.client_results]
    orders = {id(cell.clients): cell.clients for cell in result.client_results}
    if list(orders.values()) == [result.clients] and len(rows) == len(result.clients) and share_levels(rows):
        return levels_csv(*common_levels(rows), result.clients)
    return matrix_csv(accuracy_matrix(result), result.clients)


def matrix_csv(matrix: Matrix, names: Sequence[str]) -> bytes:
    """Return a matrix as CSV, the names above and on the left: the bytes of pandas, which takes far longer.

    Args:
        matrix: ``(C, C)``; NaN is left blank.
        names: of the clients.
    """
    numbers, levels = factorize(matrix.ravel(), use_na_sentinel=False)
    return levels_csv(levels, numbers.reshape(matrix.shape), names)


def levels_csv(levels: Vector, numbers: NDArray[np.integer[Any]], names: Sequence[str]) -> bytes:
    """Return a matrix as CSV, given as levels, each of which is turned into text once; see `matrix_csv`.

    Args:
        levels: different values, ``(L,)``.
        numbers: which of them each entry is, ``(C, C)``.
        names: of the clients.
    """
    texts = np.array([b"," if math.isnan(value) else f",{value!r}".encode() for value in levels.tolist()])
    quoted = [_quoted(name).encode() for name in names]
    lines = [b",".join([b"", *quoted])]
    for name, row in zip(quoted, numbers, strict=True):
        lines.append(name + texts[row].tobytes().translate(None, b"\0"))  # texts are padded to the same length
    return b"\n".join(lines) + b"\n"


def _quoted(name: str) -> str:
    """Return a name as CSV has it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([name, ""])
    return line.getvalue().removesuffix(",\n")


def _with_groups(clients: DataFrame, groups: DataFrame) -> DataFrame:
    """Add the columns ``group_local/NAME`` and ``group_all/NAME`` to the clients of a method and seed."""
    if not len(groups):
        return clients
    names = "group_" + groups["test_set"] + "/" + groups["group"]
    wide = groups.assign(column=names).pivot(index="client", columns="column", values="accuracy")
    order = [f"group_{where}/{name}" for where in get_args(Where) for name in groups["group"].unique()]
    return clients.merge(wide.reindex(columns=order).reset_index(), on="client", how="left")
