from __future__ import annotations

from typing import Any

import pytest

from lpft.methods.base import Phase, check_phases, check_type_of_phases
from lpft.methods.ft import FT, NoFineTuning
from lpft.methods.lpft import LPFT
from tests.toy import toy_net


def test_the_budget_is_divided() -> None:
    assert NoFineTuning().phases(15) == []
    assert FT().phases(15) == [Phase(15)]
    assert FT(epochs=10).phases(15) == [Phase(10)]
    assert LPFT(lp_epochs=5).phases(15) == [Phase(5, "head", 1e-2), Phase(10)]
    assert LPFT(lp_epochs=None).phases(15) == [Phase(15, "head", 1e-2)]
    assert LPFT(lp_epochs=15).phases(15) == LPFT(lp_epochs=None).phases(15)
    assert LPFT(lp_epochs=0).phases(15) == FT().phases(15)
    assert LPFT(epochs=5, lp_epochs=2).phases(15) == [Phase(2, "head", 1e-2), Phase(3)]
    assert LPFT(epochs=5, lp_epochs=None).phases(15) == [Phase(5, "head", 1e-2)]
    assert LPFT(epochs=5, lp_epochs=0).phases(15) == FT(epochs=5).phases(15)


@pytest.mark.parametrize(
    ("method", "name"),
    [(FT(epochs=16), "epochs=16"), (LPFT(epochs=16), "epochs=16"), (LPFT(lp_epochs=16), "lp_epochs=16")],
)
def test_more_than_the_budget_is_refused_with_the_fix(method: FT | LPFT, name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}`.*`personalization.epochs=15`.*HINT"):
        method.phases(15)


def test_more_probing_than_the_methods_own_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`lp_epochs=5`.*`epochs=3`.*HINT"):
        LPFT(epochs=3).phases(15)


@pytest.mark.parametrize("phase", [{"epochs": 1.5}, {"epochs": -1}, {"trains": "heads"}, {"bn": "evaluate"}])
def test_a_phase_that_cannot_be_trained_is_refused(phase: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(phase))):
        Phase(**{"epochs": 1, **phase})


@pytest.mark.parametrize("phases", [None, Phase(1), [1]])
def test_phases_are_a_list_of_phases(phases: object) -> None:
    method = type("Own", (FT,), {"phases": lambda self, budget: phases})()
    with pytest.raises(ValueError, match="`phases` returned"):
        check_type_of_phases(method, 15)


def test_the_extended_network_is_returned() -> None:
    method = type("Own", (FT,), {"extend": lambda self, net, generator: None})()
    with pytest.raises(ValueError, match=r"`own`: `extend` returned .* NoneType"):
        check_phases("own", method, toy_net(), 15)
