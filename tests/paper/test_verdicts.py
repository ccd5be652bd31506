"""Verdicts on made-up results, by numbers worked out by hand (see `make_point`: Global and Average are the same)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from fabricate import make_point

from lpft.reporting.judging import Judged, judge, load_verdict, load_verdicts, write_verdicts
from lpft.reporting.sweeps import Point
from lpft.paper.verdicts import best, depth, distortion, extremes, flooding, overfitting, plateau, probing, repairs
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run


def lp_epochs(averages: dict[int | None, Sequence[float]]) -> Point:
    """Return a point with LP-FT swept over durations that have these Averages, one per seed."""
    rows = {f"lpft+lp_epochs={d}": [(x, x) for x in means] for d, means in averages.items()}
    variants = {f"lpft+lp_epochs={d}": {"method": "lpft", "values": {"methods.lpft.lp_epochs": d}} for d in averages}
    return make_point({"none": [(50.0, 50.0)], **rows}, variants=variants)


# depth


def test_layers_are_compared_seed_by_seed() -> None:
    """LP-FT minus FT: first -0.1 in both seeds; second +0.2 and -0.1, told by no more than its spread; third +0.1."""
    ft = [{"first": 0.2, "second": 0.4, "third": 0.8}, {"first": 0.3, "second": 0.5, "third": 0.9}]
    lpft = [{"first": 0.1, "second": 0.6, "third": 0.9}, {"first": 0.2, "second": 0.4, "third": 1.0}]
    accuracies = {name: [(50.0, 50.0)] * 2 for name in ("lp", "ft", "lpft")}
    first, *details = depth([make_point(accuracies, depths={"ft": ft, "lpft": lpft})])
    assert first.startswith("LP-FT moves 1 of 3 layers less than FT, 1 more (third). Rule:")
    assert details == [
        "ft: first 0.250 ± 0.050, second 0.450 ± 0.050, third 0.850 ± 0.050.",
        "lpft: first 0.150 ± 0.050, second 0.500 ± 0.100, third 0.950 ± 0.050.",
    ]


def test_of_many_layers_the_extremes_are_told() -> None:
    layers = {f"layer{n}": n / 10 for n in (3, 1, 2, 4, 9, 5, 6, 7, 8)}
    first, detail = depth([make_point({"ft": [(50.0, 50.0)]}, depths={"ft": [layers]})])
    assert first.startswith("LP-FT cannot be held against FT: no seed has both. Rule:")
    assert (
        "least, most and last of 9 layers: layer1 0.100; layer9 0.900; layer8 0.800; rank correlation with depth +0.78"
        in detail
    )


def test_one_seed_and_frozen_bodies_say_little() -> None:
    one = {"ft": [{"a": 0.2}], "lpft": [{"a": 0.1}]}
    first, *_ = depth([make_point({"ft": [(50.0, 50.0)], "lpft": [(50.0, 50.0)]}, depths=one)])
    assert first.startswith("LP-FT moves 0 of 1 layer less than FT, none more; one seed: no spread to judge by. Rule:")
    assert depth([make_point({"lp": [(50.0, 50.0)]})])[0].startswith("Layers cannot be judged: it is not recorded")


def test_layers_of_swept_methods_are_compared_over_the_seeds_that_both_have() -> None:
    """FT has seeds 0 and 1, LP-FT's variants seed 0 alone: means 0.15 against 0.2 there."""
    variants = {f"lpft+lr={x}": {"method": "lpft", "values": {"methods.lpft.lr": x}} for x in (1, 2)}
    depths = {"ft": [{"a": 0.2}, {"a": 0.3}], "lpft+lr=1": [{"a": 0.1}], "lpft+lr=2": [{"a": 0.2}]}
    accuracies = {name: [(50.0, 50.0)] * len(found) for name, found in depths.items()}
    first, *_ = depth([make_point(accuracies, depths=depths, variants=variants)])
    assert first.startswith("LP-FT moves 0 of 1 layer less than FT, none more; one seed: no spread to judge by.")


