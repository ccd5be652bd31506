"""Verdicts on made-up results, by numbers worked out by hand (see `make_point`: Global and Average are the same).

Clients are alike there, so a mean of S seeds has their standard deviation (ddof 1) / sqrt(S) as its standard error, and
S - 1 degrees of freedom: t(0.975) is 12.7 with two seeds, 4.30 with three, 3.18 with four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from lpft.evaluation.certainty import Estimate
from lpft.paper.evidence import Coefficient
from lpft.paper.verdicts import best, depth, distortion, extremes, flooding, overfitting, plateau, probing, repairs
from lpft.reporting.analysis import Analysis
from lpft.reporting.intervals import Comparison
from lpft.reporting.verdicts import Verdict, verdict_lines
from lpft.storage.atomic import write_atomically
from lpft.storage.run import Run
from tests.reporting.fabricate import make_point

LORA = {"class_path": "lpft.methods.peft.PEFT", "init_args": {"modules": "lora"}}
LP_LORA = {"class_path": "lpft.methods.peft.PEFT", "init_args": {"modules": "lora", "lp_epochs": 5}}
FT = {"class_path": "lpft.methods.ft.FT"}
LPFT = {"class_path": "lpft.methods.lpft.LPFT", "init_args": {"lp_epochs": 5}}


def ends(found: Estimate | Comparison) -> tuple[float, float]:
    """Return mean and standard error; with clients that are alike, the standard error is that of the seeds alone."""
    one = found.estimate if isinstance(found, Comparison) else found
    return pytest.approx(one.mean), pytest.approx(one.std_error)  # type: ignore[return-value]


def told(verdict: Verdict) -> str:
    """Every verdict can be put into words, with its rule in the first line."""
    lines = verdict_lines(verdict)
    assert "Rule: " in lines[0]
    return "\n".join(lines)


def lp_epochs(averages: dict[int | None, Sequence[float]]) -> Analysis:
    """Return a point with LP-FT swept over durations that have these Averages, one per seed."""
    rows = {f"lpft+lp_epochs={d}": [(x, x) for x in means] for d, means in averages.items()}
    variants = {f"lpft+lp_epochs={d}": {"method": "lpft", "values": {"methods.lpft.lp_epochs": d}} for d in averages}
    return make_point({"none": [(50.0, 50.0)], **rows}, variants=variants)


# depth


def test_layers_are_compared_seed_by_seed() -> None:
    """LP-FT minus FT: first -0.1 in both seeds; second +0.2 and -0.1, undecided; third +0.1."""
    ft = [{"first": 0.2, "second": 0.4, "third": 0.8}, {"first": 0.3, "second": 0.5, "third": 0.9}]
    lpft = [{"first": 0.1, "second": 0.6, "third": 0.9}, {"first": 0.2, "second": 0.4, "third": 1.0}]
    accuracies = {name: [(50.0, 50.0)] * 2 for name in ("lp", "ft", "lpft")}
    verdict = depth([make_point(accuracies, depths={"ft": ft, "lpft": lpft})])
    (row,) = verdict.rows
    assert (verdict.outcome, row["less"], row["more"]) == ("unclear", ["first"], ["third"])
    assert {layer: found.verdict for layer, found in row["gaps"].items()} == {
        "first": "better",
        "second": "undecided",
        "third": "worse",
    }
    assert ends(row["gaps"]["second"]) == (0.05, 0.15)
    profiles = {profile["method"]: profile["layers"] for profile in row["profiles"]}
    assert profiles.keys() == {"ft", "lpft"}
    assert ends(profiles["lpft"]["second"]) == (0.5, 0.1)
    assert "second 0.500 ± 1.271" in told(verdict)


def test_layers_that_all_move_less() -> None:
    ft, lpft = [{"a": 0.2, "b": 0.4}] * 2, [{"a": 0.1, "b": 0.3}] * 2
    accuracies = {name: [(50.0, 50.0)] * 2 for name in ("ft", "lpft")}
    assert depth([make_point(accuracies, depths={"ft": ft, "lpft": lpft})]).outcome == "held"
    assert depth([make_point(accuracies, depths={"ft": lpft, "lpft": ft})]).outcome == "not held"


def test_of_many_layers_the_extremes_are_listed() -> None:
    layers = {f"layer{n}": n / 10 for n in (3, 1, 2, 4, 9, 5, 6, 7, 8)}
    verdict = depth([make_point({"ft": [(50.0, 50.0)]}, depths={"ft": [layers]})])
    (profile,) = verdict.rows[0]["profiles"]
    assert (verdict.outcome, profile["lowest"], profile["highest"], profile["last"]) == (
        "not judged",
        "layer1",
        "layer9",
        "layer8",
    )
    assert profile["rank"] == pytest.approx(0.783, abs=1e-3)
    assert "layer9 0.900" in told(verdict)
    assert "layer5" not in told(verdict)


def test_one_seed_is_judged_by_its_clients_and_frozen_bodies_not_at_all() -> None:
    one = {"ft": [{"a": 0.2}], "lpft": [{"a": 0.1}]}
    verdict = depth([make_point({"ft": [(50.0, 50.0)], "lpft": [(50.0, 50.0)]}, depths=one)])
    assert (verdict.outcome, verdict.rows[0]["gaps"]["a"].estimate.clients_only) == ("held", True)
    verdict = depth([make_point({"lp": [(50.0, 50.0)]})])
    assert (verdict.outcome, verdict.rows[0]["recorded"]) == ("not judged", False)
    told(verdict)


def test_layers_of_swept_methods_are_compared_over_the_seeds_that_both_have() -> None:
    """FT has seeds 0 and 1, LP-FT's variants seed 0 alone: means 0.15 against 0.2 there."""
    names = {f"lpft+lr={x}": x for x in (1, 2)}
    variants = {name: {"method": "lpft", "values": {"methods.lpft.lr": x}} for name, x in names.items()}
    depths = {"ft": [{"a": 0.2}, {"a": 0.3}], "lpft+lr=1": [{"a": 0.1}], "lpft+lr=2": [{"a": 0.2}]}
    accuracies = {name: [(50.0, 50.0)] * len(own) for name, own in depths.items()}
    methods = dict.fromkeys(names, LPFT)
    (row,) = depth([make_point(accuracies, depths=depths, variants=variants, methods=methods)]).rows
    assert (row["method"], list(row["gaps"])) == ("lpft", ["a"])
    assert (ends(row["gaps"]["a"]), row["gaps"]["a"].estimate.num_seeds) == ((-0.05, 0.0), 1)


