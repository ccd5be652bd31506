from __future__ import annotations

import pytest

from lpft.methods.base import Phase
from lpft.methods.ft import FT, NoFineTuning
from lpft.methods.lpft import LPFT


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