# probing


def test_methods_with_probing_are_held_against_those_without() -> None:
    """Global 60 and 62 against 50 and 52: +10 in both seeds; with LoRA 50 and 51 against 50 and 52, -0.5 +- 0.5."""
    with_it = {"lpft": [(60.0, 60.0), (62.0, 62.0)], "lp_lora": [(50.0, 50.0), (51.0, 51.0)]}
    without = {"ft": [(50.0, 50.0), (52.0, 52.0)], "lora": [(50.0, 50.0), (52.0, 52.0)]}
    point = make_point({**without, **with_it, "lp": [(70.0, 70.0)] * 2}, distortions={"ft": 2.0, "lpft": 1.5})
    first, *details = probing([point])
    assert first.startswith("Probing first helps in 1, hurts in 0 of 2 pairs. Rule:")
    assert details == [
        "lpft minus ft: Global +10.0 ± 0.0 (ahead), Local +10.0 ± 0.0, distortion -0.50 ± 0.00.",
        "lp_lora minus lora: Global -0.5 ± 0.5 (within one standard deviation), Local -0.5 ± 0.5, distortion"
        " +0.00 ± 0.00.",
    ]


def test_without_pairs_probing_is_not_judged() -> None:
    assert probing([make_point({"lp": [(50.0, 50.0)]})])[0].startswith("Probing cannot be judged")


# overfitting


def test_global_falls_while_local_stays_is_overfitting() -> None:
    """Global 60 at epoch 5 ends at 58.9 (-1.1), Local 70 at epoch 1 ends at 69.1 (-0.9)."""
    curve = [(0, 50.0, 50.0, 0.0), (1, 70.0, 55.0, 0.1), (5, 70.0, 60.0, 0.2), (15, 69.1, 58.9, 0.3)]
    first, detail = overfitting([make_point({"ft": [(69.1, 48.7)]}, curves={"ft": curve})])
    assert first.startswith("Personalized overfitting in 1 of 1 setting. Rule:")
    assert detail == "yes: ft (Global -1.1 since epoch 5, Local -0.9 since epoch 1)."


@pytest.mark.parametrize(("local", "other"), [(69.1, 49.1), (68.9, 48.7)], ids=["Global -0.9", "Local -1.1"])
def test_a_small_fall_or_a_loss_at_home_is_no_overfitting(local: float, other: float) -> None:
    curve = [(0, 50.0, 50.0, 0.0), (1, 70.0, 55.0, 0.1), (5, 70.0, 60.0, 0.2), (15, local, (local + other) / 2, 0.3)]
    first, detail = overfitting([make_point({"ft": [(local, other)]}, curves={"ft": curve})])
    assert first.startswith("Personalized overfitting in 0 of 1 setting")
    assert detail.startswith("no: ft (")


def test_the_global_model_counts_as_epoch_0_and_what_is_kept_as_the_end() -> None:
    """Epoch 15 lost 30 points, but what the clients keep is theta_G: no overfitting. FT itself lost 5 since epoch 0."""
    curve = [(0, 50.0, 50.0, 0.0), (1, 50.0, 48.0, 0.1), (15, 90.0, 20.0, 9.0)]
    ft = [(0, 50.0, 50.0, 0.0), (1, 60.0, 49.0, 0.1), (15, 60.0, 45.0, 9.0)]
    point = make_point({"early": [(50.0, 50.0)], "ft": [(60.0, 30.0)]}, curves={"early": curve, "ft": ft})
    _, detail = overfitting([point])
    assert "yes: ft (Global -5.0 since epoch 0, Local +0.0 since epoch 1)" in detail
    assert "no: early (Global +0.0 since epoch 0, Local +0.0 since epoch 1)" in detail


