from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from lpft.reporting.style import COLORS, looks, room_for_legend

BASES = ("lp", "ft_short", "ft_early", "ft", "prox", "sparse", "soup", "lss", "lpft")


def config(*tuned: str) -> dict[str, object]:
    return {"provenance": {"tuned": {name: {} for name in tuned}}}


def brightness(color: str) -> int:
    return sum(int(color[place : place + 2], 16) for place in (1, 3, 5))


def test_a_tuned_method_is_drawn_like_its_own_untuned_one_only_darker() -> None:
    tuned = [f"{name}_tuned" for name in BASES]
    methods = ["none", *BASES, *tuned]
    look = looks(methods, config(*tuned))
    assert len({(own.color, own.marker) for own in look.values()}) == len(methods)
    for name in BASES:
        assert look[f"{name}_tuned"].marker == look[name].marker
        assert brightness(look[f"{name}_tuned"].color) < 0.7 * brightness(look[name].color)
        assert look[f"{name}_tuned"].family == f"{name}_tuned"
    assert [look[name].color for name in BASES] == list(COLORS[: len(BASES)])


def test_a_tuned_method_without_the_untuned_one_is_a_method_like_others() -> None:
    look = looks(["lp", "ft_tuned"], config("ft_tuned"))
    assert [own.color for own in look.values()] == list(COLORS[:2])


@pytest.mark.parametrize(("entries", "height"), [(3, 2.2), (18, 18 * 0.21 + 0.3)])
def test_a_figure_is_as_high_as_its_legend(entries: int, height: float) -> None:
    assert room_for_legend(2.2, entries) == pytest.approx(height)
    figure = Figure(figsize=(7.4, room_for_legend(2.2, entries)), layout="constrained", dpi=72)
    axes = figure.subplots()
    for number in range(entries):
        axes.plot([0], [number], label=f"method {number}")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9.5, frameon=False)
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= 72 * room_for_legend(2.2, entries)


def test_more_methods_than_colours_are_told_apart_by_their_markers() -> None:
    methods = [f"m{number}" for number in range(40)]
    found = looks(methods, {})
    assert len({(look.color, look.marker) for look in found.values()}) == 40