# probing


def test_methods_with_probing_are_compared_with_those_without() -> None:
    """Global 60 and 62 against 50 and 52: +10 in both seeds; with LoRA 50 and 51 against 50 and 52, -0.5."""
    with_it = {"lpft": [(60.0, 60.0), (62.0, 62.0)], "lp_lora": [(50.0, 50.0), (51.0, 51.0)]}
    without = {"ft": [(50.0, 50.0), (52.0, 52.0)], "lora": [(50.0, 50.0), (52.0, 52.0)]}
    rows = {**without, **with_it, "lp": [(70.0, 70.0)] * 2}
    methods = {"lora": LORA, "lp_lora": LP_LORA}
    verdict = probing([make_point(rows, distortions={"ft": 2.0, "lpft": 1.5}, methods=methods)])
    assert (verdict.outcome, dict(verdict.numbers)) == ("held", {"helps": 1, "hurts": 0, "equal": 0, "pairs": 2})
    lpft, lora = verdict.rows
    assert (lpft["method"], lpft["baseline"], lpft["global_all"].verdict) == ("lpft", "ft", "better")
    assert (ends(lpft["global_all"]), ends(lpft["distortion_own"])) == ((10, 0), (-0.5, 0))
    assert (lora["method"], lora["baseline"], lora["global_all"].verdict) == ("lp_lora", "lora", "undecided")
    assert ends(lora["global_all"]) == (-0.5, 0.5)
    assert "lp_lora minus lora: Global -0.5 (-6.9 to +5.9, undecided)" in told(verdict)


@pytest.mark.parametrize("gap", [0.5, -5.0], ids=["too small to matter", "worse"])
def test_probing_that_does_not_help(gap: float) -> None:
    """The difference is the same in all seeds: an interval without width."""
    point = make_point({"ft": [(50.0, 50.0)] * 2, "lpft": [(50.0 + gap, 50.0 + gap)] * 2})
    assert probing([point]).outcome == "not held"