def test_overfitting_is_told_by_setting_and_by_point_and_needs_epochs() -> None:
    curve = [(0, 50.0, 50.0, 0.0), (3, 70.0, 50.0, 0.1), (15, 80.0, 40.0, 1.0)]
    calm = [(0, 50.0, 50.0, 0.0), (3, 70.0, 51.0, 0.1), (15, 80.0, 51.0, 1.0)]
    variants = {f"ft+lr={x}": {"method": "ft", "values": {"methods.ft.lr": x}} for x in (0.1, 0.01)}
    rows = {"ft+lr=0.1": [(80.0, 0.0)] * 2, "ft+lr=0.01": [(80.0, 22.0)] * 2}
    curves = {"ft+lr=0.1": curve, "ft+lr=0.01": calm}
    point = make_point(rows, curves=curves, variants=variants, values={"data.shift": 0.5})
    _, detail = overfitting([point])
    assert detail.startswith(
        "shift=0.5: ft: yes: lr=0.1 (Global -10.0 since epoch 0, Local +10.0 since epoch 3, 2 of 2"
    )
    assert "; no: lr=0.01 (" in detail
    (line,) = overfitting([make_point({"ft": [(80.0, 0.0)]})])
    assert "cannot be judged: no epochs were evaluated" in line


# plateau


def test_plateau_is_what_is_within_half_a_point_of_the_best() -> None:
    """Best is 80 at 5; 79.5 is within, 79.4 is not. `lp_epochs: null` is the budget of 15."""
    point = lp_epochs({0: [70.0], 3: [79.5], 5: [80.0], 8: [79.6], 12: [79.4], None: [60.0]})
    (line,) = plateau([point])
    assert "the best Average is 80.0 at lp_epochs=5; plateau: 3, 5, 8; too short: 0; beyond it: 12, 15" in line
    assert "0: 70.0, 3: 79.5, 5: 80.0, 8: 79.6, 12: 79.4, 15: 60.0" in line
    assert "Rule: the plateau is every duration within 0.5 points" in line
    assert "spread over seeds" not in line


def test_no_duration_is_too_short_where_none_helps_and_chance_is_named() -> None:
    """At 0 the two seeds are 79 and 81: their standard deviation is 1."""
    (line,) = plateau([lp_epochs({0: [79.0, 81.0], 5: [70.0, 70.0]})])
    assert "80.0 ± 1.0 at lp_epochs=0; plateau: 0; too short: none; beyond it: 5" in line
    assert "the spread over seeds (1.0) is more than the plateau's width" in line


def test_durations_are_compared_at_equal_other_settings_or_not_at_all() -> None:
    variants = {
        f"lpft+lp_epochs={d}+lr={x}": {"method": "lpft", "values": {"methods.lpft.lp_epochs": d, "methods.lpft.lr": x}}
        for d in (0, 5)
        for x in (1, 2)
    }
    rows = {name: [(10.0 * number, 10.0 * number)] for number, name in enumerate(variants)}
    _, one, two = plateau([make_point(rows, variants=variants)])
    assert one.startswith("lpft (lr=1): ")
    assert "0: 0.0, 5: 20.0" in one
    assert "0: 10.0, 5: 30.0" in two
    assert plateau([make_point({"lpft": [(1.0, 1.0)]})])[0].startswith("Durations of linear probing cannot be compared")


# distortion


def test_distortion_goes_with_the_loss() -> None:
    """(1, 10) and (2, 20) of FT, (0.5, 5) and (1, 8) of LP-FT, twice each: nearly a line; LP-FT ends at 1, FT at 2."""
    ft = [(0, 50.0, 50.0, 0.0), (7, 60.0, 40.0, 1.0), (15, 60.0, 30.0, 2.0)]
    lpft = [(0, 50.0, 50.0, 0.0), (7, 60.0, 45.0, 0.5), (15, 60.0, 42.0, 1.0)]
    point = make_point(
        {"ft": [(60.0, 0.0)], "lpft": [(60.0, 24.0)]},
        curves={"ft": ft, "lpft": lpft},
        distortions={"ft": 2.0, "lpft": 1.0},
    )
    (line,) = distortion([point])
    assert line.startswith("Features that move go with lost global accuracy: yes. all: Pearson +0.99, Spearman +0.95")
    assert "ft: Pearson +1.00, Spearman +1.00 over 4 points" in line
    assert "LP-FT moves them less than FT: yes (mean distortion 1.000 against 2.000)" in line


