from __future__ import annotations

import matplotlib as mpl
import pytest

from lpft.reporting.drawing import legend_below, one_plot, to_svg
from lpft.reporting.style import COLORS, RC, looks

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


@pytest.mark.parametrize("entries", [3, 18])
@pytest.mark.parametrize("name", ["ft", "a method with a long name"])
def test_a_legend_has_room_below_its_plot(entries: int, name: str) -> None:
    with mpl.rc_context(RC):
        figure, axes = one_plot(2.5)
        for number in range(entries):
            axes.plot([0], [number], label=f"{name} {number}"[:24])
        axes.set_xlabel("x")
        legend_below(figure)
        figure.draw_without_rendering()
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= axes.get_tightbbox().y0
    assert axes.bbox.height > 0.6 * 2.5 * figure.dpi


def test_more_methods_than_colours_have_different_markers() -> None:
    methods = [f"m{number}" for number in range(40)]
    found = looks(methods, {})
    assert len({(look.color, look.marker) for look in found.values()}) == 40


def test_a_figure_needs_no_names_for_a_legend_and_must_be_a_figure() -> None:
    drawn, axes = one_plot(height=2)
    axes.plot([1, 2])
    legend_below(drawn)
    assert not drawn.legends
    assert to_svg("own", lambda: drawn)
    with pytest.raises(TypeError, match=r"`own` .* Axes"):
        to_svg("own", lambda: axes)  # type: ignore[arg-type, return-value]
