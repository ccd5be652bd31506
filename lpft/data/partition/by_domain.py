"""One client for each domain."""

from __future__ import annotations

import pandas as pd

from lpft.data.partition.base import Draw, Partition
from lpft.data.splits import SplitSettings


class ByDomain(Partition):
    """Every domain of the source is a client."""

    def assign(self, table: pd.DataFrame, settings: SplitSettings, draw: Draw) -> pd.DataFrame:
        """Use the domains as clients, including those without samples."""
        return table.assign(client=table["domain"])
