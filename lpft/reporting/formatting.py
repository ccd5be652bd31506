"""Numbers, names, means and differences as tables and sentences show them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpft.evaluation.certainty import Estimate
    from lpft.evaluation.metric import Metric
    from lpft.reporting.intervals import Comparison


def number(value: float, form: str) -> str:
    """Format a number; one that is rounded to zero has no minus sign.

    >>> number(-0.04, ".1f"), number(-0.04, "+.1f"), number(-0.06, "+.1f")
    ('0.0', '+0.0', '-0.1')
    """
    text = format(value, form)
    return format(0.0, form) if text.startswith("-") and float(text) == 0 else text


def interval_end(value: float, form: str = ".1f") -> str:
    """Format the end of an interval, with up to two more decimals if it would look like zero but is not.

    >>> interval_end(1.26), interval_end(-0.01), interval_end(-0.004, "+.1f"), interval_end(0.0)
    ('1.3', '-0.01', '-0.004', '0.0')
    """
    texts = [number(value, f"{form[:-2]}{int(form[-2]) + more}f") for more in range(3)]
    return next((text for text in texts if float(text)), texts[0])


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Join the first names with commas.

    >>> listed(["ann", "bob", "cy"], 2)
    'ann, bob, ...'
    """
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def spread_text(values: Iterable[float], form: str) -> str:
    """Write the mean and standard deviation (ddof 0) of a few values, such as one per seed.

    >>> spread_text([80.0, 82.0], ".1f"), spread_text([80.0], ".1f"), spread_text([], ".1f")
    ('81.0 ± 1.0', '80.0', '-')
    """
    values = list(values)
    if not values:
        return "-"
    center = fmean(values)
    std = math.sqrt(fmean((value - center) ** 2 for value in values))
    return f"{number(center, form)} ± {format(std, form)}" if len(values) > 1 else number(center, form)


def mean_text(metric: Metric, center: float, estimate: Estimate) -> str:
    """Write a mean with half of its 95% interval, if it has one.

    >>> from lpft.evaluation.certainty import Estimate
    >>> from lpft.evaluation.metrics import METRICS
    >>> mean_text(METRICS[0], 91.17, Estimate(mean=91.17, std_error=0.5, df=12, num_seeds=3, num_clients=10))
    '91.2 ± 1.1'
    """
    if math.isnan(center):
        return "-"
    if not metric.spread or math.isnan(estimate.margin):
        return metric.format(center)
    return f"{metric.format(center)} ± {metric.format(estimate.margin)}"


def estimate_text(estimate: Estimate, form: str = ".1f") -> str:
    """Write an estimate with half of its 95% interval; a sign in the format concerns the mean only.

    >>> from lpft.evaluation.certainty import Estimate
    >>> estimate_text(Estimate(mean=2.1, std_error=0.6, df=12, num_seeds=3, num_clients=10), "+.1f")
    '+2.1 ± 1.3'
    """
    if math.isnan(estimate.mean):
        return "-"
    mean = number(estimate.mean, form)
    return mean if math.isnan(estimate.margin) else f"{mean} ± {format(estimate.margin, form.removeprefix('+'))}"


def comparison_text(comparison: Comparison, form: str = "+.1f") -> str:
    """Write a difference with its 95% interval and its verdict.

    >>> from lpft.evaluation.certainty import Estimate
    >>> from lpft.reporting.intervals import Comparison
    >>> difference = Estimate(mean=2.1, std_error=0.6, df=12, num_seeds=3, num_clients=10)
    >>> comparison_text(Comparison(difference, p_holm=0.004, verdict="better"))
    '+2.1 (+0.8 to +3.4, better)'
    """
    difference = comparison.estimate
    interval = f"{interval_end(difference.low, form)} to {interval_end(difference.high, form)}"
    ends = "no interval" if math.isnan(difference.margin) else interval
    seeds = "; one seed" if difference.clients_only else ""
    return f"{number(difference.mean, form)} ({ends}, {comparison.verdict}{seeds})"
