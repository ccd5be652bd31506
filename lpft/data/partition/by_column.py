"""One client for each value of a column."""

from __future__ import annotations

import pandas as pd

from lpft.data.partition.base import Draw, Partition
from lpft.data.splits import SplitSettings


class ByColumn(Partition):
    """Every value of a column of the table, such as a hospital or a camera, is a client named after it.

    Args:
        column: name of the column; samples without a value are left out.
    """

    def __init__(self, column: str) -> None:
        self.column = column

    def assign(self, table: pd.DataFrame, settings: SplitSettings, draw: Draw) -> pd.DataFrame:
        """Name clients after the values, in their order."""
        if self.column not in table:
            raise ValueError(
                f"`clients`: there is no column `{self.column}`, but {', '.join(table.columns)}."
                " HINT: set `column` to one."
            )
        values = table[self.column].astype("category")
        return table.assign(client=values.cat.rename_categories(str))
