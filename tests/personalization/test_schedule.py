from __future__ import annotations

import torch

from lpft.methods.base import Phase
from lpft.personalization.schedule import PhaseLR, Schedule

PHASES = [Phase(2, "head", lr=0.0123), Phase(1), Phase(1, lr_factor=0.5), Phase(1, lr=0.3, lr_factor=2.0)]


def optimizer() -> torch.optim.Optimizer:
    groups = [{"name": name, "params": [torch.nn.Parameter(torch.zeros(1))]} for name in ("head", "body")]
    return torch.optim.SGD(groups, lr=0.007)


def test_rates_are_those_of_the_phases_to_the_last_bit() -> None:
    made = optimizer()
    schedule, rates = PhaseLR(made, PHASES), []
    for _ in range(5):
        rates.append(tuple(group["lr"] for group in made.param_groups))
        made.step()
        schedule.step()
    assert rates == [(0.0123, 0.0), (0.0123, 0.0), (0.007, 0.007), (0.0035, 0.0035), (0.6, 0.6)]


def test_its_state_is_plain_and_restores_the_epoch() -> None:
    first, second = PhaseLR(optimizer(), PHASES), PhaseLR(made := optimizer(), PHASES)
    for _ in range(2):
        first.optimizer.step()
        first.step()
    assert all(not isinstance(value, Schedule) for value in first.state_dict().values())
    second.load_state_dict(first.state_dict())
    assert second.get_lr() == [0.007, 0.007]
    assert made.param_groups[0]["lr"] == 0.0123  # the optimizer restores its own


def test_phases_without_epochs_are_left_out() -> None:
    schedule = Schedule([Phase(0, "head"), Phase(2), Phase(0), Phase(1, "head")])
    assert schedule.num_epochs == 3
    assert [schedule.phase(epoch).name for epoch in range(3)] == ["FT", "FT", "LP"]
    assert [schedule.begins(epoch) for epoch in range(3)] == [True, False, True]
    assert [schedule.ends(epoch) for epoch in range(3)] == [False, True, True]
    assert Schedule([]).num_epochs == 0
