"""How often the intervals and verdicts of `lpft.evaluation.certainty` are right, in simulated studies.

    python benchmarks/coverage.py [--studies 2000] [--seed 0] [--seeds 1 3 5] [--clients 5 10 50]

A study compares five methods with one reference, whose accuracy differs between clients. The difference of a method is
the true effect plus random effects of the seed, of the client and of both. Accuracies on test sets of n samples are
drawn from a binomial distribution. A row simulates `--studies` studies per effect. Columns:

- ``cover 0`` ... ``cover 5``: share of 95% intervals of a difference that contain the truth, in percent, for true
  effects of 0 to 5 percentage points; near 100%, methods are worse by this amount, since they cannot be better;
- ``own seed``: with one seed, the share of intervals that contain the mean over all clients for that seed;
- ``better``, ``worse``: share of these verdicts on one method if the true effect is 0;
- ``any of 5``: share of studies in which one of five methods is called better although all true effects are 0 (Holm);
- ``equivalent``: the largest share of this verdict for true effects of 1, 2 and 5, which lie outside the region.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

sys.path.insert(0, str(Path(__file__).parent.parent))

from lpft.evaluation.certainty import EQUIVALENCE, SIGNIFICANT, Estimate, crossed, holm, verdict

EFFECTS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""True differences, percentage points."""
NUM_METHODS = 5
COLUMNS = ("mixture", "S", "C", *(f"cover {effect:g}" for effect in EFFECTS), "own seed")
COLUMNS += ("better", "worse", "any of 5", "equivalent")


@dataclass(frozen=True)
class Mixture:
    """The sources of variance of the differences.

    Args:
        name: of the mixture.
        seed: standard deviation over seeds, percentage points.
        client: the same over clients.
        both: the same over pairs of seed and client.
        num_test: samples of a client's test set.
        beta: parameters of the beta distribution of the clients' accuracies near 100%; None for 75% +- 5. The effects
            are then on the logit scale.
    """

    name: str
    seed: float
    client: float
    both: float
    num_test: int
    beta: tuple[float, float] | None = None

    def reference(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Draw the reference's accuracy of clients, in ``(0, 1)``."""
        if self.beta:
            return np.clip(rng.beta(*self.beta, shape), 1e-6, 1 - 1e-6)
        return np.clip(rng.normal(0.75, 0.05, shape), 0.5, 0.95)

    def method(self, reference: np.ndarray, effects: np.ndarray, shift: float) -> np.ndarray:
        """Return a method's accuracy in ``(0, 1)``."""
        if self.beta:
            return expit(logit(reference) + shift + effects)
        return np.clip(reference + (shift + effects) / 100, 0, 1)

    def shift(self, effect: float) -> float:
        """Return the shift on the logit scale that results in a true difference, by bisection."""
        if not self.beta:
            return effect
        rng = np.random.default_rng(1)
        reference = self.reference(rng, 400_000)
        effects = rng.normal(scale=np.sqrt(self.seed**2 + self.client**2 + self.both**2), size=reference.shape)
        low, high = -8.0, 3.0
        for _ in range(40):
            middle = (low + high) / 2
            loss = 100 * (reference - self.method(reference, effects, middle)).mean()
            low, high = (middle, high) if loss > effect else (low, middle)
        return (low + high) / 2

    def truth(self, effect: float) -> float:
        """Return the true difference in percentage points."""
        return -effect if self.beta else effect


MIXTURES = (
    Mixture("seeds", seed=1.0, client=0.5, both=0.5, num_test=1000),
    Mixture("clients", seed=0.2, client=3.0, both=0.5, num_test=500),
    Mixture("all alike", seed=0.7, client=2.0, both=1.0, num_test=200),
    Mixture("test noise", seed=0.1, client=0.3, both=0.2, num_test=50),
    Mixture("near 100%", seed=0.2, client=0.5, both=0.3, num_test=100, beta=(99, 1)),
    Mixture("rare losses", seed=0.2, client=0.5, both=0.3, num_test=100, beta=(30, 0.3)),
)


@dataclass(frozen=True)
class Studies:
    """Estimates of many studies and all methods, ``(studies, methods)`` each.

    Args:
        mean: of the differences, percentage points.
        std_error: of the mean.
        df: degrees of freedom.
        seed_effect: mean over the seeds of the study of the seeds' effects, percentage points.
    """

    mean: np.ndarray
    std_error: np.ndarray
    df: np.ndarray
    seed_effect: np.ndarray

    @property
    def p(self) -> np.ndarray:
        """Two-sided p-values; without variance, 1 for a difference of zero and 0 otherwise."""
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * stdtr(self.df, -np.abs(self.mean) / self.std_error)
        return np.where(self.std_error > 0, p, np.where(self.mean == 0, 1.0, 0.0))

    def covers(self, truth: np.ndarray | float) -> float:
        """Return the share of 95% intervals that contain the truth, in percent."""
        return 100 * float((np.abs(self.mean - truth) <= self.std_error * stdtrit(self.df, 0.975)).mean())

    def equivalent(self) -> np.ndarray:
        """Return which differences are equivalent to zero."""
        margin = self.std_error * stdtrit(self.df, 1 - SIGNIFICANT)
        inside = (self.mean - margin > -EQUIVALENCE) & (self.mean + margin < EQUIVALENCE)
        return inside | ((self.std_error == 0) & (self.mean == 0))

    def better(self, p: np.ndarray, sign: int = 1) -> np.ndarray:
        """Return which differences are called better (or worse, by the sign) with these p-values."""
        return (p < SIGNIFICANT) & (sign * self.mean > 0) & ~self.equivalent()


def simulate(
    mixture: Mixture, effect: float, num_seeds: int, num_clients: int, num_studies: int, rng: np.random.Generator
) -> Studies:
    """Simulate studies of several methods with the same reference."""
    sizes = (num_studies, NUM_METHODS, num_seeds, num_clients)
    reference = mixture.reference(rng, num_studies, 1, 1, num_clients)
    of_seeds = rng.normal(scale=mixture.seed, size=(*sizes[:3], 1))
    of_clients = rng.normal(scale=mixture.client, size=(*sizes[:2], 1, num_clients))
    effects = of_seeds + of_clients + rng.normal(scale=mixture.both, size=sizes)
    accuracy = mixture.method(reference, effects, mixture.shift(effect))
    before = rng.binomial(mixture.num_test, np.broadcast_to(reference, (num_studies, 1, num_seeds, num_clients)))
    after = rng.binomial(mixture.num_test, accuracy)
    differences = 100.0 * (after - before) / mixture.num_test
    return Studies(*crossed(differences), of_seeds.mean(axis=(-2, -1)))


def holm_of_all(p: np.ndarray) -> np.ndarray:
    """Return `holm` of every row."""
    order = p.argsort(axis=1)
    factors = np.arange(p.shape[1], 0, -1)
    ordered = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, 1) * factors, axis=1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, ordered, 1)
    return adjusted


