from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from lpft.evaluation.scores import (
    Samples,
    area_under_roc,
    balanced_accuracy,
    calibration_error,
    negative_log_likelihood,
    temperatures,
)

SIZES = (30, 0, 25, 40)


def drawn(num_classes: int, ties: bool = False) -> tuple[torch.Tensor, Samples]:
    """Return logits of three models, and samples of four clients, one of them without any, in no order."""
    generator = torch.Generator().manual_seed(num_classes)
    owner = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[torch.randperm(95, generator=generator)]
    labels = torch.randint(num_classes, (95,), generator=generator)
    labels[owner == 2] %= 2  # this client has two classes at most
    logits = 2 * torch.randn(3, 95, num_classes, generator=generator)
    return (logits.round() if ties else logits), Samples(labels, owner, 4)


def each(logits: torch.Tensor, samples: Samples, k: int, client: int) -> tuple[np.ndarray, np.ndarray]:
    own = samples.owner == client
    return logits[k, own].double().softmax(-1).numpy(), samples.labels[own].numpy()


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_those_of_scikit_learn_and_torchmetrics(num_classes: int, ties: bool) -> None:
    logits, samples = drawn(num_classes, ties)
    nll, ece = negative_log_likelihood(logits, samples), calibration_error(logits, samples)
    balanced, areas = balanced_accuracy(logits, samples), area_under_roc(logits, samples)
    for k in range(3):
        for client in (0, 2, 3):
            probabilities, labels = each(logits, samples, k, client)
            assert nll[k, client] == pytest.approx(log_loss(labels, probabilities, labels=range(num_classes)))
            expected = balanced_accuracy_score(labels, logits[k, samples.owner == client].argmax(-1))
            assert balanced[k, client] == pytest.approx(100 * expected)
            present = [1] if num_classes == 2 else np.unique(labels)
            expected = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present])
            assert areas[k, client] == pytest.approx(100 * expected)
            expected = multiclass_calibration_error(
                torch.tensor(probabilities), torch.tensor(labels), num_classes, n_bins=15
            )
            assert ece[k, client] == pytest.approx(100 * float(expected), abs=1e-4)
    for scores in (nll, ece, balanced, areas):
        assert scores[:, 1].isnan().all()


def test_calibration_worked_by_hand() -> None:
    # confidences 0.9 (right), 0.9 (wrong), 0.6 (right): |0.9 - 0.5| * 2/3 + |0.6 - 1| / 3
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    found = calibration_error(
        probabilities.log().unsqueeze(0), Samples(torch.tensor([0, 1, 0]), torch.zeros(3).long(), 1)
    )
    assert found.item() == pytest.approx(100 * (0.4 * 2 / 3 + 0.4 / 3))


def test_a_single_class_has_no_area() -> None:
    samples = Samples(torch.ones(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 1)
    assert area_under_roc(torch.randn(2, 4, 2), samples).isnan().all()


def test_the_temperature_minimizes_the_loss() -> None:
    logits = drawn(5)[0][:2, :40] * torch.tensor([3.0, 0.2]).view(2, 1, 1)
    labels = torch.where(torch.rand(2, 40, generator=torch.Generator().manual_seed(0)) < 0.7, logits.argmax(-1), 0)
    counted = torch.ones(2, 40, dtype=torch.bool)
    counted[1, 25:] = False
    found = temperatures(logits, labels, counted)

    def loss(k: int, temperature: float) -> float:
        chosen = counted[k]
        scaled = logits[k, chosen].double() / temperature
        return float(torch.nn.functional.cross_entropy(scaled, labels[k, chosen]))

    for k in range(2):
        best = loss(k, float(found[k]))
        assert best < loss(k, float(found[k]) * 1.01)
        assert best < loss(k, float(found[k]) / 1.01)
    assert temperatures(logits, labels, torch.zeros(2, 40, dtype=torch.bool)).tolist() == [1.0, 1.0]
