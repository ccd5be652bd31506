"""How long the rest of a run takes, estimated from what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Pace:
    """How many steps of one kind are left, and how long finished ones took.

    Args:
        kind: steps of the same kind take about the same time: a method's client results, say.
        left: number of steps that are left.
        seconds: of the finished steps.
        typical: whether steps of other kinds, none of which is finished, may take as long.
    """

    kind: str
    left: int
    seconds: Sequence[float]
    typical: bool = True


@dataclass(frozen=True)
class Eta:
    """How long the rest takes.

    Args:
        rounds: of federated training.
        cells: client results of personalization and tuning; their times are those of one process.
        at_work: number of stacks in progress, by as many processes.
    """

    rounds: tuple[Pace, ...] = ()
    cells: tuple[Pace, ...] = ()
    at_work: int = 0

    def __add__(self, other: Eta) -> Eta:
        """Return the estimate for both together."""
        return Eta(self.rounds + other.rounds, self.cells + other.cells, self.at_work + other.at_work)

    @property
    def seconds_of_rounds(self) -> float | None:
        """Seconds that the remaining rounds take; None if no round is finished."""
        return _rest(self.rounds)

    @property
    def seconds_of_cells(self) -> float | None:
        """Seconds that the remaining client results take one process; None if unknown."""
        return _rest(self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, with as many processes as work on stacks now, or one."""
        rounds, cells = self.seconds_of_rounds, self.seconds_of_cells
        return None if rounds is None or cells is None else rounds + cells / max(1, self.at_work)

    def to_json(self) -> dict[str, float | int | None]:
        """Return the numbers."""
        names = ("seconds_left", "seconds_of_rounds", "seconds_of_cells", "at_work")
        return {name: getattr(self, name) for name in names}


def _rest(paces: Sequence[Pace]) -> float | None:
    """Return the seconds for all that is left; a kind without finished steps takes as long as the slowest other."""
    finished: dict[str, list[float]] = {}
    for pace in paces:
        finished.setdefault(pace.kind, []).extend(pace.seconds)
    means = {kind: fmean(seconds) for kind, seconds in finished.items() if seconds}
    typical = [means[pace.kind] for pace in paces if pace.kind in means and pace.typical]
    total = 0.0
    for pace in paces:
        if pace.left:
            if pace.kind not in means and not typical:
                return None
            total += pace.left * means.get(pace.kind, max(typical, default=0.0))
    return total
