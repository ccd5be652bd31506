"""Signs that personalization went wrong, or could not go right: each with the number that shows it, and what to do.

Every function looks at the cells of a run for one sign and returns what it found, for the whole run or for single
clients; nothing if all is well, or if what it needs was not recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from lpft.evaluation.convergence import judge_convergence
from lpft.storage.client_result import ClientResult

NEAR_CHANCE = 0.1
"""An accuracy is near chance up to this share of the way from chance to 100%."""
FEW_SAMPLES = 10
"""Fewer training samples per class than this are few."""
STILL_IMPROVING = 0.05
"""A head still improves if the last epoch of probing lowers its training loss by more than this share."""
MOVED = 1e-3
"""Features moved if their distortion is more than this share of their norm; less can be rounding."""

NOT_CONVERGED = "global model not converged"
HETEROGENEITY = "extreme heterogeneity"
LITTLE_DATA = "too little local data"
SHORT_PROBING = "linear probing too short"
BN_DRIFT = "normalization drift"

ADVICE = {
    NOT_CONVERGED: "Train the global model for more rounds, and personalize its latest state. Until it has converged,"
    " what fine-tuning gains may repair the global model rather than personalize it.",
    HETEROGENEITY: "What one client learns is of no use to the others, so that there is nothing to remember and no"
    " method remembers it. Look at Local alone, form groups of similar clients, or train each on its own data.",
    LITTLE_DATA: "Keep the global model for this client, or fine-tune with more regularization: fewer epochs, a lower"
    " learning rate, a proximal term, fewer parameters.",
    SHORT_PROBING: "Give linear probing more epochs (lp_epochs) or a higher learning rate (lp_lr), so that"
    " fine-tuning does not start with a head that distorts the features.",
    BN_DRIFT: "Training the head alone must leave the features as they are. Statistics of normalization layers have"
    " moved: keep the body in evaluation mode while the head is trained.",
}
"""What to do about each of them."""


@dataclass(frozen=True)
class Diagnostic:
    """A sign of failure.

    Args:
        name: what it is called.
        found: the numbers that gave it away, in words.
        value: the number that decided.
        client: where it was found; None is the whole run.
        method: with which method; None is all of them, or none in particular.
        seed: with which seed; None is all of them.
    """

    name: str
    found: str
    value: float | None
    client: str | None = None
    method: str | None = None
    seed: int | None = None

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.name]

    @property
    def where(self) -> str:
        """Client, method and seed in a few words; empty for the whole run."""
        seed = None if self.seed is None else f"seed {self.seed}"
        return ", ".join(part for part in (self.client, self.method, seed) if part)


def find_signatures(
    cells: Sequence[ClientResult], histories: Mapping[int, Sequence[float | None]] | None = None
) -> list[Diagnostic]:
    """Look for every sign of failure.

    Args:
        cells: of any seeds, methods and clients.
        histories: the global models' validation accuracy after every round, in percent, by seed; none for a global
            model that came from elsewhere.
    """
    trained = [cell for cell in cells if _is_trained(cell)]
    return [
        *not_converged(histories or {}),
        *extreme_heterogeneity(_of_ready_models(trained, histories or {})),
        *too_little_data(trained),
        *probing_too_short(trained),
        *normalization_drift(trained),
    ]


def not_converged(histories: Mapping[int, Sequence[float | None]]) -> Iterator[Diagnostic]:
    """Name the seeds whose global model still improved when training ended; see `judge_convergence`."""
    for seed, accuracy in sorted(histories.items()):
        verdict = judge_convergence(accuracy)
        if not verdict.converged:
            yield Diagnostic(NOT_CONVERGED, str(verdict).partition(": ")[2], verdict.change, seed=seed)


def extreme_heterogeneity(cells: Sequence[ClientResult]) -> Iterator[Diagnostic]:
    """Tell whether clients have nothing in common: better at home, and at chance everywhere else, with every method.

    Global is taken without the client's own test set, which would hide it where clients are few. Where LP-FT and FT
    are there with several seeds, they must not differ in it by more than one standard deviation over the seeds. If it
    is not true of the means over all clients, the single clients are named of which it is.
    """
    by_method = _grouped(cells, "method")
    if found := _at_chance(cells):
        difference = _lpft_minus_ft(by_method)
        if len(difference) < 2 or abs(fmean(difference)) <= pstdev(difference):
            yield found
        return
    for client, own in _grouped(cells, "client").items():
        if len(_grouped(own, "method")) == len(by_method) and (found := _at_chance(own, client)):
            yield found


def _of_ready_models(
    cells: Sequence[ClientResult], histories: Mapping[int, Sequence[float | None]]
) -> list[ClientResult]:
    """Leave out the seeds whose global model is near chance itself and still improved when training ended.

    There nobody remembers anything since nothing has been learnt yet; whether it can be, is open.
    """
    found: list[ClientResult] = []
    for seed, own in _grouped(cells, "seed").items():
        classes = next((cell.num_classes for cell in own if cell.num_classes), None)
        learnt = not classes or _mean(_known(cell.local_before) for cell in own) > _near_chance(classes)
        if learnt or seed not in histories or judge_convergence(histories[seed]).converged:
            found += own
    return found


def _at_chance(cells: Sequence[ClientResult], client: str | None = None) -> Diagnostic | None:
    classes = next((cell.num_classes for cell in cells if cell.num_classes), None)
    rise = _mean(_at_home(cell) - _known(cell.local_before) for cell in cells)
    means = {m: _mean(map(_elsewhere, own)) for m, own in _grouped(cells, "method").items()}
    best = max(means.values(), default=math.nan)
    if not classes or any(map(math.isnan, means.values())) or not rise > 0 or best > _near_chance(classes):
        return None
    worst = _mean(map(_worst, cells))
    found = (
        f"local accuracy rises by {rise:.1f} points, and on the others' test sets it is at most {best:.1f}% with any"
        f" method (worst {worst:.1f}%; chance is {100 / classes:.1f}%)"
    )
    return Diagnostic(HETEROGENEITY, found, best, client)


def _near_chance(num_classes: int) -> float:
    chance = 100 / num_classes
    return chance + NEAR_CHANCE * (100 - chance)


def _lpft_minus_ft(by_method: Mapping[str, Sequence[ClientResult]]) -> list[float]:
    """Return the difference in accuracy on the others' test sets for every seed that has both."""
    lpft = [method for method, own in by_method.items() if any(map(_switch, own))]
    ft = [method for method, own in by_method.items() if not any(_probing(cell) for cell in own)]
    if not lpft or not ft:
        return []
    pair = ["lpft" if "lpft" in lpft else lpft[0], "ft" if "ft" in ft else ft[0]]
    first, second = (
        {seed: _mean(map(_elsewhere, own)) for seed, own in _grouped(by_method[method], "seed").items()}
        for method in pair
    )
    return [first[seed] - second[seed] for seed in first if seed in second]


