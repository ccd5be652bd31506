"""The metrics of the accuracy matrix, and nothing but the matrix.

``accuracy[i, j]`` is the accuracy in percent of client i's personalized model on client j's test set. A client without
test samples is a column of NaN, which every mean, minimum and standard deviation leaves out.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

MATRIX_METRICS = (
    "local",
    "global_all",
    "global_others",
    "cstd_row",
    "cstd_local",
    "worst_row",
    "worst_local",
    "worst_pair",
    "average3",
    "average2",
)


def client_metrics(accuracy: Matrix, ddof: int = 0) -> dict[str, NDArray[np.float64]]:
    """Describe every client's model: at home, everywhere, elsewhere.

    Args:
        accuracy: percent, shape ``(C, C)``; row = whose model, column = whose test set.
        ddof: delta degrees of freedom of the standard deviation over test sets.

    Returns:
        Arrays of shape ``(C,)``: ``local`` (own test set), ``global_all`` (mean over all test sets), ``global_others``
        (mean over the other clients' test sets), ``worst`` (minimum over the others) and ``cstd`` (standard deviation
        over all test sets). NaN where nothing is left to average, such as the others of a single client.

    >>> per_client = client_metrics(np.array([[90.0, 50.0], [70.0, 80.0]]))
    >>> {name: values.tolist() for name, values in per_client.items() if name != "cstd"}
    {'local': [90.0, 80.0], 'global_all': [70.0, 75.0], 'global_others': [50.0, 70.0], 'worst': [50.0, 70.0]}
    """
    accuracy = _checked(accuracy)
    others = np.where(np.eye(len(accuracy), dtype=bool), np.nan, accuracy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an empty mean is NaN, and meant to be
        return {
            "local": np.diagonal(accuracy).copy(),
            "global_all": np.nanmean(accuracy, axis=1),
            "global_others": np.nanmean(others, axis=1),
            "worst": np.nanmin(others, axis=1),
            "cstd": np.nanstd(accuracy, axis=1, ddof=ddof),
        }


def matrix_metrics(accuracy: Matrix, ddof: int = 0) -> dict[str, float]:
    """Sum up an accuracy matrix in the ten figures of `MATRIX_METRICS`.

    ``global_all``, ``cstd_row``, ``worst_row`` and ``average3`` follow the numbers of the paper's Table 2;
    ``global_others``, ``cstd_local``, ``worst_local`` and ``average2`` follow its text (the two do not agree).

    Args:
        accuracy: percent, shape ``(C, C)``; row = whose model, column = whose test set.
        ddof: delta degrees of freedom of both standard deviations.

    Returns:
        One figure per name in `MATRIX_METRICS`, in percent; NaN where it is not defined (a single client has no
        others, hence no ``global_others``, ``worst_row`` and ``average3``).

    References:
        Chen et al., arXiv:2511.12695, section 5 and Table 2.

    >>> figures = matrix_metrics(np.array([[90.0, 50.0], [70.0, 80.0]]))
    >>> figures["local"], figures["global_all"], figures["worst_row"], round(figures["average3"], 4)
    (85.0, 72.5, 60.0, 72.5)
    """
    accuracy = _checked(accuracy)
    per_client = client_metrics(accuracy, ddof)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        figures = {
            "local": np.nanmean(per_client["local"]),
            "global_all": np.nanmean(per_client["global_all"]),
            "global_others": np.nanmean(per_client["global_others"]),
            "cstd_row": np.nanmean(per_client["cstd"]),
            "cstd_local": np.nanstd(per_client["local"], ddof=ddof),
            "worst_row": np.nanmean(per_client["worst"]),
            "worst_local": np.nanmin(per_client["local"]),
            "worst_pair": np.nanmin(accuracy),
        }
    figures["average3"] = (figures["local"] + figures["global_all"] + figures["worst_row"]) / 3
    figures["average2"] = (figures["local"] + figures["global_all"]) / 2
    return {name: float(figures[name]) for name in MATRIX_METRICS}


def hurt_share(local: NDArray[np.float64], local_before: NDArray[np.float64]) -> float:
    """Return the share of clients, in ``[0, 1]``, whose local accuracy fell below the global model's.

    Args:
        local: every personalized model on its own client's test set, percent, ``(C,)``.
        local_before: the global model on the same test sets, percent, ``(C,)``.

    >>> hurt_share(np.array([90.0, 80.0, 70.0, np.nan]), np.array([90.0, 85.0, 60.0, np.nan]))
    0.3333333333333333
    """
    known = ~(np.isnan(local) | np.isnan(local_before))
    return float((local[known] < local_before[known]).mean()) if known.any() else float("nan")


def _checked(accuracy: Matrix) -> Matrix:
    accuracy = np.asarray(accuracy, dtype=np.float64)
    if accuracy.ndim != 2 or accuracy.shape[0] != accuracy.shape[1] or not len(accuracy):
        raise ValueError(
            f"The accuracy matrix has shape {accuracy.shape}, but needs one row and one column per client."
        )
    return accuracy
