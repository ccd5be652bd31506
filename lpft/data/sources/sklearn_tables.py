"""Tables that come with scikit-learn."""

from __future__ import annotations

import importlib
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from lpft.data.sources.base import categories
from lpft.data.sources.features import FeatureSource


class SklearnTable(FeatureSource):
    """One of the small tables that scikit-learn ships, no download; one domain, to be divided by a partition.

    - breast_cancer: 569 tumours, malignant or benign, by 30 features of cell nuclei in an image (Street et al., 1993);
    - digits: 1,797 handwritten digits by 64 block counts;
    - iris: 150 flowers of 3 kinds by 4 lengths;
    - wine: 178 wines of 3 growers by 13 chemical features.

    Args:
        name: name of the table.
    """

    one_domain = True

    def __init__(self, name: Literal["breast_cancer", "digits", "iris", "wine"]) -> None:
        self.name = name

    @cached_property
    def _loaded(self) -> Any:
        return getattr(importlib.import_module("sklearn.datasets"), f"load_{self.name}")()

    @property
    def feature_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the features in scikit-learn."""
        return tuple(map(str, self._loaded.feature_names))

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes in scikit-learn."""
        return tuple(map(str, self._loaded.target_names))

    def table(self) -> pd.DataFrame:
        """Return the labels."""
        domain = categories(["all"] * len(self._loaded.target), ["all"])
        return pd.DataFrame({"label": self._loaded.target.astype(np.int64), "domain": domain})

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the features of rows."""
        return np.asarray(self._loaded.data[positions], np.float32)
