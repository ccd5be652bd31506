"""The base class of sources."""

from __future__ import annotations

import pandas as pd
import pytest

from lpft.data.sources.base import Source


@pytest.mark.parametrize(
    ("num_classes", "names", "expected"), [(5, ("a", "b", "c"), 5), (None, ("a", "b", "c"), 3), (None, (), 2)]
)
def test_the_number_of_classes_is_set_or_follows_from_names_or_labels(
    num_classes: int | None, names: tuple[str, ...], expected: int
) -> None:
    """The labels are 0 and 1."""

    class Labels(Source):
        def table(self) -> pd.DataFrame:
            return pd.DataFrame({"label": [0, 1, 0]})

    Labels.num_classes, Labels.class_names = num_classes, names
    assert Labels().count_classes() == expected