def test_differences_are_adjusted_for_the_number_of_pairs() -> None:
    """LP-FT minus FT is 3, 4, 5: t = 4 / (1 / sqrt(3)) = 6.93 with 2 degrees of freedom, p = 0.0202; twice, 0.0404.

    With three pairs alike, p is 0.0606.
    """
    ft, lpft = [(50.0, 50.0)] * 3, [(53.0, 53.0), (54.0, 54.0), (55.0, 55.0)]
    point = make_point({"ft": ft, "lpft": lpft})
    (row,) = probing([point]).rows
    assert (row["global_all"].p_holm, row["global_all"].verdict) == (pytest.approx(0.0202, abs=1e-4), "better")
    assert [row["global_all"].verdict for row in probing([point] * 2).rows] == ["better"] * 2
    verdict = probing([point] * 3)
    assert [row["global_all"].p_holm for row in verdict.rows] == pytest.approx([0.0606] * 3, abs=1e-4)
    assert (verdict.outcome, verdict.numbers["helps"]) == ("unclear", 0)


def test_without_pairs_probing_is_not_judged() -> None:
    verdict = probing([make_point({"lp": [(50.0, 50.0)]})])
    assert verdict.outcome == "not judged"
    told(verdict)


# overfitting


def test_global_falls_while_local_stays_is_overfitting() -> None:
    """Global 60 at epoch 5 ends at 58.9 (-1.1), Local 70 at epoch 1 ends at 69.1 (-0.9), for both clients."""
    curve = [(0, 50.0, 50.0, 0.0), (1, 70.0, 55.0, 0.1), (5, 70.0, 60.0, 0.2), (15, 69.1, 58.9, 0.3)]
    verdict = overfitting([make_point({"ft": [(69.1, 48.7)]}, curves={"ft": curve})])
    (row,) = verdict.rows
    assert (verdict.outcome, row["setting"], row["since"], row["first"]) == ("held", "ft", 5, 1)
    assert (ends(row["global_all"]), ends(row["local"])) == ((-1.1, 0), (-0.9, 0))
    assert (row["global_all"].verdict, row["local"].verdict) == ("worse", "equivalent")
    assert "(Global -1.1 (-1.1 to -1.1, worse; one seed) since epoch 5, Local -0.9" in told(verdict)


@pytest.mark.parametrize(
    ("falls", "kept", "overfits"),
    [([5.0, 5.2, 4.8], [0.0] * 3, True), ([5.0, 0.0, 1.0], [0.0] * 3, None), ([5.0, 5.2, 4.8], [9.0, 0.0, 0.0], None)],
    ids=["sure", "Global undecided", "Local undecided"],
)
def test_overfitting_is_undecided_where_seeds_disagree(
    falls: Sequence[float], kept: Sequence[float], overfits: bool | None
) -> None:
    """Global 60 at epoch 5 falls by 5 ± 0.5 (t = 4.3), or by 2 ± 6.6; Local falls by 0, or by 3 ± 12.9."""
    ends_at = [(70.0 - x, 60.0 - y) for x, y in zip(kept, falls, strict=True)]
    curves = [[(0, 50.0, 50.0, 0.0), (1, 70.0, 55.0, 0.1), (5, 70.0, 60.0, 0.2), (15, *end, 0.3)] for end in ends_at]
    point = make_point({"ft": [(x, 2 * y - x) for x, y in ends_at]}, curves_by_seed={"ft": curves})
    verdict = overfitting([point])
    assert verdict.rows[0]["overfits"] is overfits
    assert verdict.numbers["undecided"] == (overfits is None)
    assert verdict.outcome == ("held" if overfits else "unclear")
    told(verdict)


@pytest.mark.parametrize(("local", "other"), [(69.1, 49.1), (68.9, 48.7)], ids=["Global -0.9", "Local -1.1"])
def test_a_small_fall_or_a_loss_at_home_is_not_overfitting(local: float, other: float) -> None:
    curve = [(0, 50.0, 50.0, 0.0), (1, 70.0, 55.0, 0.1), (5, 70.0, 60.0, 0.2), (15, local, (local + other) / 2, 0.3)]
    verdict = overfitting([make_point({"ft": [(local, other)]}, curves={"ft": curve})])
    assert (verdict.outcome, verdict.numbers["overfitting"], verdict.numbers["settings"]) == ("not held", 0, 1)


