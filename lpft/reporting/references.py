"""What federating gained over training at home and over pooled data, and what personalizing gained on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lpft.evaluation.metric import mean
from lpft.reporting.experiment import Experiment, is_reference, section

if TYPE_CHECKING:
    from lpft.reporting.analysis import Analysis

IN_PROCESS = "in process"
KINDS = {
    "lpft.methods.references.Local": "local",
    "lpft.methods.references.Pooled": "pooled",
    **{f"lpft.methods.federated.{name}": IN_PROCESS for name in ("FedBN", "FedRep", "Ditto")},
}
ROTATED = "lpft.methods.rotated.Rotated"
"""A control whose predictions are those of the global model, by construction."""


def reference_rows(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the methods that do not personalize the global model, each as ``local``, ``pooled`` or ``in process``.

    >>> reference_rows({"methods": {"home": {"class_path": "lpft.methods.references.Local"}, "ft": {}}})
    {'home': 'local'}
    """
    return {name: KINDS[path] for name, path in _class_paths(config).items() if path in KINDS}


def rows_apart(config: Mapping[str, Any]) -> set[str]:
    """Return the rows that are no methods to choose from: the global model, references, and `rotated`.

    Rows that are trained in the process are methods.

    >>> sorted(rows_apart({"methods": {"none": {}, "ft": {}, "x": {"class_path": "lpft.methods.rotated.Rotated"}}}))
    ['none', 'x']
    """
    return {
        name
        for name, path in _class_paths(config).items()
        if path == ROTATED or is_reference(name, config) or KINDS.get(path, IN_PROCESS) != IN_PROCESS
    }


def _class_paths(config: Mapping[str, Any]) -> dict[str, str]:
    methods = section(config, "methods")
    return {str(name): str(section(methods, name).get("class_path")) for name in methods}


def personalized_methods(experiment: Experiment) -> list[str]:
    """Return the complete methods that personalize the global model."""
    others = {experiment.reference, *reference_rows(experiment.config)}
    return [method for method in experiment.complete_methods if method not in others]


@dataclass(frozen=True)
class Gains:
    """Differences of Local in percentage points, each the mean over the seeds that have both sides; None if unknown.

    Args:
        over_local: the global model minus training at home alone.
        over_pooled: the global model minus the model of the pooled data.
        personalizing: the personalized models of `method` minus the global model.
        method: the method with the best validation accuracy at home; of equal ones the first.
        num_seeds: the largest number of seeds of a difference.
    """

    over_local: float | None
    over_pooled: float | None
    personalizing: float | None
    method: str | None
    num_seeds: int


def gains(analysis: Analysis) -> Gains | None:
    """Compare the global model with the references; None if there are none that are complete.

    The global model's Local is known from every result, whether or not there is a row for it.
    """
    experiment, clients = analysis.experiment, analysis.frames.clients
    rows = reference_rows(experiment.config)
    by_kind = {kind: method for method, kind in reversed(rows.items()) if method in experiment.complete_methods}
    if not by_kind:
        return None
    before = clients.astype({"local_before": float}).groupby(["seed", "method"])["local_before"].mean()
    federated = before.groupby("seed").first()
    differences = {kind: (federated - analysis.by_seed(method, "local")).dropna() for kind, method in by_kind.items()}
    personalized = personalized_methods(experiment)
    on_val = {method: mean(clients.loc[clients["method"] == method, "val_after"].tolist()) for method in personalized}
    best = max(personalized, key=lambda method: (on_val[method] == on_val[method], on_val[method]), default=None)
    if best is not None:
        differences["personalizing"] = (analysis.by_seed(best, "local") - federated).dropna()
    means = {name: mean(values) if len(values) else None for name, values in differences.items()}
    num_seeds = max(map(len, differences.values()))
    return Gains(means.get("local"), means.get("pooled"), means.get("personalizing"), best, num_seeds)


def gains_line(result: Gains | None) -> str:
    """Write the gains in one sentence; empty if there are none."""
    if result is None:
        return ""
    parts = [
        f"{_verb(value)} of Local {'over' if value >= 0 else 'against'} {reference}"
        for value, reference in (
            (result.over_local, "training on only local data"),
            (result.over_pooled, "one model trained on pooled data"),
        )
        if value is not None
    ]
    parts[1:] = [part.replace(" points of Local", "") for part in parts[1:]]
    line = f"Federated training {', and '.join(parts)}"
    if result.personalizing is not None:
        line += f"; personalizing ({result.method}) {_verb(result.personalizing).removesuffix(' points')} on top"
    return f"{line} ({'one seed' if result.num_seeds == 1 else f'mean over {result.num_seeds} seeds'})."


def _verb(points: float) -> str:
    """Describe a difference as points gained or lost.

    >>> _verb(1.23), _verb(-1.0), _verb(0.04)
    ('gained 1.2 points', 'lost 1.0 points', 'gained 0.0 points')
    """
    shown = round(points, 1)
    return f"{'lost' if shown < 0 else 'gained'} {abs(shown):.1f} points"
