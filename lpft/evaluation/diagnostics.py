"""Diagnostics: signatures of a personalization that failed or could not succeed, with the numbers that show them.

Every function searches the client results of a run for one signature, and yields diagnostics of the whole run or of
single clients; none if there is no problem, or if the numbers were not recorded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lpft.evaluation.convergence import judge_convergence
from lpft.evaluation.metric import Vector, mean
from lpft.storage.client_result import ClientResult, grouped
from lpft.storage.columnar import column_of

if TYPE_CHECKING:
    from lpft.evaluation.settings import MetricName

NEAR_CHANCE = 0.1
"""A value is near chance if it exceeds chance by at most this share of the distance to 100%."""
FEW_SAMPLES = 10
"""Fewer training samples per class than this are considered few."""
STILL_IMPROVING = 0.05
"""A head is still improving if the last epoch of probing lowers its training loss by more than this share."""
MOVED = 1e-3
"""Features moved if their distortion exceeds this share of their norm; less can be rounding."""
FOREIGN = 5.0
"""BatchNorm statistics fit no client if its own statistics improve every client's Local by more points than this."""

NOT_CONVERGED = "global model not converged"
HETEROGENEITY = "extreme heterogeneity"
LITTLE_DATA = "too little local data"
SHORT_PROBING = "linear probing too short"
BN_DRIFT = "normalization drift"
FOREIGN_STATISTICS = "statistics that fit no client"

NAMES = (NOT_CONVERGED, HETEROGENEITY, LITTLE_DATA, SHORT_PROBING, BN_DRIFT, FOREIGN_STATISTICS)
"""All diagnostics; `lpft/reporting/sentences.yaml` describes each and gives a hint."""


@dataclass(frozen=True)
class Diagnostic:
    """A failure signature found in the results.

    Args:
        name: one of `NAMES`.
        value: the number that is compared with the threshold.
        numbers: all numbers that show the signature, by name.
        client: name of the client; None if it concerns all.
        method: name of the method; None if it concerns all, or none in particular.
        seed: the seed; None if it concerns all.
    """

    name: str
    value: float | None
    numbers: Mapping[str, float | str | None]
    client: str | None = None
    method: str | None = None
    seed: int | None = None

    @property
    def place(self) -> str:
        """Client, method and seed as text; empty if it concerns the whole run."""
        seed = None if self.seed is None else f"seed {self.seed}"
        return ", ".join(part for part in (self.client, self.method, seed) if part)


def diagnose(
    results: Sequence[ClientResult],
    histories: Mapping[int, Sequence[float | None]] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    adapted: str | None = None,
    restarted: Collection[str] = (),
    metric: MetricName = "accuracy",
) -> list[Diagnostic]:
    """Search for every failure signature.

    Args:
        results: client results of any seeds, methods and clients.
        histories: the global model's validation accuracy after every round, in percent, by seed; empty for a global
            model that was not trained by lpft.
        pairs: methods and the baselines with which they are compared.
        adapted: the method that changes only the statistics of BatchNorm, if there is one.
        restarted: methods whose fine-tuning does not start from the probed head.
        metric: the metric in the results' `accuracy`.
    """
    trained = [result for result in results if _is_trained(result)]
    return [
        *not_converged(histories or {}),
        *extreme_heterogeneity(_with_trained_model(trained, histories or {}, metric), pairs, metric),
        *too_little_data(trained),
        *probing_too_short(result for result in trained if result.method not in restarted),
        *normalization_drift(trained),
        *foreign_statistics(result for result in results if result.method == adapted),
    ]


def not_converged(histories: Mapping[int, Sequence[float | None]]) -> Iterator[Diagnostic]:
    """Yield the seeds whose global model was still improving when training ended; see `judge_convergence`."""
    for seed, accuracy in sorted(histories.items()):
        convergence = judge_convergence(accuracy)
        if not convergence.converged:
            numbers = {"change": convergence.change, "rounds": convergence.rounds}
            yield Diagnostic(NOT_CONVERGED, convergence.change, numbers, seed=seed)


def extreme_heterogeneity(
    results: Sequence[ClientResult], pairs: Sequence[tuple[str, str]] = (), metric: MetricName = "accuracy"
) -> Iterator[Diagnostic]:
    """Detect clients that have nothing in common: Local improves, but all methods are near chance on other clients.

    The client's own test set is excluded, since it would dominate if there are few clients. The two methods of the
    first pair must not differ on other clients by more than one standard deviation over the seeds, if there are several
    seeds. If the means over all clients do not show the signature, single clients that do are reported.
    """
    by_method = grouped(results, "method")
    if diagnostic := _at_chance(results, metric):
        differences = _first_differences(by_method, pairs)
        if len(differences) < 2 or abs(fmean(differences)) <= pstdev(differences):
            yield diagnostic
        return
    for client, of_client in grouped(results, "client").items():
        if len(grouped(of_client, "method")) == len(by_method) and (
            diagnostic := _at_chance(of_client, metric, client)
        ):
            yield diagnostic


