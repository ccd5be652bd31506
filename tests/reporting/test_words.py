import pytest
from fabricate import CLIENTS, METHODS, make_config

from lpft.reporting.words import describe_method, headline, settings_not_from_the_paper, what_was_done

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
            "A last layer by logistic regression, then full fine-tuning: all layers, 15 epochs.",
        ),
        (
            {"lp_epochs": 5, "lp_solver": "logreg"},
            "A last layer by logistic regression in place of 5 epochs, all layers for the other 10.",
        ),
    ],
)
def test_linear_probing_in_words(settings: dict[str, object], text: str) -> None:
    config = {"personalization": {"epochs": 15}, "methods": {"x": {"class_path": "a.LPFT", "init_args": settings}}}
    assert describe_method("x", config) == text


def test_other_methods_show_class_and_settings() -> None:
    config = {"methods": {"prox": {"class_path": "lpft.methods.prox.ProximalFT", "init_args": {"mu": 0.1, "lr": None}}}}
    assert describe_method("prox", config) == "Full fine-tuning with a pull back to the global model (mu = 0.1)."
    mine = {"methods": {"mine": {"class_path": "my.methods.Mine", "init_args": {"k": 3}}}}
    assert describe_method("mine", mine) == "Mine (k = 3)."


def test_result_in_one_sentence() -> None:
    means = {"none": (80.0, 80.0), "ft": (90.0, 70.0), "lpft": (89.0, 75.0)}
    rows = [
        {"method": method, "metric": metric, "mean": mean}
        for method, pair in means.items()
        for metric, mean in zip(("local", "global_all"), pair, strict=True)
    ]
    assert headline(rows, "none") == (
        "On their own test sets, the clients' models reach 89.0% (lpft) to 90.0% (ft), the global model 80.0%;"
        " on the test sets of all clients together 70.0% (ft) to 75.0% (lpft), the global model 80.0%."
    )
    assert headline(rows[:2], "none") == ""
    assert "global model" not in headline(rows, None)


def test_what_was_done_with_little_or_other_knowledge() -> None:
    assert what_was_done({}, 1, [4]).startswith("One client has one model. Then every client")
    given = what_was_done({**CONFIG, "federation": {"init": "a.safetensors", "rounds": 60}}, 3, [0])
    assert "3 clients share one model (SmallCNN), which was given to start with." in given


def test_what_the_paper_fixes_is_not_listed() -> None:
    keys = {key for key, _, _ in settings_not_from_the_paper(CONFIG, 3)}
    assert {"federation.rounds", "personalization.optimizer.lr", "methods.lpft.lp_epochs", "network.class_path"} <= keys
    assert not {"personalization.epochs", "seeds"} & keys


def test_where_the_paper_differs_it_is_said() -> None:
    config = {**CONFIG, "personalization": {"epochs": 5}}
    remarks = {key: remark for key, _, remark in settings_not_from_the_paper(config, 1) if remark}
    assert remarks == {"personalization.epochs": "the paper uses 15", "seeds": "the paper uses 3"}
