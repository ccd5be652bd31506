"""Sweeps and tuning from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lpft import load
from lpft.federated.checkpoint import Checkpoint
from lpft.federated.fedavg import FedAvg
from lpft.personalization.jobs import Job, PersonalTask
from lpft.storage.run import Run, read_client_result
from tests.commands import TOY, lpft, outcome, table, toy

pytestmark = pytest.mark.usefixtures("undrawn")


def extra(folder: Path, **sections: object) -> Path:
    path = folder / "extra.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_sweep_of_methods_makes_rows(out: Path, tmp_path: Path) -> None:
    config = extra(tmp_path, sweep={"methods.lpft.lp_epochs": [0, 4]})
    run = toy("run", out, "-c", config, "--seeds", "[0]")
    rows = {row.pop("method"): row for row in table(run.root / "results.csv")}
    assert list(rows) == ["none", "ft", "lpft+lp_epochs=0", "lpft+lp_epochs=4"]
    assert rows["lpft+lp_epochs=0"] == rows["ft"]
    assert yaml.safe_load(run.config.read_text())["provenance"]["variants"]["lpft+lp_epochs=4"]["method"] == "lpft"
    lpft("run", "-c", run.config)


@pytest.mark.parametrize("swept", ["lpft", "ft"])
def test_a_method_is_swept_in_a_run_with_its_plain_row(swept: str, out: Path, tmp_path: Path) -> None:
    """The report has them all."""
    toy("run", out, "--seeds", "[0]")
    run = toy("run", out, "-c", extra(tmp_path, sweep={f"methods.{swept}.flood": [0.0, 0.1]}), "--seeds", "[0]")
    rows = {row["method"] for row in table(run.root / "results.csv")}
    assert rows == {"none", "ft", "lpft", f"{swept}+flood=0", f"{swept}+flood=0.1"}
    assert f"{swept}+flood=0.1" in (run.root / "report.md").read_text()


def test_other_sweeps_make_separate_runs(out: Path, tmp_path: Path) -> None:
    config = extra(tmp_path, sweep={"data.source.num_val": [6, 3], "federation.rounds": [1]})
    words = ("--seeds", "[0]", "--only", "ft")
    toy("federate", out, "-c", config, *words)
    for shard in ("1/2", "0/2"):
        toy("personalize", out, "-c", config, *words, "--shard", shard)
    toy("run", out, "-c", config, *words)
    points = Run(out).points()
    assert [point.root.name for point in points] == ["num_val=3,rounds=1", "num_val=6,rounds=1"]
    alone = toy("run", tmp_path / "alone", *words, "--federation.rounds", 1)
    assert outcome(points[1]) == outcome(alone)
    lpft("report", out)
    lpft("status", points[0].root)
    results = load(out)
    assert results.points[1].matrix("ft").shape == (5, 5)
    with pytest.raises(ValueError, match=r"sweep of 2 runs.*`\.points`"):
        results.matrix("ft")


def test_points_share_equal_global_models(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four points, those with the same rounds have the same global model: two are trained, two are copied."""
    trained = []

    class CountedFedAvg(FedAvg):
        def fit(self, *args: Any, **kwargs: Any) -> Checkpoint:
            trained.append(self.settings.rounds)
            return super().fit(*args, **kwargs)

    monkeypatch.setattr("lpft.federated.federate.FedAvg", CountedFedAvg)
    config = extra(tmp_path, sweep={"personalization.batch_size": [16, 8], "federation.rounds": [1, 2]})
    words = ("--seeds", "[0]", "--only", "ft", "--trainer.devices", 1)
    toy("run", out, "-c", config, *words)
    assert sorted(trained) == [1, 2]
    points = Run(out).points()
    assert all(point.global_file(0, "history.csv").exists() for point in points)
    alone = toy("run", tmp_path / "alone", *words, "--federation.rounds", 2, "--personalization.batch_size", 8)
    assert outcome(Run(out / "points" / "rounds=2,batch_size=8")) == outcome(alone)
    trained.clear()
    toy("federate", out, "-c", config, *words)
    assert not trained


def test_a_sweep_of_the_metric_names_both_and_shares_the_global_model(out: Path, tmp_path: Path) -> None:
    config = extra(tmp_path, sweep={"evaluation.metric": ["accuracy", "auroc"]})
    run = toy("run", out, "-c", config, "--seeds", "[0]", "--only", "none")
    report = (run.root / "report.md").read_text()
    for text in ("Accuracy or AUROC in percent", "the same global model", "Values of accuracy or AUROC"):
        assert text in report