def too_little_data(cells: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Name the clients that have learnt few samples by heart and got worse on others.

    Fewer than `FEW_SAMPLES` training samples per class that the client has, all of them right after training, and
    validation accuracy below the global model's; with several seeds in most of them.
    """
    for (client, method), own in _grouped(cells, "client", "method").items():
        hits = [cell for cell in own if _is_overfit(cell)]
        if 2 * len(hits) > len(own):
            density = fmean(cell.num_train / (cell.num_train_classes or 1) for cell in hits)
            before, after = (_mean(getattr(cell, name) for cell in hits) for name in ("val_before", "val_after"))
            found = (
                f"{density:.1f} training samples per class (fewer than {FEW_SAMPLES}), all of them right after"
                f" training; validation accuracy fell from {before:.1f}% to {after:.1f}%"
            )
            yield Diagnostic(LITTLE_DATA, found, density, client, method)


def _is_overfit(cell: ClientResult) -> bool:
    few = cell.num_train < FEW_SAMPLES * (cell.num_train_classes or 0)
    worse = cell.val_before is not None and cell.val_after is not None and cell.val_after < cell.val_before
    return few and worse and cell.train_accuracy == 100


def probing_too_short(cells: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Name the methods whose head still improved when everything began to be trained.

    The last epoch of probing lowers the training loss by more than `STILL_IMPROVING`, in the mean over clients and
    seeds; if it does not, the single clients are named where it does. With one epoch of probing there is nothing to
    compare. What the first epoch of full training did to training loss and features is told, too.
    """
    for method, own in _grouped(cells, "method").items():
        switches = {
            client: list(filter(None, map(_switch, found))) for client, found in _grouped(own, "client").items()
        }
        short = {client: found for client, found in switches.items() if _improvement(found) > STILL_IMPROVING}
        everyone = [switch for found in switches.values() for switch in found]
        if _improvement(everyone) > STILL_IMPROVING:
            clients = f", at {len(short)} of {len(switches)} clients" if len(switches) > 1 else ""
            yield _probing_signature(everyone, method, None, clients)
        else:
            for client, found in short.items():
                yield _probing_signature(found, method, client)


@dataclass(frozen=True)
class _Switch:
    """The training losses of the last two epochs of probing and of the first epoch after; distortion after that."""

    before: float
    last: float
    after: float
    distortion: float


def _switch(cell: ClientResult) -> _Switch | None:
    """Return what happened where one client's training went from the head to everything."""
    epochs = _epochs(cell)
    for number in range(1, len(epochs)):
        if _is_probing(epochs[number - 1]) and not _is_probing(epochs[number]):
            before = epochs[number - 2] if number > 1 and _is_probing(epochs[number - 2]) else {}
            first = epochs[number]
            losses = [_known(entry.get("train_loss")) for entry in (before, epochs[number - 1], first)]
            return _Switch(losses[0], losses[1], losses[2], _known(first.get("distortion")))
    return None


def _improvement(switches: Sequence[_Switch]) -> float:
    known = [switch for switch in switches if not math.isnan(switch.before + switch.last)]
    total = math.fsum(switch.before for switch in known)
    return 1 - math.fsum(switch.last for switch in known) / total if total > 0 else math.nan


def _probing_signature(switches: Sequence[_Switch], method: str, client: str | None, clients: str = "") -> Diagnostic:
    improvement = _improvement(switches)
    last, after, moved = (_mean(getattr(s, name) for s in switches) for name in ("last", "after", "distortion"))
    parts = [
        f"the last epoch of probing lowered the training loss by {improvement:.1%}{clients}"
        f" (more than {STILL_IMPROVING:.0%})"
    ]
    if after > last:
        parts.append(f"the first epoch of full training raised it from {last:.3g} to {after:.3g}")
    if moved > 0:
        parts.append(f"the first epoch of full training moved the features by {moved:.3g}")
    return Diagnostic(SHORT_PROBING, "; ".join(parts), improvement, client, method)


def normalization_drift(cells: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Name the methods that moved the features while they trained the head alone."""
    for method, own in _grouped(cells, "method").items():
        drifts = {cell.client: drift for cell in own if (drift := _drift(cell)) > 0}
        if drifts:
            client = max(drifts, key=lambda name: drifts[name])
            found = (
                f"distortion {drifts[client]:.3g} after training the head alone (client {client}, the largest of"
                f" {len(drifts)})"
            )
            yield Diagnostic(BN_DRIFT, found, drifts[client], method=method)


def _drift(cell: ClientResult) -> float:
    """Return the distortion after training the head alone; 0 if there is none but rounding."""
    own, relative = _known(cell.distortion_own), _known(cell.distortion_relative)
    norm = own / relative if own > 0 and relative > 0 else 1.0
    probed = [_known(entry.get("distortion")) for entry in _epochs(cell) if _is_probing(entry)]
    if all(map(_is_probing, _epochs(cell))):
        probed.append(own)
    largest = max((value for value in probed if not math.isnan(value)), default=0.0)
    return largest if largest > MOVED * norm else 0.0


def _is_trained(cell: ClientResult) -> bool:
    return cell.status in ("ok", "no_test") and bool(_epochs(cell))


def _epochs(cell: ClientResult) -> list[dict[str, Any]]:
    return [entry for entry in cell.epochs if entry["epoch"] > 0]


def _is_probing(entry: Mapping[str, Any]) -> bool:
    return entry.get("lr_body") == 0


def _probing(cell: ClientResult) -> bool:
    return any(map(_is_probing, _epochs(cell)))


def _at_home(cell: ClientResult) -> float:
    return _known(cell.accuracy[cell.clients.index(cell.client)])


def _others(cell: ClientResult) -> np.ndarray:
    row = np.delete(np.array(cell.accuracy, dtype=np.float64), cell.clients.index(cell.client))
    return row[~np.isnan(row)]


def _elsewhere(cell: ClientResult) -> float:
    return float(row.mean()) if (row := _others(cell)).size else math.nan


def _worst(cell: ClientResult) -> float:
    return float(row.min()) if (row := _others(cell)).size else math.nan


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def _grouped(cells: Iterable[ClientResult], *keys: str) -> dict[Any, list[ClientResult]]:
    """Put cells together that agree in some fields, in the order in which they come."""
    groups: dict[Any, list[ClientResult]] = {}
    for cell in cells:
        key = tuple(getattr(cell, name) for name in keys)
        groups.setdefault(key if len(keys) > 1 else key[0], []).append(cell)
    return groups
