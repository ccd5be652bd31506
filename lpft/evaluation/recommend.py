"""Which clients should fine-tune at all? Decided on validation data alone.

Fine-tuning a client that has little to learn costs it accuracy as often as not. So a method has to beat the global
model on the client's validation samples by more than one standard error of the difference; otherwise the client keeps
the global model.

Both models answer the same ``n`` samples, so the comparison is paired: ``b`` are right with the personalized model only
and ``c`` with the global model only. The gain is ``(b - c) / n``. Its standard error is Agresti and Min's Wald+2: half
a sample is added to each cell of the 2 x 2 table, so that the error does not vanish where a handful of samples happen
to agree. One more correct sample out of any number is never enough; two more, with none less, are.

The rule is lenient on purpose: one standard error is not a test of significance, and with ten methods one of them is
ahead by chance more often than the error of a single comparison suggests. Methods that use validation data themselves
(early stopping, a greedy soup) do better there than elsewhere.

References:
    Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in Medicine 24
    (2005), 729-740.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from lpft.evaluation.metric import mean
from lpft.storage.client_result import ClientResult, grouped

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

    @property
    def merit(self) -> tuple[bool, float]:
        """What methods are ranked by; gains that differ by rounding only are equal."""
        return self.recommendation == PERSONALIZE, -math.inf if self.gain is None else round(self.gain, 6)


def recommend(cells: Iterable[ClientResult], methods: Sequence[str] = ()) -> list[Recommendation]:
    """Recommend a model to every client, from the means over all seeds.

    Seeds share the validation samples: more seeds make the figures steadier, but not the standard error smaller.

    Args:
        cells: of any seeds, methods and clients.
        methods: in the order of preference among equals, the simplest first: the order of the experiment.

    Returns:
        One per client, in the order in which they first come.
    """
    rank = {method: number for number, method in enumerate(methods)}
    recommendations = []
    for client, of_client in grouped(cells, "client").items():
        by_method = sorted(grouped(of_client, "method").items(), key=lambda item: rank.get(item[0], len(rank)))
        compared = [_compare(client, method, of_method) for method, of_method in by_method]
        recommendations.append(max(compared, key=lambda comparison: comparison.merit))  # the first among equals
    return recommendations


def choose(cells: Iterable[ClientResult], methods: Sequence[str] = ()) -> dict[tuple[int, str], str | None]:
    """Choose the model that each client should use, for every seed by that seed's cells alone.

    Args:
        cells: of any seeds, methods and clients.
        methods: in the order of preference among equals.

    Returns:
        By seed and client the name of a method; None for the global model.
    """
    by_seed = grouped(cells, "seed")
    return {(seed, r.client): r.method for seed, of_seed in by_seed.items() for r in recommend(of_seed, methods)}


def _compare(client: str, method: str, cells: Sequence[ClientResult]) -> Recommendation:
    """Compare a method with the global model on one client's validation samples."""
    validated = [cell for cell in cells if cell.num_val and cell.val_before is not None and cell.val_after is not None]
    gain = error = None
    convincing = False
    if validated:
        gained, lost = (fmean(counts) for counts in zip(*map(_discordant, validated), strict=True))
        size = fmean(cell.num_val for cell in validated)
        gain, error = 100 * (gained - lost) / size, 100 * standard_error(gained, lost, size)
        convincing = gain > error + 1e-9
    return Recommendation(
        client=client,
        num_val=cells[0].num_val,
        val_before=_mean(cell.val_before for cell in validated),
        best_method=method,
        val_after=_mean(cell.val_after for cell in validated),
        gain=gain,
        standard_error=error,
        recommendation=PERSONALIZE if convincing else KEEP,
        test_before=_mean(cell.local_before for cell in cells),
        test_after=_mean(cell.local for cell in cells),
    )


def _discordant(cell: ClientResult) -> tuple[float, float]:
    """Return how many validation samples were gained and lost; where not counted, as if models erred independently."""
    if cell.val_gained is not None and cell.val_lost is not None:
        return cell.val_gained, cell.val_lost
    before, after = (cell.val_before or 0.0) / 100, (cell.val_after or 0.0) / 100
    return cell.num_val * after * (1 - before), cell.num_val * before * (1 - after)


def standard_error(gained: float, lost: float, size: float) -> float:
    """Return the standard error of ``(gained - lost) / size``: that of Wald+2, multiplied by ``(size + 2) / size``.

    Args:
        gained: number of samples that only the one model gets right.
        lost: number of samples that only the other gets right.
        size: number of all samples.

    >>> round(standard_error(2, 0, 14), 4), round(2 / 14, 4)
    (0.1185, 0.1429)
    """
    return math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (size + 2)) / size


def _mean(values: Iterable[float | None]) -> float | None:
    average = mean(values)
    return None if math.isnan(average) else average