def test_the_global_model_counts_as_epoch_0_and_what_is_kept_as_the_end() -> None:
    """Epoch 15 lost 30 points, but the clients keep the global model: no overfitting. FT lost 5 since epoch 0."""
    curve = [(0, 50.0, 50.0, 0.0), (1, 50.0, 48.0, 0.1), (15, 90.0, 20.0, 9.0)]
    ft = [(0, 50.0, 50.0, 0.0), (1, 60.0, 49.0, 0.1), (15, 60.0, 45.0, 9.0)]
    point = make_point({"early": [(50.0, 50.0)], "ft": [(60.0, 30.0)]}, curves={"early": curve, "ft": ft})
    rows = {row["setting"]: row for row in overfitting([point]).rows}
    assert (rows["ft"]["overfits"], ends(rows["ft"]["global_all"]), rows["ft"]["since"]) == (True, (-5, 0), 0)
    assert (rows["early"]["overfits"], ends(rows["early"]["global_all"])) == (False, (0, 0))


def test_overfitting_is_judged_by_setting_and_by_point_and_needs_epochs() -> None:
    curve = [(0, 50.0, 50.0, 0.0), (3, 70.0, 50.0, 0.1), (15, 80.0, 40.0, 1.0)]
    calm = [(0, 50.0, 50.0, 0.0), (3, 70.0, 51.0, 0.1), (15, 80.0, 51.0, 1.0)]
    variants = {f"ft+lr={x}": {"method": "ft", "values": {"methods.ft.lr": x}} for x in (0.1, 0.01)}
    rows = {"ft+lr=0.1": [(80.0, 0.0)] * 2, "ft+lr=0.01": [(80.0, 22.0)] * 2}
    curves = {"ft+lr=0.1": curve, "ft+lr=0.01": calm}
    verdict = overfitting([make_point(rows, curves=curves, variants=variants, values={"data.shift": 0.5})])
    keys = ("point", "family", "setting", "overfits")
    assert [tuple(row[key] for key in keys) for row in verdict.rows] == [
        ("shift=0.5", "ft", "lr=0.1", True),
        ("shift=0.5", "ft", "lr=0.01", False),
    ]
    verdict = overfitting([make_point({"ft": [(80.0, 0.0)]})])
    assert verdict.outcome == "not judged"
    assert "eval_every" in told(verdict)


# plateau


def test_plateau_is_what_is_equivalent_to_the_best() -> None:
    """Best is 80 at 5; 79.1 is within a point, 78.9 is not. `lp_epochs: null` is the budget of 15."""
    verdict = plateau([lp_epochs({0: [70.0], 3: [79.1], 5: [80.0], 8: [79.6], 12: [78.9], None: [60.0]})])
    (row,) = verdict.rows
    assert (verdict.outcome, row["best"], row["plateau"], row["undecided"]) == ("held", 5, [3, 5, 8], [])
    assert (row["too_short"], row["beyond"]) == ([0], [12, 15])
    assert row["averages"] == pytest.approx({0: 70.0, 3: 79.1, 5: 80.0, 8: 79.6, 12: 78.9, 15: 60.0})
    assert "plateau: 3, 5, 8" in told(verdict)


def test_a_duration_is_undecided_where_seeds_disagree() -> None:
    """At 5 minus at 0: -9 and -11, t = 10 with one degree of freedom: p = 0.063. At 8: -10 in both seeds."""
    verdict = plateau([lp_epochs({0: [79.0, 81.0], 5: [70.0, 70.0], 8: [69.0, 71.0]})])
    (row,) = verdict.rows
    assert (ends(row["average"]), row["best"], row["plateau"]) == ((80, 1), 0, [0])
    assert (row["too_short"], row["beyond"], row["undecided"]) == ([], [8], [5])
    verdict = plateau([lp_epochs({0: [79.0, 81.0], 5: [70.0, 70.0]})])
    assert (verdict.outcome, verdict.rows[0]["undecided"]) == ("unclear", [5])
    told(verdict)


def test_durations_are_compared_at_equal_other_settings_or_not_at_all() -> None:
    variants = {
        f"lpft+lp_epochs={d}+lr={x}": {"method": "lpft", "values": {"methods.lpft.lp_epochs": d, "methods.lpft.lr": x}}
        for d in (0, 5)
        for x in (1, 2)
    }
    rows = {name: [(10.0 * number, 10.0 * number)] for number, name in enumerate(variants)}
    one, two = plateau([make_point(rows, variants=variants)]).rows
    assert (one["family"], one["averages"]) == ("lpft (lr=1)", pytest.approx({0: 0.0, 5: 20.0}))
    assert two["averages"] == pytest.approx({0: 10.0, 5: 30.0})
    assert plateau([make_point({"lpft": [(1.0, 1.0)]})]).outcome == "not judged"


