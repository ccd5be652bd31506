"""What figures and verdicts read of an analysis: the results of complete methods, as frames."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lpft.reporting.analysis import Analysis


def complete(analysis: Analysis, methods: Iterable[str] | None = None) -> dict[str, list[int]]:
    """Return for every method that is complete with at least one seed those seeds."""
    rows = analysis.results[analysis.results["complete"]]
    seeds = {method: sorted(rows.loc[rows["method"] == method, "seed"]) for method in methods or analysis.methods}
    return {method: list(own) for method, own in seeds.items() if own}


def trained(analysis: Analysis) -> dict[str, list[int]]:
    """Return the same without the global model, which the others are compared with."""
    return {method: seeds for method, seeds in complete(analysis).items() if method != analysis.reference}


def client_values(analysis: Analysis, method: str, column: str) -> pd.DataFrame:
    """Return a column of the clients of complete results: one row per client, one column per seed."""
    seeds = complete(analysis, [method])[method]
    rows = analysis.clients[(analysis.clients["method"] == method) & analysis.clients["seed"].isin(seeds)]
    table = rows.pivot(index="client", columns="seed", values=column)
    return table.reindex(analysis.client_names).astype(float)


def distortion_points(analysis: Analysis, method: str, ends: bool = False) -> pd.DataFrame:
    """Return seed, client, epoch, distortion, and loss of Global in percentage points of a method's complete results.

    Args:
        analysis: of the run.
        method: its name.
        ends: return the personalized models (epoch -1) instead of the evaluated epochs. The epochs leave out epoch 0,
            where nothing has moved; without evaluated epochs, the ends are returned.
    """
    seeds = complete(analysis, [method]).get(method, [])
    rows = analysis.clients[(analysis.clients["method"] == method) & analysis.clients["seed"].isin(seeds)]
    before = rows.astype({"local_before": float}).groupby("seed")["local_before"].mean()
    epochs = analysis.curves[(analysis.curves["method"] == method) & analysis.curves["seed"].isin(seeds)]
    epochs = epochs[(epochs["epoch"] > 0) & epochs["global_all"].notna() & epochs["distortion"].notna()]
    if ends or epochs.empty:
        epochs = rows.assign(epoch=-1, distortion=rows["distortion_own"])
    loss = epochs["seed"].map(before) - epochs["global_all"].astype(float)
    found = epochs[["seed", "client", "epoch", "distortion"]].assign(loss=loss)
    return found.astype({"distortion": float, "loss": float}).dropna()
