"""Fine-tuning from the global head, scaled to the norm that linear probing gives it."""

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
    """Multiply the global head by the factor by which linear probing increases its norm, then fine-tune everything.

    A control for LP-FT: a larger head makes more confident predictions, so that the body gets smaller gradients. Does
    LP-FT only take smaller steps? Phase 1 is that of LP-FT, but only yields the ratio of the Frobenius norms of the
    head's weights after and before it. Phase 2 is that of LP-FT, but starts from the global model with weights and bias
    of the head multiplied by this factor. With ``lp_epochs: 0`` this is FT, bit for bit.

    Args:
        lp_epochs: epochs of phase 1.
        lpft: settings of `LPFT`: ``lp_lr``, ``lr``, ``epochs``, ``bn``, ``flood``; ``head_init`` has to be ``global``,
            and ``lp_solver`` ``sgd``.

    Raises:
        ValueError: if the initial head is not that of the global model, or phase 2 has no epochs.

    References:
        Not in Chen et al., arXiv:2511.12695; the control is ours.
    """

    def __init__(self, lp_epochs: NonNegativeInt = 5, **lpft: Any) -> None:
        super().__init__(lp_epochs=lp_epochs, **lpft)
        if self.starts_head:
            raise ValueError("`head_init` and `lp_solver` do not fit a scaled global head. HINT: leave them out.")

    def phases(self, budget: int) -> list[Phase]:
        """Return the phases of LP-FT; the second one starts from the global model."""
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
        """Compute the factor by which probing increased the norm of the head; 1 for a head of zeros."""
        if "factor" in memory or self.lp_epochs == 0:
            return memory
        before, after = (tensors["head.weight"].norm() for tensors in (global_params, params))
        return {"factor": torch.where(before > 0, after / before, 1.0)}