# distortion


def test_distortion_goes_with_the_loss() -> None:
    """(1, 10) and (2, 20) of FT, (0.5, 5) and (1, 8) of LP-FT, twice each: nearly a line; LP-FT ends at 1, FT at 2."""
    ft = [(0, 50.0, 50.0, 0.0), (7, 60.0, 40.0, 1.0), (15, 60.0, 30.0, 2.0)]
    lpft = [(0, 50.0, 50.0, 0.0), (7, 60.0, 45.0, 0.5), (15, 60.0, 42.0, 1.0)]
    curves, moved = {"ft": ft, "lpft": lpft}, {"ft": 2.0, "lpft": 1.0}
    verdict = distortion([make_point({"ft": [(60.0, 0.0)], "lpft": [(60.0, 24.0)]}, curves=curves, distortions=moved)])
    (row,) = verdict.rows
    pooled, of_ft, _ = row["correlations"]
    assert (verdict.outcome, row["positive"], row["less"]) == ("held", True, True)
    values = pooled["pearson"].value, pooled["spearman"].value
    assert values == (pytest.approx(0.99, abs=0.01), pytest.approx(0.95, abs=0.01))
    assert (pooled["pearson"].low, pooled["pearson"].high) == pytest.approx([values[0]] * 2)  # clients are alike
    assert (of_ft["of"], of_ft["pearson"].value, of_ft["n"]) == ("ft", pytest.approx(1.0), 4)
    assert (ends(row["moved"]), row["moved"].verdict) == ((-1, 0), "better")
    assert "Pearson +0.99 (+0.99 to +0.99), Spearman +0.95" in told(verdict)


def test_distortion_that_does_not_go_with_the_loss() -> None:
    """The more the features move, the less is lost, (1, 20), (2, 10), (3, 5); and LP-FT moves them more.

    Pearson: -15 / sqrt(2 * 116.7) = -0.98.
    """
    ft = [(0, 50.0, 50.0, 0.0), (7, 60.0, 30.0, 1.0), (15, 60.0, 40.0, 2.0)]
    lpft = [(0, 50.0, 50.0, 0.0), (15, 60.0, 45.0, 3.0)]
    curves, moved = {"ft": ft, "lpft": lpft}, {"ft": 2.0, "lpft": 3.0}
    verdict = distortion([make_point({"ft": [(60.0, 20.0)], "lpft": [(60.0, 30.0)]}, curves=curves, distortions=moved)])
    (row,) = verdict.rows
    assert (verdict.outcome, row["positive"], row["less"]) == ("not held", False, False)
    assert row["correlations"][0]["pearson"].value == pytest.approx(-0.98, abs=0.01)
    assert math.isnan(row["correlations"][2]["pearson"].value)
    assert "from 2 points" in told(verdict)


def test_distortion_without_epochs_uses_the_end_and_needs_both_methods() -> None:
    """Global is 50 before; FT ends at 40 after moving 2, LP-FT at 45 after moving 1."""
    point = make_point({"ft": [(60.0, 20.0)], "lpft": [(60.0, 30.0)]}, distortions={"ft": 2.0, "lpft": 1.0})
    pooled = distortion([point]).rows[0]["correlations"][0]
    assert (pooled["pearson"].value, pooled["n"]) == (pytest.approx(1.0), 4)
    verdict = distortion([make_point({"ft": [(60.0, 20.0)]})])
    assert verdict.outcome == "not judged"
    told(verdict)


def test_distortion_of_swept_settings_is_averaged_within_a_seed() -> None:
    """Settings of FT move features by 1 and 3, by 2 in the mean; LP-FT moves them by 0.5."""
    names = {"ft+lr=1": 1.0, "ft+lr=2": 3.0}
    variants = {name: {"method": "ft", "values": {"methods.ft.lr": x}} for name, x in names.items()}
    rows = {"ft+lr=1": [(60.0, 30.0)], "ft+lr=2": [(60.0, 20.0)], "lpft": [(60.0, 30.0)]}
    methods = dict.fromkeys(names, FT)
    point = make_point(rows, distortions={**names, "lpft": 0.5}, variants=variants, methods=methods)
    (row,) = distortion([point]).rows
    assert ends(row["moved"]) == (-1.5, 0)
    assert row["correlations"][1]["n"] == 4


# flooding


