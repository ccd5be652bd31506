"""Fine-tuning from a head that is as large as linear probing makes it, but points where it did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt

from lpft.methods.base import Phase
from lpft.methods.lpft import LPFT
from lpft.types import State

HEAD = ("head.weight", "head.bias")


class ScaledHeadFT(LPFT):
    """Multiply the global head by the factor by which linear probing grows it, then fine-tune everything.

    A control for LP-FT: a larger head is surer of its predictions, so that smaller gradients reach the body. Is LP-FT
    no more than that smaller step? Phase 1 is LP-FT's; it yields the ratio of the Frobenius norms of the head's weights
    after and before, and nothing else. Phase 2 is LP-FT's, too, but starts from the global model with weights and bias
    of the head times that factor. With ``lp_epochs: 0`` it is FT, bit for bit.

    Args:
        lp_epochs: epochs of phase 1.
        lpft: the settings of `LPFT`: ``lp_lr``, ``lr``, ``epochs``, ``bn``, ``flood``; ``head_init: global`` and
            ``lp_solver: sgd`` are the only ones that fit.

    Raises:
        ValueError: if the head is not the global model's at first, or no epoch is left for phase 2.

    References:
        Not in Chen et al., arXiv:2511.12695; the control is ours.
    """

    def __init__(self, lp_epochs: NonNegativeInt = 5, **lpft: Any) -> None:
        super().__init__(lp_epochs=lp_epochs, **lpft)
        if self.starts_head:
            raise ValueError("`head_init` and `lp_solver` do not fit a scaled global head. HINT: leave them out.")

    def phases(self, budget: int) -> list[Phase]:
        """Return LP-FT's phases, the second one from the global model."""
        phases = [replace(phase, restart=phase.trains == "all") for phase in super().phases(budget)]
        if phases[-1].trains == "head":
            raise ValueError(
                f"`lp_epochs={self.lp_epochs}` leaves no epoch for fine-tuning. HINT: set it below {phases[-1].epochs}."
            )
        return phases

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        """Scale the head."""
        if "factor" in memory:
            params = {name: p * memory["factor"] if name in HEAD else p for name, p in params.items()}
        return params, memory

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Measure how much probing grew the head; 1 for a head of zeros, which has no direction to grow in."""
        if "factor" in memory or self.lp_epochs == 0:
            return memory
        before, after = (tensors["head.weight"].norm() for tensors in (global_params, params))
        return {"factor": torch.where(before > 0, after / before, 1.0)}