def _with_trained_model(
    results: Sequence[ClientResult], histories: Mapping[int, Sequence[float | None]], metric: MetricName
) -> list[ClientResult]:
    """Exclude seeds whose global model was near chance and still improving: it has learned nothing to forget."""
    included: list[ClientResult] = []
    for seed, of_seed in grouped(results, "seed").items():
        classes = _num_classes(of_seed)
        learned = not classes or mean(result.local_before for result in of_seed) > near_chance(classes, metric)
        if learned or seed not in histories or judge_convergence(histories[seed]).converged:
            included += of_seed
    return included


def _at_chance(results: Sequence[ClientResult], metric: MetricName, client: str | None = None) -> Diagnostic | None:
    classes = _num_classes(results)
    rise = mean(_nan(result.local) - _nan(result.local_before) for result in results)
    if not classes or not rise > 0:
        return None
    best = -math.inf
    for of_method in grouped(results, "method").values():
        on_others = mean(map(_mean_of_others, of_method))
        if not on_others <= near_chance(classes, metric):
            return None
        best = max(best, on_others)
    numbers = {"rise": rise, "best": best, "worst": mean(map(_worst, results)), "chance": chance(classes, metric)}
    return Diagnostic(HETEROGENEITY, best, numbers, client)


def _num_classes(results: Iterable[ClientResult]) -> int | None:
    return next((result.num_classes for result in results if result.num_classes), None)


def chance(num_classes: int, metric: MetricName = "accuracy") -> float:
    """Return the value of random guessing, percent; for the area under the ROC curve 50, for any number of classes.

    >>> chance(10), chance(10, "auroc")
    (10.0, 50.0)
    """
    return 50.0 if metric == "auroc" else 100 / num_classes


def near_chance(num_classes: int, metric: MetricName = "accuracy") -> float:
    """Return the largest value that is near chance, percent.

    >>> near_chance(10), near_chance(10, "auroc")
    (19.0, 55.0)
    """
    at_chance = chance(num_classes, metric)
    return at_chance + NEAR_CHANCE * (100 - at_chance)


def _first_differences(
    by_method: Mapping[str, Sequence[ClientResult]], pairs: Sequence[tuple[str, str]]
) -> list[float]:
    """Return, for the first pair with results, the difference in accuracy on other clients for every common seed."""
    for pair in pairs:
        if set(pair) <= by_method.keys():
            first, second = (
                {
                    seed: mean(map(_mean_of_others, of_seed))
                    for seed, of_seed in grouped(by_method[name], "seed").items()
                }
                for name in pair
            )
            return [first[seed] - second[seed] for seed in first if seed in second]
    return []


