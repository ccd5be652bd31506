"""The schedule of phases over epochs, and their learning rates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lpft.methods.base import Phase


class Schedule:
    """Maps epochs, counted from 0, to phases. It is stateless.

    Args:
        phases: the phases of a method; phases without epochs are left out.

    >>> schedule = Schedule([Phase(2, trains="head"), Phase(3)])
    >>> schedule.num_epochs, [schedule.number(epoch) for epoch in range(5)]
    (5, [0, 0, 1, 1, 1])
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = [phase for phase in phases if phase.epochs]
        self._ends = list(accumulate(phase.epochs for phase in self.phases))

    @property
    def num_epochs(self) -> int:
        """Number of epochs over all phases."""
        return self._ends[-1] if self._ends else 0

    def number(self, epoch: int) -> int:
        """Return the number of an epoch's phase, from 0; after the last epoch, that of the last phase."""
        return min(bisect_right(self._ends, epoch), len(self.phases) - 1)

    def phase(self, epoch: int) -> Phase:
        """Return the phase of an epoch."""
        return self.phases[self.number(epoch)]

    def begins(self, epoch: int) -> bool:
        """Whether an epoch is the first of its phase."""
        return epoch == 0 or epoch in self._ends

    def ends(self, epoch: int) -> bool:
        """Whether an epoch is the last of its phase."""
        return epoch + 1 in self._ends


class PhaseLR(LRScheduler):
    """Sets the learning rates of the groups ``head`` and ``body``, in this order, to those of the epoch's phase.

    Both get the rate of the phase or, if it has none, that of the optimizer. Frozen groups get 0, and the head's rate
    is multiplied by the phase's factor.

    Args:
        optimizer: an optimizer with these two groups.
        phases: the phases in order.
    """

    def __init__(self, optimizer: Optimizer, phases: Sequence[Phase]) -> None:
        self.schedule = Schedule(phases)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates of the epoch for both groups."""
        phase = self.schedule.phase(self.last_epoch)
        rate = phase.lr_factor * (self.base_lrs[0] if phase.lr is None else phase.lr)
        return [
            0.0 if phase.trains == "body" else phase.head_factor * rate,
            0.0 if phase.trains == "head" else rate,
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the phases, which belong to the method."""
        return {name: value for name, value in super().state_dict().items() if name != "schedule"}