def check_words(studies: Studies, p_holm: np.ndarray) -> None:
    """Check the first studies against the functions that reports use.

    Raises:
        AssertionError: if a word differs.
    """
    equivalent = studies.equivalent()
    words = {"better": studies.better(p_holm), "worse": studies.better(p_holm, -1), "equivalent": equivalent}
    for study in range(min(20, len(p_holm))):
        figures = zip(studies.mean[study], studies.std_error[study], studies.df[study], strict=True)
        estimates = [Estimate(*map(float, each), num_seeds=2, num_clients=2) for each in figures]
        adjusted = holm([each.p for each in estimates])
        for method, (each, p) in enumerate(zip(estimates, adjusted, strict=True)):
            expected = verdict(each, p)
            assert all(bool(said[study, method]) == (word == expected) for word, said in words.items())


def row(
    mixture: Mixture, num_seeds: int, num_clients: int, simulate_effect: Callable[[float], Studies]
) -> tuple[str, ...]:
    """Return a row of the table."""
    by_effect = {effect: simulate_effect(effect) for effect in EFFECTS}
    none = by_effect[0.0]
    p_holm = holm_of_all(none.p)
    check_words(none, p_holm)
    coverage = [studies.covers(mixture.truth(effect)) for effect, studies in by_effect.items()]
    one_seed = num_seeds == 1 and not mixture.beta
    own = f"{none.covers(none.seed_effect):.1f}" if one_seed else ""
    shares = [none.better(none.p).mean(), none.better(none.p, -1).mean(), none.better(p_holm).any(axis=1).mean()]
    shares.append(max(by_effect[effect].equivalent().mean() for effect in EFFECTS if effect >= EQUIVALENCE))
    figures = [f"{value:.1f}" for value in coverage]
    return (mixture.name, str(num_seeds), str(num_clients), *figures, own, *(f"{100 * s:.1f}" for s in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 10, 50])
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---:|" * (len(COLUMNS) - 1))
    for mixture in MIXTURES:
        for num_seeds in options.seeds:
            for num_clients in options.clients:
                sizes = (num_seeds, num_clients, options.studies)
                figures = row(mixture, *sizes[:2], lambda e, m=mixture, s=sizes: simulate(m, e, *s, rng))
                print("| " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
