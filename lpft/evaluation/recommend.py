"""Which clients should fine-tune at all? Decided on validation data alone.

Fine-tuning a client that has little to learn costs it accuracy as often as not. The rule: a method has to beat the
global model on the client's validation samples by more than one standard error of that difference; where none does, the
client keeps the global model.

Both models answer the same samples, so the comparison is paired: of ``n`` samples, ``b`` are right with the
personalized model only and ``c`` with the global model only. The gain is ``(b - c) / n``. Its standard error is the one
that Agresti and Min call Wald+2: half a sample is added to each cell of the 2 x 2 table, so that the error does not
vanish where a handful of samples happen to agree. One sample more out of any number is never enough; two more, and none
less, are.

The rule is lenient on purpose, and one standard error is not a test of significance: with ten methods to choose from,
one of them is ahead by chance more often than the error of a single comparison tells. Methods that look at validation
data themselves (early stopping, a greedy soup) do better there than elsewhere.

References:
    Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in Medicine 24
    (2005), 729-740.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lpft.storage.client_result import ClientResult

KEEP, PERSONALIZE = "keep", "personalize"


@dataclass(frozen=True)
class Recommendation:
    """What a client should use. Accuracies and differences in percent; None where not defined.

    Args:
        client: its name.
        num_val: number of validation samples, which decide.
        val_before: the global model's validation accuracy.
        best_method: the recommended method or, if that is the global model, the one that came closest to beating it.
        val_after: validation accuracy with this method.
        gain: `val_after` minus `val_before`.
        standard_error: of the gain.
        recommendation: `KEEP` the global model or `PERSONALIZE`.
        test_before: the global model's accuracy on the client's test set. To judge the recommendation, never to choose.
        test_after: the method's.
    """

    client: str
    num_val: int
    val_before: float | None
    best_method: str
    val_after: float | None
    gain: float | None
    standard_error: float | None
    recommendation: str
    test_before: float | None
    test_after: float | None

    @property
    def method(self) -> str | None:
        """The recommended method; None for the global model."""
        return self.best_method if self.recommendation == PERSONALIZE else None

    @property
    def test_recommended(self) -> float | None:
        """Test accuracy of the recommended model."""
        return self.test_after if self.recommendation == PERSONALIZE else self.test_before


def recommend(cells: Iterable[ClientResult], methods: Sequence[str] = ()) -> list[Recommendation]:
    """Recommend a model to every client, from the means over all seeds.

    Seeds share the validation samples, so that they do not add to the number of these: more seeds make the figures
    steadier, not the standard error smaller.

    Args:
        cells: of any seeds, methods and clients.
        methods: in the order of preference among equals, the simplest first: the order of the experiment.

    Returns:
        One per client, in the order in which they first come.
    """
    by_client: dict[str, dict[str, list[ClientResult]]] = {}
    for cell in cells:
        by_client.setdefault(cell.client, {}).setdefault(cell.method, []).append(cell)
    rank = {method: number for number, method in enumerate(methods)}
    return [
        _recommend(client, dict(sorted(found.items(), key=lambda item: rank.get(item[0], len(rank)))))
        for client, found in by_client.items()
    ]


def choose(cells: Iterable[ClientResult], methods: Sequence[str] = ()) -> dict[tuple[int, str], str | None]:
    """Choose the model that each client should use, for every seed by that seed's cells alone.

    Args:
        cells: of any seeds, methods and clients.
        methods: in the order of preference among equals.

    Returns:
        By seed and client the name of a method; None for the global model.
    """
    by_seed: dict[int, list[ClientResult]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    return {(seed, r.client): r.method for seed, own in by_seed.items() for r in recommend(own, methods)}


def beats_global_model(cell: ClientResult) -> bool:
    """Tell whether a personalized model is better than the global one by more than a standard error."""
    return _compare([cell]).convincing


@dataclass(frozen=True)
class _Comparison:
    """A method against the global model on one client's validation samples."""

    before: float | None
    after: float | None
    gain: float | None
    error: float | None

    @property
    def convincing(self) -> bool:
        return self.gain is not None and self.error is not None and self.gain > self.error + 1e-9

    @property
    def merit(self) -> tuple[bool, float]:
        """What methods are ranked by; gains that differ by rounding only are equal."""
        return self.convincing, -math.inf if self.gain is None else round(self.gain, 6)


def _recommend(client: str, found: Mapping[str, list[ClientResult]]) -> Recommendation:
    compared = {method: _compare(cells) for method, cells in found.items()}
    best = max(compared, key=lambda method: compared[method].merit)  # the first among equals
    verdict, cells = compared[best], found[best]
    return Recommendation(
        client=client,
        num_val=cells[0].num_val,
        val_before=verdict.before,
        best_method=best,
        val_after=verdict.after,
        gain=verdict.gain,
        standard_error=verdict.error,
        recommendation=PERSONALIZE if verdict.convincing else KEEP,
        test_before=_mean(cell.local_before for cell in cells),
        test_after=_mean(cell.accuracy[cell.clients.index(client)] for cell in cells),
    )


def _compare(cells: Sequence[ClientResult]) -> _Comparison:
    known = [cell for cell in cells if cell.num_val and cell.val_before is not None and cell.val_after is not None]
    if not known:
        return _Comparison(None, None, None, None)
    counts = [_discordant(cell) for cell in known]
    gained, lost = (fmean(count) for count in zip(*counts, strict=True))
    size = fmean(cell.num_val for cell in known)
    before, after = (_mean(getattr(cell, name) for cell in known) for name in ("val_before", "val_after"))
    return _Comparison(before, after, 100 * (gained - lost) / size, 100 * standard_error(gained, lost, size))


def _discordant(cell: ClientResult) -> tuple[float, float]:
    """Return how many validation samples were gained and lost; where not counted, as if models erred independently."""
    if cell.val_gained is not None and cell.val_lost is not None:
        return cell.val_gained, cell.val_lost
    before, after = (cell.val_before or 0.0) / 100, (cell.val_after or 0.0) / 100
    return cell.num_val * after * (1 - before), cell.num_val * before * (1 - after)


def standard_error(gained: float, lost: float, size: float) -> float:
    """Return the standard error of ``(gained - lost) / size``, with half a sample added to each cell of the table.

    It is scaled to that difference: dividing it by ``(size + 2) / size`` gives the Wald+2 error of the shrunken one.

    Args:
        gained: number of samples that only the one model gets right.
        lost: number of samples that only the other gets right.
        size: number of all samples.

    >>> round(standard_error(2, 0, 14), 4), round(2 / 14, 4)
    (0.1185, 0.1429)
    """
    return math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (size + 2)) / size


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known else None
