"""Heads fitted by logistic regression."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from lpft.methods.base import HeadData
from lpft.methods.heads import as_head
from lpft.types import State

STRENGTHS = np.logspace(-7, 2, 100)
"""Values of C, the inverse strength of regularization, from strong to weak."""
WITHOUT_VAL = 1.0
"""The value of C for clients without validation data: scikit-learn's default."""
MAX_ITER = 200


def logistic_head(like: State, data: HeadData) -> State:
    """Fit logistic regressions with 100 strengths of regularization; return the best on validation data.

    Features are normalized by a scalar mean and a scalar standard deviation. C runs over 100 values, log-spaced from
    1e-7 to 1e2; each fit starts from the previous one, with 200 iterations at most. Classes without training samples
    get zeros; with only two classes their rows are -w/2 and w/2.

    The reference does not specify the rest. Among equally accurate heads, which are frequent with few samples, the one
    with the smallest cross-entropy on validation data is chosen. A client without validation data gets C = 1, and a
    client with a single class of training samples keeps its head. This takes a few seconds per client.

    References:
        Kumar et al., arXiv:2202.10054, appendix; github.com/AnanyaKumar/transfer_learning.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features, labels = data.features.double().cpu().numpy(), data.labels.cpu().numpy()
    val_features, val_labels = data.val_features.double().cpu().numpy(), data.val_labels.cpu().numpy()
    if len(np.unique(labels)) < 2:
        return like
    has_bias = "bias" in like  # otherwise, a shift of the features could not be compensated
    shift, scale = float(features.mean()) * has_bias, float(features.std()) or 1.0
    model = LogisticRegression(warm_start=True, max_iter=MAX_ITER, fit_intercept=has_bias)
    best, best_score = like, (-1.0, 0.0)
    for strength in STRENGTHS if len(val_labels) else [WITHOUT_VAL]:
        model.C = float(strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as in the reference
            model.fit((features - shift) / scale, labels)
        weight, bias = _all_rows(model, len(like["weight"]))
        weight = weight / scale
        bias = bias - shift * weight.sum(1)
        score = _score(torch.from_numpy(val_features @ weight.T + bias), torch.from_numpy(val_labels))
        if score > best_score:
            best, best_score = as_head(like, {"weight": torch.tensor(weight), "bias": torch.tensor(bias)}), score
    return best


def _score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the accuracy and the negative cross-entropy: larger is better."""
    if not len(labels):
        return 0.0, 0.0
    accuracy = (logits.argmax(1) == labels).double().mean()
    return float(accuracy), -float(torch.nn.functional.cross_entropy(logits, labels))


def _all_rows(model: object, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of a fitted regression, with a row for each class."""
    coef, intercept, classes = model.coef_, model.intercept_, model.classes_  # type: ignore[attr-defined]
    if len(classes) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight, bias = np.zeros((num_classes, coef.shape[1])), np.zeros(num_classes)
    weight[classes], bias[classes] = coef, intercept
    return weight, bias