def test_distortion_that_does_not_go_with_the_loss() -> None:
    """The more the features move, the less is lost, (1, 20), (2, 10), (3, 5); and LP-FT moves them more.

    Pearson: -15 / sqrt(2 * 116.7) = -0.98.
    """
    ft = [(0, 50.0, 50.0, 0.0), (7, 60.0, 30.0, 1.0), (15, 60.0, 40.0, 2.0)]
    lpft = [(0, 50.0, 50.0, 0.0), (15, 60.0, 45.0, 3.0)]
    point = make_point(
        {"ft": [(60.0, 20.0)], "lpft": [(60.0, 30.0)]},
        curves={"ft": ft, "lpft": lpft},
        distortions={"ft": 2.0, "lpft": 3.0},
    )
    (line,) = distortion([point])
    assert "lost global accuracy: no. all: Pearson -0.98, Spearman -1.00 over 6 points" in line
    assert "lpft: no correlation can be told from 2 points" in line
    assert "LP-FT moves them less than FT: no (mean distortion 3.000 against 2.000)" in line


def test_distortion_without_epochs_uses_the_end_and_needs_both_methods() -> None:
    """Global is 50 before; FT ends at 40 after moving 2, LP-FT at 45 after moving 1."""
    point = make_point({"ft": [(60.0, 20.0)], "lpft": [(60.0, 30.0)]}, distortions={"ft": 2.0, "lpft": 1.0})
    assert "all: Pearson +1.00, Spearman +1.00 over 4 points" in distortion([point])[0]
    assert "cannot be judged without" in distortion([make_point({"ft": [(60.0, 20.0)]})])[0]


def test_distortion_of_swept_settings_is_averaged_within_a_seed() -> None:
    """Settings of FT that move features by 1 and 3 are 2 for the one seed there is: no spread."""
    names = {"ft+lr=1": 1.0, "ft+lr=2": 3.0}
    variants = {name: {"method": "ft", "values": {"methods.ft.lr": x}} for name, x in names.items()}
    rows = {"ft+lr=1": [(60.0, 30.0)], "ft+lr=2": [(60.0, 20.0)], "lpft": [(60.0, 30.0)]}
    (line,) = distortion([make_point(rows, distortions={**names, "lpft": 0.5}, variants=variants)])
    assert "(mean distortion 0.500 against 2.000)" in line
    assert "ft: Pearson +1.00, Spearman +1.00 over 4 points" in line


# flooding


def flooded(level: float, ft: Sequence[float], lpft: Sequence[float], losses: tuple[float, float]) -> Point:
    names = {name: f"{name}+flood={level}" for name in ("ft", "lpft")}
    return make_point(
        {names["ft"]: [(x, x) for x in ft], names["lpft"]: [(x, x) for x in lpft]},
        losses={names["ft"]: losses[0], names["lpft"]: losses[1]},
        methods={full: {"init_args": {"flood": level}} for full in names.values()},
        variants={full: {"method": m, "values": {f"methods.{m}.flood": level}} for m, full in names.items()},
    )


def test_lpft_is_ahead_at_the_same_loss() -> None:
    """Differences 2 and 4: 3 ± 1. Losses 0.45 and 0.6 are within 20% of 0.5."""
    first, detail = flooding([flooded(0.5, [50.0, 50.0], [52.0, 54.0], (0.45, 0.6))])
    assert first.startswith("LP-FT is ahead at 1 of 1 matched level (1 in all)")
    assert detail == "b = 0.5: +3.0 ± 1.0 (ahead); training loss ft 0.45, lpft 0.6: matched."


