"""Clients that took part in federated training, and new ones that were held out from it: a table of both."""

from __future__ import annotations

from pandas import DataFrame, Series

from lpft.evaluation.metric import mean
from lpft.evaluation.metrics import metric_named
from lpft.reporting.experiment import Experiment
from lpft.reporting.formatting import spread_text
from lpft.reporting.frames import Frames

TOOK_PART, NEW = "took part", "new"
METRICS_SHOWN = {"local": "local", "global_all": "global_all", "global_others": "global_others", "worst_row": "worst"}
"""The metrics of the table, by name, and the columns of the frame of clients that they are means of."""
HEADER = ("method", "clients", *(metric_named(name).title for name in METRICS_SHOWN), "number", "n")


def took_part(experiment: Experiment, clients: Series) -> Series:
    """Return for a series of client names whether each client took part in federated training."""
    return ~clients.isin(experiment.held_out)


def held_out_frame(experiment: Experiment, frames: Frames) -> DataFrame:
    """Return the columns of held_out.csv: one row per seed, method and kind of client, of complete results only.

    Each metric is the mean over the clients of this kind; the test sets are those of all clients, as everywhere.
    Empty if no client was held out.
    """
    columns = ["seed", "method", "clients", *METRICS_SHOWN, "num_clients"]
    if not experiment.held_out:
        return DataFrame(columns=columns)
    results, clients = frames.results, frames.clients
    kinds = took_part(experiment, clients["client"]).map({True: TOOK_PART, False: NEW})
    rows = []
    for seed, method in results.loc[results["complete"], ["seed", "method"]].itertuples(index=False):
        of_method = (clients["seed"] == seed) & (clients["method"] == method)
        for kind in (TOOK_PART, NEW):
            of_kind = clients[of_method & (kinds == kind)]
            means = [mean(of_kind[column].tolist()) for column in METRICS_SHOWN.values()]
            rows.append((seed, method, kind, *means, len(of_kind)))
    return DataFrame(rows, columns=columns)


def held_out_rows(frame: DataFrame) -> list[tuple[str, list[str]]]:
    """Return method and the entries of `HEADER` for people: mean and standard deviation over the seeds."""
    rows = []
    for (method, kind), by_seed in frame.groupby(["method", "clients"], sort=False):
        spreads = [spread_text(by_seed[name].dropna(), ".1f") for name in METRICS_SHOWN]
        rows.append((str(method), [str(kind), *spreads, str(by_seed["num_clients"].iloc[0]), str(len(by_seed))]))
    return rows
