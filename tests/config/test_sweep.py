from __future__ import annotations

import pytest

from lpft.config.sweep import alternatives, combinations, expand, expand_methods, labels, override, points, trials

FT = {"class_path": "FT", "init_args": {"lr": None, "epochs": None}}


def test_override_changes_a_copy_and_finds_init_args() -> None:
    settings = {"methods": {"ft": FT}, "federation": {"optimizer": {"class_path": "SGD", "init_args": {"lr": 1}}}}
    for key in ("federation.optimizer.lr", "federation.optimizer.init_args.lr"):
        assert override(settings, {key: 2})["federation"]["optimizer"]["init_args"]["lr"] == 2
    assert settings["federation"]["optimizer"]["init_args"]["lr"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("methods.ft.nope", "no `nope`, but lr, epochs"),
        ("nope.ft.lr", "no section `nope`"),
        ("methods.ft.lr.x", "section `lr`"),
    ],
)
def test_a_missing_key_is_refused(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override({"methods": {"ft": FT}}, {key: 1})


def test_swept_methods_become_rows_and_other_keys_become_runs() -> None:
    sweep = {"methods.ft.lr": [0.1, 0.001], "methods.ft.epochs": [1, 2], "data.shift": [0.0, 0.5]}
    methods, variants = expand_methods({"none": {}, "ft": FT}, sweep)
    assert list(methods)[:2] == ["none", "ft+lr=0.1+epochs=1"]
    assert len(methods) == 5
    assert methods["ft+lr=0.001+epochs=2"]["init_args"] == {"lr": 0.001, "epochs": 2}
    assert variants["ft+lr=0.001+epochs=2"]["values"] == {"methods.ft.lr": 0.001, "methods.ft.epochs": 2}
    assert points(sweep) == {"shift=0": {"data.shift": 0.0}, "shift=0.5": {"data.shift": 0.5}}
    assert points({"methods.ft.lr": [1]}) == {}


def test_labels_are_short_and_safe_as_folders() -> None:
    assert labels({"a.x.lr": 1e-4, "b.n": "two words/x"}) == ["lr=0.0001", "n=two_words_x"]
    assert labels({"a.x": None, "b.y": True}) == ["x=null", "y=true"]  # as in the YAML, and in tables


def test_a_sweep_needs_lists_and_known_methods() -> None:
    with pytest.raises(ValueError, match="needs a list"):
        combinations({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"methods\.x\.lr.*the methods are ft"):
        expand_methods({"ft": FT}, {"methods.x.lr": [1]})


@pytest.mark.parametrize("key", ["out", "name", "seeds", "federation", "methods", "methods.ft"])
def test_sections_and_settings_without_effect_are_not_swept(key: str) -> None:
    config = {"out": "x", "name": "x", "seeds": [0], "federation": {"rounds": 1}, "methods": {"ft": FT}}
    with pytest.raises(ValueError, match=f"`sweep` has .*`{key}`"):
        expand({**config, "provenance": {"variants": {}}, "sweep": {key: [1]}})


def test_trials_start_untuned_are_limited_and_deterministic() -> None:
    grid = {"lr": [1, 2, 3, 4], "mu": [1, 2, 3]}
    chosen = trials(grid, 6, "prox")
    assert chosen == trials(grid, 6, "prox")
    assert chosen[0] == {}
    assert len(chosen) == 6
    assert len({tuple(trial.items()) for trial in chosen}) == 6
    assert len(trials(grid, 13, "prox")) == 13
    assert chosen != trials(grid, 6, "ft")


def test_trials_leave_out_equal_settings() -> None:
    grid: dict[str, list[float]] = {"lr": [0.1, 0.01, 0.1], "mu": [1, 2]}
    assert alternatives(grid, {"lr": 0.1, "mu": 1.0}) == [
        {"lr": 0.1, "mu": 2},
        {"lr": 0.01, "mu": 1},
        {"lr": 0.01, "mu": 2},
    ]
    for method in ("ft", "prox", "sparse", "lss"):
        chosen = trials(grid, 3, method, {"lr": 0.1, "mu": 1.0})
        assert len(chosen) == 3
        assert {"lr": 0.1, "mu": 1} not in chosen


@pytest.mark.parametrize("method", ["prox", "sparse", "lss", "lpft"])
def test_trials_spread_the_values_of_every_setting(method: str) -> None:
    grid: dict[str, list[float]] = {"a": [1, 2, 3], "b": [0.0, 0.5], "lr": [0.1, 0.2, 0.3, 0.4]}
    untuned = {"a": 2, "b": 0.5, "lr": None}
    chosen = [untuned, *trials(grid, 9, method, untuned)[1:]]
    for key, values in grid.items():
        counts = [sum(trial[key] == value for trial in chosen) for value in values]
        assert max(counts) - min(counts) <= 1


def test_names_distinguish_values() -> None:
    rates = points({"a.lr": [0.1234567, 0.1234568, 0.0, 1e-05, 0.001, 3]})
    assert list(rates) == ["lr=0.1234567", "lr=0.1234568", "lr=0", "lr=1e-05", "lr=0.001", "lr=3"]
    classes = [
        {"class_path": "x.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        {"class_path": "x.SGD", "init_args": {"lr": 0.2, "momentum": 0.9}},
        {"class_path": "x.Adam", "init_args": {"lr": 0.1}},
    ]
    assert list(points({"a.optimizer": classes})) == ["optimizer=SGD-lr=0.1", "optimizer=SGD-lr=0.2", "optimizer=Adam"]
    assert list(points({"a.net": [{"class_path": "x.Net"}, {"class_path": "y.Net"}]})) == ["net=x.Net", "net=y.Net"]


@pytest.mark.parametrize("values", [[0.1, 0.1], [1, 1.0], ["a b", "a/b"], ["a", "A"], [{"class_path": "x.Y"}] * 2])
def test_names_that_would_collide_are_refused(values: list[object]) -> None:
    with pytest.raises(ValueError, match=r"`methods\.ft\.lr`.*share the name"):
        expand_methods({"ft": FT}, {"methods.ft.lr": values})
    with pytest.raises(ValueError, match=r"`a\.b`.*share the name"):
        points({"a.b": values, "a.c": [1]})


def test_a_variant_does_not_take_the_name_of_a_method() -> None:
    with pytest.raises(ValueError, match=r"ft\+lr=0\.1"):
        expand_methods({"ft": FT, "ft+lr=0.1": FT}, {"methods.ft.lr": [0.1]})