@pytest.mark.parametrize(
    ("lpft", "losses", "words"),
    [
        ([52.0, 54.0], (0.39, 0.5), ["No level was matched", "ft 0.39, lpft 0.5: not matched"]),
        ([49.0, 52.0], (0.5, 0.5), ["ahead at 0 of 1", "+0.5 ± 1.5 (within one standard deviation)"]),
        ([48.0, 49.0], (0.5, 0.5), ["ahead at 0 of 1", "-1.5 ± 0.5 (behind)"]),
        ([54.0], (0.5, 0.5), ["ahead at 0 of 1", "+4.0 (one seed"]),
    ],
)
def test_lpft_is_not_ahead(lpft: Sequence[float], losses: tuple[float, float], words: Sequence[str]) -> None:
    told = " ".join(flooding([flooded(0.5, [50.0, 50.0][: len(lpft)], lpft, losses)]))
    assert all(word in told for word in words), told
    assert "no flood level in common" in flooding([make_point({"ft": [(1.0, 1.0)]})])[0]


# extremes


def test_nothing_is_remembered_and_lpft_is_no_better() -> None:
    """Ten classes: near chance is up to 10 + 9 = 19%. LP-FT minus FT in Global: (0.5, -0.5), hence 0 ± 0.5."""
    collapsed = make_point({"ft": [(90.0, 12.0)] * 2, "lpft": [(90.0, 13.0), (90.0, 11.0)]}, values={"data.shift": 4})
    fine = make_point({"ft": [(90.0, 60.0)] * 2, "lpft": [(90.0, 64.0)] * 2}, values={"data.shift": 0})
    first, low, high = extremes([collapsed, fine])
    assert first.startswith(
        "No method remembers anything at 1 of 2 points; at 1 of those LP-FT no longer differs from FT."
    )
    assert "differs from FT. In Global LP-FT is ahead of FT at 1, behind at 0 of 2 points." in first
    assert low.startswith(
        "shift=4: at chance: others at most 12.0% (ft; near chance is up to 19.0%), worst 12.0%; LP-FT"
    )
    assert "Global +0.0 ± 0.5 (within one standard deviation), Local +0.0 ± 0.0" in low
    assert high.startswith("shift=0: above chance: others at most 64.0% (lpft")
    assert "Global +2.0 ± 0.0 (ahead)" in high


def test_one_method_above_chance_is_enough_to_remember_and_one_seed_too_few_to_differ() -> None:
    first, _ = extremes([make_point({"ft": [(90.0, 12.0)], "lpft": [(90.0, 20.0)]})])
    assert first.startswith("No method remembers anything at 0 of 1 point.")
    first, detail = extremes([make_point({"ft": [(90.0, 12.0)], "lpft": [(90.0, 13.0)]})])
    assert "cannot be told without a second seed" in first
    assert "one seed: no spread" in detail


# best


def test_best_setting_and_those_that_are_as_good() -> None:
    """Against lpft (80, 82): ft (79, 82.6) differs by 0.2 ± 0.8, lp (70, 71) by 10.5 ± 0.5. theta_G is no setting."""
    rows = {"none": [(99.0, 99.0)] * 2, "ft": [(79.0, 79.0), (82.6, 82.6)], "lp": [(70.0, 70.0), (71.0, 71.0)]}
    (line,) = best([make_point({**rows, "lpft": [(80.0, 80.0), (82.0, 82.0)]})])
    assert "best of 3 settings is lpft, Average 81.0 ± 1.0; within one standard deviation" in line
    assert "of it: ft (-0.2 ± 0.8); lowest" in line
    assert "lowest is lp, 70.5" in line


def test_best_setting_that_is_further_ahead() -> None:
    (line,) = best([make_point({"ft": [(70.0, 70.0)] * 2, "lpft": [(80.0, 80.0), (81.0, 81.0)]})])
    assert "Average 80.5 ± 0.5; all others are further below; lowest is ft, 70.0" in line