def test_shards_of_a_tuned_sweep_are_even(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points of four methods (one of them tuned) of three stacks: 24 for five tasks."""
    config = extra(
        tmp_path,
        sweep={"data.source.num_val": [6, 3]},
        tune={"trials": 2, "grids": {"ft": {"lr": [1e-4]}}},
        seeds=[0],
    )
    toy("federate", out, "-c", config)
    toy("tune", out, "-c", config)
    done: list[list[tuple[Path, Job]]] = []

    def personalize(task: PersonalTask, shard: tuple[int, int], on_stack: object = None) -> list[str]:
        done[-1] += [(task.run.root, job) for job in task.jobs(shard)]
        return []

    monkeypatch.setattr("lpft.pipeline.personalize_clients", personalize)
    for shard in range(5):
        done.append([])
        toy("personalize", out, "-c", config, "--shard", f"{shard}/5")
    assert sorted(map(len, done)) == [4, 5, 5, 5, 5]
    assert len({job for jobs in done for job in jobs}) == 24


def test_tuning_tries_equally_often_chooses_on_val_and_runs_the_winner(out: Path, tmp_path: Path) -> None:
    grids = {"ft": {"lr": [1e-4, 1e-3]}, "lpft": {"lp_lr": [0.1, 1.0], "lp_epochs": [1, 3]}}
    config = extra(tmp_path, tune={"trials": 3, "grids": grids})
    run = toy("run", out, "-c", config)
    trials = table(run.root / "tuning.csv")
    assert [(row["method"], row["trial"]) for row in trials] == [(m, t) for m in ("ft", "lpft") for t in "012"]
    assert sum(int(row["chosen"]) for row in trials) == 2
    for method in ("ft", "lpft"):
        scores = {row["trial"]: float(row["score"]) for row in trials if row["method"] == method}
        chosen = next(row for row in trials if row["method"] == method and row["chosen"] == "1")
        assert scores[chosen["trial"]] == max(scores.values())
        cells = [read_client_result(run.tuning.cell(0, f"{method}+trial{chosen['trial']}", f"c{i}")) for i in range(5)]
        local = sum(cell.val_after for cell in cells) / 5  # type: ignore[misc]
        everywhere = sum(cell.val_global for cell in cells) / 5  # type: ignore[misc]
        assert scores[chosen["trial"]] == pytest.approx((local + everywhere) / 2)
        for cell in cells:  # the winner's run for the tuning seed repeats its trial
            assert read_client_result(run.cell(0, f"{method}_tuned", cell.client)).accuracy == cell.accuracy
    assert run.tuning.seeds() == [0]
    assert [row["method"] for row in table(run.root / "results.csv")][:5] == [
        "none",
        "ft",
        "lpft",
        "ft_tuned",
        "lpft_tuned",
    ]
    before = outcome(run)
    toy("run", out, "-c", config)
    assert outcome(run) == before


def test_every_seed_has_the_winners_of_the_tuning_seeds(out: Path, tmp_path: Path) -> None:
    config = extra(tmp_path, tune={"trials": 2, "grids": {"ft": {"lr": [1e-4]}, "lpft": {"lp_lr": [1.0]}}})
    toy("run", out, "-c", config, "--seeds", "[1]", "--fallback")
    run = Run(out)
    assert run.tuning.seeds() == [0]
    assert not list(run.tuning.root.glob("seed_*/*/models/*"))
    assert {row["seed"] for row in table(out / "results.csv")} == {"1"}
    assert not read_client_result(run.tuning.cell(0, "ft+trial1", "c0")).epochs[1].get("local")
    before = (out / "tuning.csv").read_text()
    assert before.splitlines()[0].endswith(",chosen,diverged")
    toy("run", out, "-c", config, "--seeds", "[0]", "--only", "ft")
    assert (out / "tuning.csv").read_text() == before
    assert set(yaml.safe_load(run.config.read_text())["provenance"]["tuned"]) == {"ft_tuned", "lpft_tuned"}
    lpft("status", out)


def test_trials_of_other_settings_do_not_count(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--seeds", "[0]", "--only", "ft")
    toy("run", out, *words, "-c", extra(tmp_path, tune={"trials": 2, "grids": {"ft": {"lr": [1e-4]}}}))
    other = extra(tmp_path, tune={"trials": 2, "grids": {"ft": {"lr": [1e-3]}}})
    toy("personalize", out, *words, "-c", other, code=2)
    assert "ft+trial1 of seed 0 has 0 of 5" in capsys.readouterr().err
    toy("tune", out, *words, "-c", other)
    assert [row["settings"] for row in table(out / "tuning.csv")] == ["{}", '{"lr": 0.001}']


def test_trials_of_other_choices_do_not_replace_those_of_the_results(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = extra(tmp_path, tune={"trials": 2, "grids": {"ft": {"lr": [0.1]}}}, federation={"rounds": 2})
    words = ("-c", config, "--seeds", "[0]", "--only", "ft")
    trials = toy("run", out, *words).root / "tuning.csv"
    before = trials.read_bytes()
    assert [row["chosen"] for row in table(trials)] == ["0", "1"]
    other = (*words, "--tune.grids.ft.lr", "[1e-12]")
    toy("run", out, *other, code=2)
    assert "seed_0/ft_tuned was made with other settings" in capsys.readouterr().err
    assert trials.read_bytes() == before
    toy("run", out, *other, "--overwrite")
    assert [row["chosen"] for row in table(trials)] == ["1", "0"]


def test_tuning_in_stages_and_shards_is_the_same(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = extra(tmp_path, tune={"trials": 2, "grids": {"ft": {"lr": [1e-3]}}})
    words = ("-c", config, "--seeds", "[0]", "--only", "ft")
    toy("federate", out, *words)
    toy("personalize", out, *words, code=2)
    assert "run `lpft tune` first" in capsys.readouterr().err
    for shard in ("0/2", "1/2"):
        toy("tune", out, *words, "--shard", shard)
    toy("personalize", out, *words)
    whole = toy("run", tmp_path / "whole", *words)
    toy("run", out, *words)
    assert outcome(Run(out)) == outcome(whole)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tune": {"trials": 5, "grids": {"ft": {"lr": [1e-3]}}}}, "same number of trials"),
        (
            {"tune": {"trials": 3, "grids": {"ft": {"lr": [None, 1e-3]}}}},
            "has 1 combinations in addition to the untuned",
        ),
        ({"tune": {"trials": 2, "grids": {"nope": {"lr": [1e-3]}}}}, "`tune.grids.nope` is not a method"),
        ({"tune": {"trials": 2, "grids": {"ft": {"rate": [1e-3]}}}}, "no `rate`"),
        ({"tune": {"trials": 2, "seeds": [0, 0], "grids": {"ft": {"lr": [1e-3]}}}}, "tune.seeds=[0, 0]"),
        (
            {"tune": {"trials": 2, "grids": {"ft": {"lr": [1e-3]}}}, "data": {"source": {"init_args": {"num_val": 0}}}},
            "no client has any",
        ),
        ({"sweep": {"methods.nope.lr": [1]}}, "the methods are none, ft, lpft"),
        ({"sweep": {"data.nope": [1]}}, "no `nope`"),
        ({"sweep": {"federation.rounds": [0]}}, "rounds"),
        ({"sweep": {"methods.lpft.lp_epochs": [3, 30]}}, "lp_epochs=30"),
    ],
)
def test_combinations_that_do_not_fit_are_refused(
    sections, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lpft("run", "-c", TOY, "-c", extra(tmp_path, **sections), "--out", tmp_path / "run", code=2)
    assert message in capsys.readouterr().err


def test_tuning_in_stages_needs_the_models_of_its_seeds(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-c", extra(tmp_path, tune={"trials": 2, "seeds": [2], "grids": {"ft": {"lr": [1e-3]}}}), "--only", "ft")
    toy("federate", out, "--seeds", "[1]")
    toy("tune", out, *words, "--seeds", "[1]", code=2)
    assert "seed_2" in capsys.readouterr().err
    toy("federate", out, *words, "--seeds", "[1]")
    toy("tune", out, *words, "--seeds", "[1]")
    toy("personalize", out, *words, "--seeds", "[1]")
    assert Run(out).tuning.seeds() == [2]
    assert Run(out).methods(2) == []
