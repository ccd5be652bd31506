"""Clients that took part in federated training, and new ones that were held out from it: a table of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pandas import DataFrame, Series

from lpft.evaluation.metric import mean
from lpft.evaluation.metrics import metric_named
from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import section
from lpft.reporting.verdicts import Spread

if TYPE_CHECKING:
    from rich.console import Console

TOOK_PART, NEW = "took part", "new"
METRICS_SHOWN = {"local": "local", "global_all": "global_all", "global_others": "global_others", "worst_row": "worst"}
"""The metrics of the table, by name, and the columns of the frame of clients that they are means of."""


def held_out_names(analysis: Analysis) -> set[str]:
    """Return the names of the clients that took no part in federated training; empty for runs without any."""
    return set(section(analysis.experiment.config, "provenance").get("held_out") or [])


def took_part(analysis: Analysis, clients: Series) -> Series:
    """Return for a series of client names whether each client took part in federated training."""
    return ~clients.isin(held_out_names(analysis))


def held_out_frame(analysis: Analysis) -> DataFrame:
    """Return the columns of held_out.csv: one row per seed, method and kind of client, of complete results only.

    Each metric is the mean over the clients of this kind; the test sets are those of all clients, as everywhere.
    Empty if no client was held out.
    """
    columns = ["seed", "method", "clients", *METRICS_SHOWN, "num_clients"]
    if not held_out_names(analysis):
        return DataFrame(columns=columns)
    results, clients = analysis.frames.results, analysis.frames.clients
    kinds = took_part(analysis, clients["client"]).map({True: TOOK_PART, False: NEW})
    rows = []
    for seed, method in results.loc[results["complete"], ["seed", "method"]].itertuples(index=False):
        own = (clients["seed"] == seed) & (clients["method"] == method)
        for kind in (TOOK_PART, NEW):
            chosen = clients[own & (kinds == kind)]
            means = [mean(chosen[column].tolist()) for column in METRICS_SHOWN.values()]
            rows.append((seed, method, kind, *means, len(chosen)))
    return DataFrame(rows, columns=columns)


def held_out_table(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Return header and rows for people: method, clients, mean and standard deviation over the seeds of each metric."""
    frame = held_out_frame(analysis)
    header = ["method", "clients", *(metric_named(name).title for name in METRICS_SHOWN), "number", "n"]
    rows = []
    for (method, kind), own in frame.groupby(["method", "clients"], sort=False):
        spreads = [f"{Spread.of(own[name].dropna()):.1f}" for name in METRICS_SHOWN]
        rows.append([str(method), str(kind), *spreads, str(own["num_clients"].iloc[0]), str(len(own))])
    return header, rows


def print_held_out(analysis: Analysis, console: Console) -> None:
    """Print the table, if there are clients that were held out."""
    from rich.markup import escape

    from lpft.reporting.console import new_table

    header, rows = held_out_table(analysis)
    if not rows:
        return
    table = new_table()
    for number, title in enumerate(header):
        table.add_column(title, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row), end_section=row[1] == NEW)
    table.caption = f'"{NEW}": clients that were held out from federated training.'
    console.print(table)
