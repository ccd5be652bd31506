from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor

from lpft.methods import logistic_head as logistic
from lpft.methods.base import HeadData
from lpft.methods.heads import least_squares_head, random_head, zero_head
from lpft.methods.logistic_head import STRENGTHS, logistic_head
from lpft.types import State


def head(num_classes: int = 4, width: int = 3, bias: bool = True) -> State:
    one = {"weight": torch.ones(num_classes, width, dtype=torch.float64)}
    return {**one, "bias": torch.ones(num_classes, dtype=torch.float64)} if bias else one


def blobs(classes: list[int], num_val: int = 12, width: int = 3, spread: float = 0.8) -> HeadData:
    """Overlapping clouds around different corners."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(classes).repeat(10)
    centres = torch.randn(8, width, generator=generator, dtype=torch.float64) * 2 + 5
    x = centres[labels] + spread * torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    val = torch.randint(0, len(labels), (num_val,), generator=generator)
    noise = spread * torch.randn(num_val, width, generator=generator, dtype=torch.float64)
    return HeadData(x, labels, centres[labels[val]] + noise, labels[val], labels.bincount(), labels.bincount())


def logits(of: State, features: Tensor) -> Tensor:
    return features @ of["weight"].T + of.get("bias", 0)


def test_least_squares_by_hand() -> None:
    """Features -1, 1, and classes 0, 1: class 1 is (1 + x)/2, class 0 is (1 - x)/2, and the others are 0."""
    labels, nothing = torch.tensor([0, 1]), torch.zeros(0).long()
    counts = labels.bincount()
    data = HeadData(torch.tensor([[-1.0], [1.0]]), labels, torch.zeros(0, 1), nothing, counts, counts)
    solved = least_squares_head(head(width=1), data)
    torch.testing.assert_close(solved["weight"][:, 0], torch.tensor([-0.5, 0.5, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(solved["bias"], torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [3, 60])  # more features than samples: the solution with the smallest norm
def test_least_squares_equals_scikit_learn(bias: bool, width: int) -> None:
    data = blobs([0, 1, 3], width=width)
    reference = LinearRegression(fit_intercept=bias).fit(data.features.numpy(), np.eye(4)[data.labels.numpy()])
    solved = least_squares_head(head(width=width, bias=bias), data)
    np.testing.assert_allclose(solved["weight"], reference.coef_, atol=1e-9)
    if bias:
        np.testing.assert_allclose(solved["bias"], reference.intercept_, atol=1e-9)


def test_logistic_regression_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one strength: probabilities of the folded head are those of the pipeline on normalized features."""
    monkeypatch.setattr(logistic, "STRENGTHS", np.array([0.1]))
    data = blobs([0, 1, 3])
    x = data.features.numpy()
    reference = LogisticRegression(C=0.1, max_iter=200).fit((x - x.mean()) / x.std(), data.labels.numpy())
    solved = logits(logistic_head(head(), data), data.features)
    torch.testing.assert_close(
        solved[:, [0, 1, 3]].softmax(1), torch.tensor(reference.predict_proba((x - x.mean()) / x.std()))
    )
    assert torch.equal(solved[:, 2], torch.zeros(len(x), dtype=torch.float64))  # a class that is missing


def test_two_classes_become_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "STRENGTHS", np.array([0.1]))
    data = blobs([1, 3])
    x = data.features.numpy()
    reference = LogisticRegression(C=0.1, max_iter=200).fit((x - x.mean()) / x.std(), data.labels.numpy())
    solved = logistic_head(head(), data)
    torch.testing.assert_close(solved["weight"][1], -solved["weight"][3])
    assert not solved["weight"][[0, 2]].any()
    torch.testing.assert_close(
        logits(solved, data.features)[:, [1, 3]].softmax(1),
        torch.tensor(reference.predict_proba((x - x.mean()) / x.std())),
    )


def test_the_strength_is_chosen_on_validation_data() -> None:
    """By reference, without warm starts: none of the 100 does clearly better there."""
    assert len(STRENGTHS) == 100
    assert STRENGTHS[[0, -1]] == pytest.approx([1e-7, 1e2])
    data = blobs([0, 1, 2, 3], num_val=200, spread=2.0)  # so that strengths matter
    x, scaled = data.features.numpy(), data.val_features.numpy()
    scaled = (scaled - x.mean()) / x.std()
    chosen = (logits(logistic_head(head(), data), data.val_features).argmax(1) == data.val_labels).double().mean()
    x = (x - x.mean()) / x.std()
    scores = [
        LogisticRegression(C=c, max_iter=200).fit(x, data.labels.numpy()).score(scaled, data.val_labels.numpy())
        for c in STRENGTHS[::9]
    ]
    assert chosen >= max(scores) - 0.01
    assert chosen > min(scores) + 0.02


def test_of_equally_accurate_heads_the_surest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strongest regularization separates these clouds, too, but leaves all classes about equally likely."""
    data = blobs([0, 1, 2, 3], spread=0.01)
    monkeypatch.setattr(logistic, "STRENGTHS", np.array([1e-3, 1.0]))
    assert torch.equal(logits(logistic_head(head(), data), data.val_features).argmax(1), data.val_labels)
    both = logistic_head(head(), data)
    monkeypatch.setattr(logistic, "STRENGTHS", np.array([1e-3]))
    assert logistic_head(head(), data)["weight"].norm() < 0.1 * both["weight"].norm()


def test_without_validation_data_the_strength_is_one() -> None:
    data = blobs([0, 1, 3], num_val=0)
    x = data.features.numpy()
    reference = LogisticRegression(C=1.0, max_iter=200).fit((x - x.mean()) / x.std(), data.labels.numpy())
    solved = logistic_head(head(), data)
    np.testing.assert_allclose(solved["weight"][[0, 1, 3]], reference.coef_ / x.std(), atol=1e-6)


def test_a_single_class_leaves_the_head() -> None:
    assert torch.equal(logistic_head(head(), blobs([2]))["weight"], head()["weight"])


def test_random_heads_are_as_those_of_a_linear_layer() -> None:
    drawn = random_head(head(100, 16), torch.Generator().manual_seed(0))
    assert set(drawn) == {"weight", "bias"}
    assert float(drawn["weight"].abs().max()) == pytest.approx(0.25, abs=0.01)
    assert float(drawn["weight"].std()) == pytest.approx(0.25 / 3**0.5, abs=0.01)
    assert drawn["weight"].dtype == torch.float64
    assert not any(t.any() for t in zero_head(head()).values())
