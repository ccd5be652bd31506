"""What `lpft theory` prints, writes and draws."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lpft.storage.atomic import replacing, write_atomically
from lpft.theory.linear import Comparison, LinearClients, compare, critical_eta, draw, sample, train_on_samples

COLUMNS = ("eta", "global_ft", "global_lpft", "local_ft", "distortion_ft", "verdict")
SCHEDULES = {"FT 60": (0, 60), "FT 20": (0, 20), "LP 40 + FT 20": (40, 20), "LP 60": (60, 0)}
"""LP steps and full steps of gradient descent on samples."""

SAMPLE_ETA = 0.02
SAMPLE_SEEDS = 5


def print_comparison(clients: LinearClients, etas: list[float], console: Console) -> list[Comparison]:
    """Print FT and LP-FT at each step size, and the condition under which LP-FT is better."""
    dim, shared = clients.body.shape[1], len(clients.common)
    kind = "concept shift (E[x x^T] = I)" if clients.noise is None else f"combined shift (eps = {clients.noise:g})"
    console.print(
        f"Linear model: d = {dim}, m = {shared}, C = {clients.num_clients}, s = {clients.signal:.4g},"
        f" lambda = {clients.shift:g}, {kind}. Means over the clients; L without 1/2.",
        highlight=False,
        markup=False,
    )
    table = Table("eta", "L_G of FT", "L_G of LP-FT", "L_i of FT", "|B - B*| of FT", "lower L_G", box=None)
    comparisons = [compare(clients, eta) for eta in etas]
    for row in comparisons:
        numbers = (row.global_ft, row.global_lpft, row.local_ft, row.distortion_ft)
        table.add_row(f"{row.eta:g}", *(f"{number:.6g}" if number > 1e-12 else "0" for number in numbers), row.verdict)
    console.print(table)
    console.print(condition(clients), highlight=False)
    return comparisons


def condition(clients: LinearClients) -> str:
    """Describe the step sizes for which LP-FT has the lower global loss."""
    if clients.noise is None and clients.num_clients == 1:
        return "With one client local and global loss are the same, and LP-FT is never the worse one."
    eta = critical_eta(clients)
    if eta is None:
        return "At none of the step sizes from 1e-6 to 1000 does LP-FT become the better one."
    if clients.noise is None:
        return (
            f"LP-FT has the lower global loss if, and only if, eta > 1 / (2 (1 + s)) = {eta:.6g}: that step solves FT's"
            " local problem exactly, and a larger one overshoots. At smaller steps FT has the lower global loss, for it"
            " has moved less. Theorem 4.4 does not state this condition."
        )
    return (
        f"LP-FT has the lower global loss from eta = {eta:.6g} on, at this lambda. The sign at small lambda depends on"
        " eta alone, which theorem 4.5 does not state: at smaller steps LP-FT is worse for all small lambda."
    )


def print_samples(clients: LinearClients, num: int, label_noise: float, seed: int, console: Console) -> None:
    """Print what gradient descent on finite samples does, by the number of LP steps and full steps."""
    console.print(
        f"\nGradient descent on {num} samples a client, label noise {label_noise:g}, step {SAMPLE_ETA}: population"
        f" losses, means over clients and {SAMPLE_SEEDS} seeds.",
        highlight=False,
    )
    table = Table("steps", "L_G", "L_i", "|B - B*|", box=None)
    dim, shared = clients.body.shape[1], len(clients.common)
    for name, (lp_steps, ft_steps) in SCHEDULES.items():
        rows = []
        for each_seed in range(seed, seed + SAMPLE_SEEDS):
            drawn = draw(dim, shared, clients.num_clients, clients.signal, clients.shift, seed=each_seed)
            for client, (inputs, targets) in enumerate(sample(drawn, num, label_noise, each_seed)):
                end = train_on_samples(drawn, client, inputs, targets, lp_steps, ft_steps, SAMPLE_ETA)
                rows.append((end.global_loss, end.local_loss, end.distortion))
        table.add_row(name, *(f"{number:.3f}" for number in np.mean(rows, axis=0)))
    console.print(table)


def write_comparison(path: Path, comparisons: list[Comparison]) -> None:
    """Write the comparison as CSV, with full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(comparison, column) for column in COLUMNS] for comparison in comparisons)
    write_atomically(path, text.getvalue())


def draw_comparison(path: Path, clients: LinearClients, etas: list[float]) -> None:
    """Draw global losses over the step size, and the difference over lambda, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = np.geomspace(min(etas), max(etas), 80)
    curves = [compare(clients, eta) for eta in grid]
    left.loglog(grid, [point.global_ft for point in curves], label="FT")
    left.loglog(grid, [point.global_lpft for point in curves], label="LP-FT")
    eta = critical_eta(clients)
    if eta is not None and grid[0] <= eta <= grid[-1]:
        left.axvline(eta, color="gray", linestyle=":", label=f"eta = {eta:.3g}")
    left.set(xlabel="step size eta", ylabel="global loss L_G", title=f"lambda = {clients.shift:g}")
    left.legend()
    shifts = np.geomspace(0.01, 10, 80)
    for eta in etas:
        differences = []
        for shift in shifts:
            comparison = compare(LinearClients(clients.body, clients.common, clients.means, shift, clients.noise), eta)
            differences.append((comparison.global_ft - comparison.global_lpft) / shift**2)
        right.semilogx(shifts, differences, label=f"eta = {eta:g}")
    right.axhline(0, color="gray", linewidth=0.8)
    right.set_yscale("symlog", linthresh=0.1)
    right.set(
        xlabel="heterogeneity lambda", ylabel="(L_G of FT - L_G of LP-FT) / lambda^2", title="above 0: LP-FT better"
    )
    right.legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