def test_best_setting_of_one_seed_and_of_a_sweep() -> None:
    point = lp_epochs({0: [70.0], 5: [75.0]})
    rule, everything, family = best([point])
    assert rule.startswith("Rule: the highest Average on test data")
    assert everything.startswith("all methods: best of 2 settings is lpft+lp_epochs=5, Average 75.0; next is lp")
    assert "One seed: no spread" in family


# repairs


def history(folder: Path, accuracies: Sequence[float]) -> Path:
    lines = ["round,val_accuracy", *(f"{number},{x}" for number, x in enumerate(accuracies, 1))]
    write_atomically(Run(folder).global_file(0, "history.csv"), "\n".join(lines) + "\n")
    return folder


def test_gains_are_repairs_where_the_global_model_was_not_finished(tmp_path: Path) -> None:
    """Unfinished: +10 in the last round. FT gains 20 at home and, with both seeds, (70 + 60) / 2 - 50 everywhere."""
    raw = make_point(
        {"ft": [(70.0, 60.0)] * 2}, folder=history(tmp_path / "raw", [50.0] * 9 + [60.0]), values={"f.rounds": 10}
    )
    done = make_point(
        {"ft": [(85.0, 60.0)] * 2},
        before=[80.0, 80.0],
        folder=history(tmp_path / "done", [80.0] * 10),
        values={"f.rounds": 99},
    )
    first, one, two = repairs([raw, done])
    assert first.startswith("Gains count as repairs of theta_G at 1 of 2 points.")
    assert one == (
        "rounds=10: repair: theta_G 50.0 ± 0.0%, converged for 0 of 1 seed (change +10.00); ft: Local +20.0 ± 0.0,"
        " Global +15.0 ± 0.0 (a repair)."
    )
    assert two == (
        "rounds=99: personalization: theta_G 80.0 ± 0.0%, converged for 1 of 1 seed (change +0.00); ft: Local"
        " +5.0 ± 0.0, Global -7.5 ± 0.0."
    )


def test_gains_are_set_against_the_quality_of_the_global_model() -> None:
    """Three points: theta_G at 50, 60, 70 and gains of 30, 20, 10: the ranks are opposite."""
    points = [make_point({"ft": [(80.0, 40.0)]}, before=[x], values={"shift": x}) for x in (50.0, 60.0, 70.0)]
    assert "with the gain in Local over the points: ft -1.00 (negative" in repairs(points)[0]


# by dotted path


def test_verdicts_are_found_by_path_and_written(tmp_path: Path) -> None:
    found = load_verdicts({"verdicts": ["lpft.paper.verdicts.plateau"]})
    judged = judge(found, [lp_epochs({0: [1.0], 5: [2.0]})])
    assert [each.name for each in judged] == ["plateau"]
    write_verdicts(Run(tmp_path), judged)
    with (tmp_path / "verdicts.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"verdict": "plateau", "line": judged[0].lines[0]}]
    write_verdicts(Run(tmp_path), [])
    assert not (tmp_path / "verdicts.csv").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "lpft.paper.verdicts.nope",
            "`lpft.paper.verdicts.nope`, which cannot be imported.*has overfitting",
        ),
        ("no_such_module.verdict", "No module named 'no_such_module'"),
        ("plateau", "cannot be imported"),
        ("lpft.paper.verdicts.PLATEAU", "is no function"),
    ],
)
def test_a_wrong_path_is_named_with_what_there_is(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_verdict(path)


def test_a_verdict_that_fails_says_so() -> None:
    def broken(points: Sequence[Point]) -> list[str]:
        raise KeyError("ft")

    assert judge({"my.broken": broken}, []) == [Judged("broken", ["failed: KeyError: 'ft'"])]


@pytest.mark.parametrize("verdict", [overfitting, plateau, distortion, flooding, extremes, best, repairs])
def test_no_results_are_no_crash(verdict) -> None:
    for point in (make_point({}), make_point({"none": [(50.0, 50.0)]})):
        assert all(isinstance(line, str) for line in verdict([point, point]))
