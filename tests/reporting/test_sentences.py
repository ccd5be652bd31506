from typing import Any

import pytest
from fabricate import CLIENTS, METHODS, make_config
from pandas import DataFrame

from lpft.evaluation.convergence import judge_convergence
from lpft.evaluation.diagnostics import NAMES, NOT_CONVERGED, Diagnostic
from lpft.reporting.sentences import describe_at_points, describe_method, headline, lead, message, remedy

CONFIG = make_config((0, 1, 2), tuple(METHODS), CLIENTS, 3, 60)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("none", "No fine-tuning: every client keeps the global model."),
        ("ft", "Full fine-tuning: all layers, 15 epochs."),
        ("ft_short", "Full fine-tuning: all layers, 10 epochs."),
        ("lp", "Linear probing: only the last layer, 15 epochs; the features stay the global model's."),
        (
            "lpft",
            "Linear probing, then full fine-tuning: only the last layer for 5 epochs, all layers for the other 10.",
        ),
        ("unknown", ""),
    ],
)
def test_methods_in_words(method: str, text: str) -> None:
    assert describe_method(method, CONFIG) == text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"epochs": 5, "lp_epochs": 2},
            "Linear probing, then full fine-tuning: only the last layer for 2 epochs, all layers for the other 3.",
        ),
        (
            {"epochs": 1, "lp_epochs": None},
            "Linear probing: only the last layer, 1 epoch; the features stay the global model's.",
        ),
        ({"lp_epochs": 0}, "Full fine-tuning: all layers, 15 epochs."),
        (
            {"lp_epochs": 0, "lp_solver": "logreg"},
            "The last layer by logistic regression, then full fine-tuning: all layers, 15 epochs.",
        ),
        (
            {"lp_epochs": 5, "lp_solver": "logreg"},
            "The last layer by logistic regression instead of 5 epochs of probing, then all layers for the other 10.",
        ),
    ],
)
def test_linear_probing_in_words(settings: dict[str, object], text: str) -> None:
    config = {"personalization": {"epochs": 15}, "methods": {"x": {"class_path": "a.LPFT", "init_args": settings}}}
    assert describe_method("x", config) == text


def test_other_methods_show_class_and_settings() -> None:
    config = {"methods": {"prox": {"class_path": "lpft.methods.prox.ProximalFT", "init_args": {"mu": 0.1, "lr": None}}}}
    assert (
        describe_method("prox", config)
        == "Full fine-tuning with a penalty on the distance from the global model (mu = 0.1)."
    )
    mine = {"methods": {"mine": {"class_path": "my.methods.Mine", "init_args": {"k": 3}}}}
    assert describe_method("mine", mine) == "Mine (k = 3)."


def test_result_in_one_sentence() -> None:
    means = {"none": (80.0, 80.0), "ft": (90.0, 70.0), "lpft": (89.0, 75.0)}
    rows = [(method, metric, means[method][i]) for method in means for i, metric in enumerate(("local", "global_all"))]
    summary = DataFrame(rows, columns=["method", "metric", "mean"])
    assert headline(summary, "none") == (
        "On their own test sets, the clients' models reach 89.0% (lpft) to 90.0% (ft), the global model 80.0%;"
        " on the test sets of all clients together 70.0% (ft) to 75.0% (lpft), the global model 80.0%."
    )
    assert headline(summary[:2], "none") == ""
    assert "global model" not in headline(summary, None)
    assert headline(summary, "none", alone=True).endswith(" reach 89.0% (lpft) to 90.0% (ft), the global model 80.0%.")


def test_lead_with_a_short_configuration() -> None:
    assert lead({}, 1, [4]).startswith("One client has one model. Each client then")
    given = lead({**CONFIG, "federation": {"init": "a.safetensors", "rounds": 60}}, 3, [0])
    assert "3 clients share one model (SmallCNN), loaded from a file." in given


@pytest.mark.parametrize(
    ("rounds", "change", "text"),
    [
        (1, None, "1 round is too few for a decision (10 or more)"),
        (9, None, "9 rounds are too few for a decision (10 or more)"),
        (10, None, "the last of its 10 rounds have no validation accuracy"),
        (20, -1.25, "mean validation accuracy changed by -1.25 points in the last tenth of 20 rounds (0.5 or more)"),
    ],
)
def test_why_a_global_model_has_not_converged(rounds: int, change: float | None, text: str) -> None:
    found = Diagnostic(NOT_CONVERGED, change, {"change": change, "rounds": rounds}, seed=0)
    assert message(found) == text
    assert (judge_convergence([50.0] * rounds).change is None) == (rounds < 10)
    judged = judge_convergence([None] * rounds if change is None else [50.0] * (rounds - 2) + [50 + change] * 2)
    assert (judged.change, judged.rounds) == (change, rounds)


def test_every_diagnostic_has_a_remedy() -> None:
    assert all(remedy(name) for name in NAMES)


def test_settings_that_differ_between_points_are_described_at_each() -> None:
    def config(epochs: int, **tuned: float) -> dict[str, Any]:
        ft = {"class_path": "lpft.methods.ft.FT", "init_args": {"lr": None}}
        methods = {"ft": ft, "ft_tuned": {**ft, "init_args": {"lr": None, **tuned}}}
        return {"methods": methods, "personalization": {"epochs": epochs}}

    points = {"a": config(4, lr=0.1), "b": config(4), "c": config(4, lr=0.1)}
    assert describe_at_points("ft", points) == describe_method("ft", points["a"])
    both = describe_at_points("ft_tuned", points)
    assert both.index("a, c: ") < both.index("lr = 0.1") < both.index("b: ")
    assert both.count("lr = ") == 1
    epochs = describe_at_points("ft", {"short": config(4), "long": config(8)})
    assert epochs.index("short: ") < epochs.index("4 epochs") < epochs.index("long: ") < epochs.index("8 epochs")