def flooded(level: float, ft: Sequence[float], lpft: Sequence[float], losses: tuple[float, float]) -> Analysis:
    names = {name: f"{name}+flood={level}" for name in ("ft", "lpft")}
    classes = {"ft": FT, "lpft": LPFT}
    return make_point(
        {names["ft"]: [(x, x) for x in ft], names["lpft"]: [(x, x) for x in lpft]},
        losses={names["ft"]: losses[0], names["lpft"]: losses[1]},
        methods={names[m]: {**c, "init_args": {**c.get("init_args", {}), "flood": level}} for m, c in classes.items()},
        variants={full: {"method": m, "values": {f"methods.{m}.flood": level}} for m, full in names.items()},
    )


@pytest.mark.parametrize(
    ("lpft", "losses", "outcome", "word", "matched"),
    [
        ([52.0, 52.2], (0.45, 0.6), "held", "better", True),
        ([52.0, 52.2], (0.39, 0.5), "unclear", "better", False),
        ([50.1, 50.2], (0.5, 0.5), "not held", "equivalent", True),
        ([49.0, 52.0], (0.5, 0.5), "unclear", "undecided", True),
        ([48.0, 48.1], (0.5, 0.5), "not held", "worse", True),
    ],
)
def test_methods_are_compared_at_the_same_loss(
    lpft: Sequence[float], losses: tuple[float, float], outcome: str, word: str, matched: bool
) -> None:
    """FT has 50; losses within 20% of 0.5, that is from 0.4 to 0.6, are matched.

    Differences of 2 and 2.2: t = 21, p = 0.03. Of 0.1 and 0.2: the 90% interval ends at 0.15 + 6.31 * 0.05 = 0.47.
    """
    verdict = flooding([flooded(0.5, [50.0, 50.0], lpft, losses)])
    (row,) = verdict.rows
    assert (verdict.outcome, row["gap"].verdict, row["matched"]) == (outcome, word, matched)
    assert row["losses"] == pytest.approx({"ft": losses[0], "lpft": losses[1]})
    told(verdict)


def test_flooding_needs_a_level_in_common() -> None:
    verdict = flooding([make_point({"ft": [(1.0, 1.0)]})])
    assert verdict.outcome == "not judged"
    told(verdict)


# extremes


def test_nothing_is_remembered_and_lpft_is_no_better() -> None:
    """Ten classes: near chance is up to 10 + 9 = 19%. LP-FT minus FT in Global is 0.5 in both seeds, or 2."""
    collapsed = make_point({"ft": [(90.0, 12.0)] * 2, "lpft": [(90.0, 13.0)] * 2}, values={"data.shift": 4})
    fine = make_point({"ft": [(90.0, 60.0)] * 2, "lpft": [(90.0, 64.0)] * 2}, values={"data.shift": 0})
    verdict = extremes([collapsed, fine])
    numbers = {"at_chance": 1, "points": 2, "alike": 1, "compared": 2, "better": 1, "worse": 0, "equivalent": 1}
    assert (verdict.outcome, dict(verdict.numbers)) == ("held", numbers)
    low, high = verdict.rows
    assert (low["point"], low["at_chance"], low["best"], low["others"]) == ("shift=4", True, "lpft", 13.0)
    assert (low["bound"], low["global_all"].verdict, ends(low["global_all"])) == (19.0, "equivalent", (0.5, 0))
    assert (high["at_chance"], high["best"]) == (False, "lpft")
    assert (high["global_all"].verdict, ends(high["global_all"])) == ("better", (2, 0))
    told(verdict)


def test_one_method_above_chance_is_enough_to_remember_and_two_seeds_may_be_too_few_to_tell() -> None:
    assert extremes([make_point({"ft": [(90.0, 12.0)], "lpft": [(90.0, 20.0)]})]).outcome == "not held"
    verdict = extremes([make_point({"ft": [(90.0, 12.0)] * 2, "lpft": [(90.0, 11.0), (90.0, 13.0)]})])
    assert (verdict.outcome, verdict.rows[0]["global_all"].verdict) == ("unclear", "undecided")
    told(verdict)


# best


