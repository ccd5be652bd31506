"""How long the rest of a run will take, as far as what has ended can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Pace:
    """How much is left of one kind of step, and how long such steps took.

    Args:
        kind: steps of the same kind take about the same time: a method's cells, say.
        left: number of steps that are left.
        seconds: of the steps that have ended.
        typical: whether steps of other kinds, none of which has ended, may take as long.
    """

    kind: str
    left: int
    seconds: Sequence[float]
    typical: bool = True


@dataclass(frozen=True)
class Outlook:
    """How long the rest takes.

    Args:
        rounds: of federated training.
        cells: of personalization and tuning; their times are those of one process.
        at_work: number of stacks that are worked on just now, by as many processes.
    """

    rounds: tuple[Pace, ...] = ()
    cells: tuple[Pace, ...] = ()
    at_work: int = 0

    def __add__(self, other: Outlook) -> Outlook:
        """Return the outlook for both together."""
        return Outlook(self.rounds + other.rounds, self.cells + other.cells, self.at_work + other.at_work)

    @property
    def seconds_of_rounds(self) -> float | None:
        """Seconds that the remaining rounds take; None if that is not known before the first has ended."""
        return _rest(self.rounds)

    @property
    def seconds_of_cells(self) -> float | None:
        """Seconds that the remaining cells take one process; None if that is not known yet."""
        return _rest(self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, with as many processes as work on stacks now, or one."""
        rounds, cells = self.seconds_of_rounds, self.seconds_of_cells
        return None if rounds is None or cells is None else rounds + cells / max(1, self.at_work)

    def to_json(self) -> dict[str, float | int | None]:
        """Return the figures."""
        names = ("seconds_left", "seconds_of_rounds", "seconds_of_cells", "at_work")
        return {name: getattr(self, name) for name in names}


def _rest(paces: Sequence[Pace]) -> float | None:
    """Return the seconds for all that is left; a kind of which nothing has ended takes as long as the slowest other."""
    ended: dict[str, list[float]] = {}
    for pace in paces:
        ended.setdefault(pace.kind, []).extend(pace.seconds)
    means = {kind: fmean(seconds) for kind, seconds in ended.items() if seconds}
    typical = [means[pace.kind] for pace in paces if pace.kind in means and pace.typical]
    total = 0.0
    for pace in paces:
        if pace.left:
            if pace.kind not in means and not typical:
                return None
            total += pace.left * means.get(pace.kind, max(typical, default=0.0))
    return total
