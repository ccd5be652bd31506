"""Fine-tuning with a higher learning rate for the head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jsonargparse.typing import PositiveFloat

from lpft.methods.base import Phase
from lpft.methods.ft import FT


class FastHeadFT(FT):
    """Fine-tuning whose head has a higher learning rate than the body.

    A control for LP-FT: are two phases necessary, or is it sufficient that the head moves faster? With ``factor: 1``
    this is FT, bit for bit.

    Args:
        factor: the head's learning rate divided by the body's, which is ``lr``.
        ft: settings of `FT`: ``epochs``, ``lr``, ``bn``, ``flood``.

    References:
        Not in Chen et al., arXiv:2511.12695; the control is ours. The factor is that of the default rates of LP-FT's
        two phases.
    """

    def __init__(self, factor: PositiveFloat = 10.0, **ft: Any) -> None:
        super().__init__(**ft)
        self.factor = factor

    def phases(self, budget: int) -> list[Phase]:
        """Return FT's phase with a faster head."""
        return [replace(phase, head_factor=self.factor) for phase in super().phases(budget)]