def test_best_setting_and_those_that_are_as_good() -> None:
    """Minus lpft (80, 82): ft (79, 82.6) differs by -0.2 ± 10.2, lp (70, 72) by 10 in both. `none` is no setting."""
    rows = {"none": [(99.0, 99.0)] * 2, "ft": [(79.0, 79.0), (82.6, 82.6)], "lp": [(70.0, 70.0), (72.0, 72.0)]}
    verdict = best([make_point({**rows, "lpft": [(80.0, 80.0), (82.0, 82.0)]})])
    (row,) = verdict.rows
    assert (verdict.outcome, row["best"], row["settings"], row["lowest"]) == ("unclear", "lpft", 3, "lp")
    assert (ends(row["average"]), row["lowest_average"]) == ((81, 1), pytest.approx(71.0))
    assert {name: ends(gap) for name, gap in row["alike"].items()} == {"ft": (-0.2, 0.8)}
    told(verdict)


def test_best_setting_that_is_further_ahead() -> None:
    verdict = best([make_point({"ft": [(70.0, 70.0), (71.0, 71.0)], "lpft": [(80.0, 80.0), (81.0, 81.0)]})])
    assert (verdict.outcome, verdict.rows[0]["alike"]) == ("held", {})
    told(verdict)


def test_best_setting_of_a_sweep() -> None:
    verdict = best([lp_epochs({0: [70.0], 5: [75.0]})])
    everything, family = verdict.rows
    assert (everything["group"], family["group"]) == ("all methods", "lpft")
    assert (everything["best"], everything["lowest"]) == ("lpft+lp_epochs=5", "lpft+lp_epochs=0")


# repairs


def history(folder: Path, accuracies: Sequence[float]) -> Path:
    lines = ["round,val_accuracy", *(f"{number},{x}" for number, x in enumerate(accuracies, 1))]
    write_atomically(Run(folder).global_file(0, "history.csv"), "\n".join(lines) + "\n")
    return folder


def test_gains_are_repairs_where_the_global_model_was_not_finished(tmp_path: Path) -> None:
    """Unfinished: +10 in the last round. FT gains 20 at home and, with both seeds, (70 + 60) / 2 - 50 everywhere."""
    raw_folder, done_folder = history(tmp_path / "raw", [50.0] * 9 + [60.0]), history(tmp_path / "done", [80.0] * 10)
    raw = make_point({"ft": [(70.0, 60.0)] * 2}, folder=raw_folder, values={"f.rounds": 10})
    done = make_point({"ft": [(85.0, 60.0)] * 2}, before=[80.0] * 2, folder=done_folder, values={"f.rounds": 99})
    verdict = repairs([raw, done])
    assert (verdict.outcome, verdict.numbers["repaired"]) == ("unclear", 1)
    one, two = verdict.rows
    assert (one["finished"], one["converged"], one["seeds"], one["change"]) == (False, 0, 1, pytest.approx(10.0))
    assert (ends(one["gains"][0]["local"]), ends(one["gains"][0]["global_all"])) == ((20, 0), (15, 0))
    assert one["gains"][0]["global_all"].verdict == "better"
    assert (two["finished"], two["converged"], two["change"]) == (True, 1, pytest.approx(0.0))
    assert (ends(two["gains"][0]["local"]), ends(two["gains"][0]["global_all"])) == ((5, 0), (-7.5, 0))
    told(verdict)


def test_gains_are_compared_with_the_quality_of_the_global_model() -> None:
    """Three points: the global model at 50, 60, 70 and gains of 30, 20, 10: the ranks are opposite."""
    points = [make_point({"ft": [(80.0, 40.0)]}, before=[x], values={"shift": x}) for x in (50.0, 60.0, 70.0)]
    assert repairs(points).numbers["trend"]["ft"].value == pytest.approx(-1.0)


def test_the_trend_has_an_interval_over_the_seeds() -> None:
    """Gains fall with the global model's accuracy with seeds 0 and 1 (rho -1), and rise with seed 2 (rho 1).

    The standard error is 2/3, so that the t interval with two degrees of freedom exceeds what a correlation can be.
    """
    gains = {50.0: (30.0, 30.0, 10.0), 60.0: (20.0, 20.0, 20.0), 70.0: (10.0, 10.0, 30.0)}
    points = [
        make_point({"ft": [(x + gain, 40.0) for gain in of_seeds]}, before=[x] * 3, values={"shift": x})
        for x, of_seeds in gains.items()
    ]
    verdict = repairs(points)
    assert verdict.numbers["trend"]["ft"] == Coefficient(pytest.approx(-1 / 3), -1, 1)
    assert "ft -0.33 (-1.00 to +1.00)" in told(verdict)