def too_little_data(results: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Yield the clients that memorized few samples and generalize worse than the global model.

    These have fewer than `FEW_SAMPLES` training samples per class of the client, 100% training accuracy, and lower
    validation accuracy than the global model, for most of the seeds.
    """
    for (client, method), of_client in grouped(results, "client", "method").items():
        overfit = [result for result in of_client if _is_overfit(result)]
        if 2 * len(overfit) > len(of_client):
            density = fmean(result.num_train / (result.num_train_classes or 1) for result in overfit)
            before, after = (mean(getattr(r, name) for r in overfit) for name in ("val_before", "val_after"))
            numbers = {"per_class": density, "val_before": before, "val_after": after}
            yield Diagnostic(LITTLE_DATA, density, numbers, client, method)


def _is_overfit(result: ClientResult) -> bool:
    few = result.num_train < FEW_SAMPLES * (result.num_train_classes or 0)
    worse = result.val_before is not None and result.val_after is not None and result.val_after < result.val_before
    return few and worse and result.train_accuracy == 100


def probing_too_short(results: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Yield the methods whose head was still improving when full fine-tuning started.

    The last epoch of probing lowers the training loss by more than `STILL_IMPROVING`, in the mean over clients and
    seeds; if not, single clients for which it does are reported. At least two epochs of probing are needed. The numbers
    include training loss and distortion after the first epoch of full fine-tuning.
    """
    for method, of_method in grouped(results, "method").items():
        switches = {
            client: list(filter(None, map(_switch, of_client)))
            for client, of_client in grouped(of_method, "client").items()
        }
        short = {client: items for client, items in switches.items() if _improvement(items) > STILL_IMPROVING}
        everyone = [switch for items in switches.values() for switch in items]
        if _improvement(everyone) > STILL_IMPROVING:
            yield _short_probing(everyone, method, None, {"num_short": len(short), "num_clients": len(switches)})
        else:
            for client, items in short.items():
                yield _short_probing(items, method, client, {})


@dataclass(frozen=True)
class _Switch:
    """Training losses of the last two epochs of probing and of the first epoch of fine-tuning, and its distortion."""

    before: float
    last: float
    after: float
    distortion: float


def _switch(result: ClientResult) -> _Switch | None:
    """Return the switch of one client's training from probing to full fine-tuning."""
    probing = _is_probing(result)
    switches = np.flatnonzero(probing[:-1] & ~probing[1:]) + 1
    if not switches.size:
        return None
    losses, distortions = _epoch_values(result, "train_loss"), _epoch_values(result, "distortion")
    first = switches[0]
    before = losses[first - 2] if first > 1 and probing[first - 2] else math.nan
    return _Switch(float(before), float(losses[first - 1]), float(losses[first]), float(distortions[first]))


def _improvement(switches: Sequence[_Switch]) -> float:
    complete = [switch for switch in switches if not math.isnan(switch.before + switch.last)]
    total = math.fsum(switch.before for switch in complete)
    return 1 - math.fsum(switch.last for switch in complete) / total if total > 0 else math.nan


def _short_probing(
    switches: Sequence[_Switch], method: str, client: str | None, counts: Mapping[str, int]
) -> Diagnostic:
    improvement = _improvement(switches)
    last, after, moved = (mean(getattr(s, name) for s in switches) for name in ("last", "after", "distortion"))
    numbers = {"improvement": improvement, "last_loss": last, "first_loss": after, "distortion": moved, **counts}
    return Diagnostic(SHORT_PROBING, improvement, numbers, client, method)


def normalization_drift(results: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Yield the methods that moved the features while training only the head."""
    for method, of_method in grouped(results, "method").items():
        drifts = {result.client: drift for result in of_method if (drift := _drift(result)) > 0}
        if drifts:
            client = max(drifts, key=lambda name: drifts[name])
            numbers: dict[str, float | str | None] = {
                "distortion": drifts[client],
                "largest": client,
                "num_clients": len(drifts),
            }
            yield Diagnostic(BN_DRIFT, drifts[client], numbers, method=method)


def foreign_statistics(results: Iterable[ClientResult]) -> Iterator[Diagnostic]:
    """Detect a global model whose BatchNorm statistics are far from those of every client, as after few rounds.

    Adapting only the statistics improves every client's Local by more than `FOREIGN` points, in the mean over seeds.

    Args:
        results: client results of a method that changes only the statistics of BatchNorm.
    """
    gains = {
        client: mean(_nan(result.local) - _nan(result.local_before) for result in of_client)
        for client, of_client in grouped(results, "client").items()
    }
    if len(gains) > 1 and all(gain > FOREIGN for gain in gains.values()):
        smallest = min(gains, key=lambda client: gains[client])
        numbers: dict[str, float | str | None] = {
            "gain": fmean(gains.values()),
            "least": gains[smallest],
            "smallest": smallest,
        }
        yield Diagnostic(FOREIGN_STATISTICS, numbers["gain"], numbers)  # type: ignore[arg-type]


def _drift(result: ClientResult) -> float:
    """Return the largest distortion after epochs that train only the head; 0 if it can be rounding."""
    probing = _is_probing(result)
    if not probing.any():
        return 0.0
    distortion, relative = _nan(result.distortion_own), _nan(result.distortion_relative)
    norm = distortion / relative if distortion > 0 and relative > 0 else 1.0
    probed = _epoch_values(result, "distortion")[probing].tolist()
    if probing.all():
        probed.append(distortion)
    largest = max((value for value in probed if not math.isnan(value)), default=0.0)
    return largest if largest > MOVED * norm else 0.0


def _is_trained(result: ClientResult) -> bool:
    return result.status in ("ok", "no_test") and bool((column_of(result.epochs, "epoch") > 0).any())


def _epoch_values(result: ClientResult, name: str) -> Vector:
    """Return a field of every epoch except epoch 0, the global model; NaN where it was not recorded."""
    return column_of(result.epochs, name)[column_of(result.epochs, "epoch") > 0]


def _is_probing(result: ClientResult) -> NDArray[np.bool_]:
    """Return for every epoch except epoch 0 whether only the head was trained."""
    return _epoch_values(result, "lr_body") == 0


def _others(result: ClientResult) -> Vector:
    row, own = np.array(result.accuracy, dtype=np.float64), result.clients.index(result.client)
    others = np.concatenate([row[:own], row[own + 1 :]])
    return others[~np.isnan(others)]


def _mean_of_others(result: ClientResult) -> float:
    return float(row.mean()) if (row := _others(result)).size else math.nan


def _worst(result: ClientResult) -> float:
    return float(row.min()) if (row := _others(result)).size else math.nan


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
