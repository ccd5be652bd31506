"""Recommends which clients should fine-tune, by validation data only.

Fine-tuning a client that has little to learn often costs accuracy. A method therefore has to beat the global model on
the client's validation samples by more than one standard error of the difference; otherwise the client keeps the global
model.

Both models classify the same ``n`` samples, so the comparison is paired: ``b`` samples are correct only with the
personalized model, ``c`` only with the global model. The gain is ``(b - c) / n``. Its standard error is Agresti and
Min's Wald+2, which adds half a sample to each entry of the 2 x 2 table, so that the error is not 0 if a few samples
happen to agree. A gain of one sample is never enough; a gain of two without any loss is.

The rule is deliberately lenient: one standard error is not a significance test, and among ten methods one is ahead by
chance more often than the error of a single comparison suggests. Methods that use validation data themselves (early
stopping, greedy soup) do better on these data than on others.

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
    """The model that a client should use. Accuracies and differences are in percent, None if undefined.

    Args:
        client: name of the client.
        num_val: number of the client's validation samples.
        val_before: the global model's validation accuracy.
        best_method: the recommended method; if the global model is recommended, the method closest to beating it.
        val_after: validation accuracy of this method.
        gain: `val_after` minus `val_before`.
        standard_error: standard error of the gain.
        recommendation: `KEEP` (the global model) or `PERSONALIZE`.
        test_before: the global model's accuracy on the client's test set; judges the recommendation, never chooses.
        test_after: the method's accuracy on the client's test set.
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
        """Sort key of methods; gains that differ only by rounding are equal."""
        return self.recommendation == PERSONALIZE, -math.inf if self.gain is None else round(self.gain, 6)


def recommend(results: Iterable[ClientResult], methods: Sequence[str] = ()) -> list[Recommendation]:
    """Recommend a model for every client, by the means over all seeds.

    Seeds share the validation samples: more seeds reduce the variance of the means, but not the standard error.

    Args:
        results: client results of any seeds, methods and clients.
        methods: methods in order of preference among equals, as in the experiment: the simplest first.

    Returns:
        One recommendation per client, in order of first appearance.
    """
    rank = {method: number for number, method in enumerate(methods)}
    recommendations = []
    for client, of_client in grouped(results, "client").items():
        by_method = sorted(grouped(of_client, "method").items(), key=lambda item: rank.get(item[0], len(rank)))
        compared = [_compare(client, method, of_method) for method, of_method in by_method]
        recommendations.append(max(compared, key=lambda comparison: comparison.merit))  # the first among equals
    return recommendations


def choose(results: Iterable[ClientResult], methods: Sequence[str] = ()) -> dict[tuple[int, str], str | None]:
    """Choose the model that each client should use, for every seed by its own results only.

    Args:
        results: client results of any seeds, methods and clients.
        methods: methods in order of preference among equals.

    Returns:
        Name of the method by seed and client; None for the global model.
    """
    by_seed = grouped(results, "seed")
    return {(seed, r.client): r.method for seed, of_seed in by_seed.items() for r in recommend(of_seed, methods)}


def _compare(client: str, method: str, results: Sequence[ClientResult]) -> Recommendation:
    """Compare a method with the global model on one client's validation samples."""
    validated = [r for r in results if r.num_val and r.val_before is not None and r.val_after is not None]
    gain = error = None
    convincing = False
    if validated:
        gained, lost = (fmean(counts) for counts in zip(*map(_discordant, validated), strict=True))
        size = fmean(result.num_val for result in validated)
        gain, error = 100 * (gained - lost) / size, 100 * standard_error(gained, lost, size)
        convincing = gain > error + 1e-9
    return Recommendation(
        client=client,
        num_val=results[0].num_val,
        val_before=_mean(result.val_before for result in validated),
        best_method=method,
        val_after=_mean(result.val_after for result in validated),
        gain=gain,
        standard_error=error,
        recommendation=PERSONALIZE if convincing else KEEP,
        test_before=_mean(result.local_before for result in results),
        test_after=_mean(result.local for result in results),
    )


def _discordant(result: ClientResult) -> tuple[float, float]:
    """Return the numbers of validation samples gained and lost; if not recorded, as if errors were independent."""
    if result.val_gained is not None and result.val_lost is not None:
        return result.val_gained, result.val_lost
    before, after = (result.val_before or 0.0) / 100, (result.val_after or 0.0) / 100
    return result.num_val * after * (1 - before), result.num_val * before * (1 - after)


def standard_error(gained: float, lost: float, size: float) -> float:
    """Return the standard error of ``(gained - lost) / size``: that of Wald+2, multiplied by ``(size + 2) / size``.

    Args:
        gained: number of samples that only the personalized model classifies correctly.
        lost: number of samples that only the global model classifies correctly.
        size: number of all samples.

    >>> round(standard_error(2, 0, 14), 4), round(2 / 14, 4)
    (0.1185, 0.1429)
    """
    return math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (size + 2)) / size


def _mean(values: Iterable[float | None]) -> float | None:
    average = mean(values)
    return None if math.isnan(average) else average
