"""The experiment commands from end to end: files, selections, resuming, other numbers of processes."""

from __future__ import annotations

import csv
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score

from lpft.config.study import open_study
from lpft.evaluation.metric import Evaluation, compute_metric
from lpft.evaluation.metrics import METRICS
from lpft.storage.run import Run, read_client_result
from lpft.types import DataSpec
from tests.commands import TOY, outcome, table, toy
from tests.toy import ToyNet, same_bits, toy_data

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[1]


def matrix(run: Run, seed: int, method: str) -> tuple[list[str], np.ndarray]:
    with run.method_file(seed, method, "accuracy.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == header[1:]
    return header[1:], np.array([[float(a or "nan") for a in row[1:]] for row in rows])


def test_a_run_leaves_every_file(finished: Run) -> None:
    for name in ("config.yaml", "results.csv", "summary.csv", "report.html", "report.md", "figures"):
        assert (finished.root / name).exists(), name
    for seed in (0, 1):
        assert {p.name for p in finished.global_model(seed).parent.iterdir()} >= {"history.csv", "model.safetensors"}
        assert not finished.global_file(seed, "checkpoint.pt").exists()
        for method in ("none", "ft", "lpft"):
            folder = finished.method_file(seed, method, "")
            assert {p.name for p in (folder / "cells").iterdir()} == {f"c{i}.json" for i in range(5)}
            of_trained = {"curve.csv", "depth.csv"} if method != "none" else set()
            tables = {"accuracy.csv", "clients.csv", "curves.csv"} | of_trained
            assert {p.name for p in folder.glob("*.csv")} == tables
            assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert not list(finished.root.rglob("*.tmp"))
    config = yaml.safe_load(finished.config.read_text())
    assert config["provenance"]["clients"] == [f"c{i}" for i in range(5)]
    assert config["personalization"]["clients_per_stack"] == 2


def test_results_follow_from_the_matrices(finished: Run) -> None:
    rows = table(finished.root / "results.csv")
    assert [(row["seed"], row["method"]) for row in rows] == [(s, m) for s in "01" for m in ("none", "ft", "lpft")]
    for row in rows:
        _, accuracy = matrix(finished, int(row["seed"]), row["method"])
        evaluation = Evaluation(accuracy)
        matrix_metrics = [metric for metric in METRICS if metric.unit == "%" and row.get(metric.name)]
        assert len(matrix_metrics) >= 10
        for metric in matrix_metrics:
            if np.isfinite(value := compute_metric(metric, evaluation)):
                assert float(row[metric.name]) == pytest.approx(value, abs=1e-12)


def test_matrices_follow_from_the_models(finished: Run) -> None:
    """Loaded into the plain network, and counted by scikit-learn."""
    data = toy_data()
    for method in ("none", "ft", "lpft"):
        names, accuracy = matrix(finished, 1, method)
        for i, name in enumerate(names):
            net = ToyNet(data.spec, norm=True)
            net.load_state_dict(load_file(finished.model(1, method, name)))
            net.eval()
            for j, client in enumerate(data.clients):
                logits = net(data.normalize(data.images[client.test]))
                top = logits.topk(2).values
                assert (top[:, 0] - top[:, 1]).min() > 1e-4, "a tie would make this comparison unfair"
                assert accuracy[i, j] == pytest.approx(100 * accuracy_score(data.labels[client.test], logits.argmax(1)))


def test_the_methods_differ_and_probing_does_not_distort(finished: Run) -> None:
    none, ft, lpft_ = (read_client_result(finished.cell(0, method, "c0")) for method in ("none", "ft", "lpft"))
    assert none.distortion_own == 0 < lpft_.distortion_own < ft.distortion_own  # type: ignore[operator]
    assert none.train_passes == 0
    assert ft.train_passes == 4 * 20
    assert lpft_.train_passes == pytest.approx((2 + 1 / 3) * 20)
    assert [row["epoch"] for row in ft.epochs if "local" in row] == [0, 2, 4]
    assert [row["distortion"] for row in lpft_.epochs if "local" in row][:2] == [0.0, 0.0]


def test_distortion_by_depth_ends_in_that_of_the_features(finished: Run) -> None:
    for cell in (read_client_result(finished.cell(seed, method, "c3")) for seed in (0, 1) for method in ("ft", "lpft")):
        assert cell.depth is not None
        assert list(cell.depth) == ["0 Conv2d", "6 Linear", "features"]
        assert all(value and value > 0 for value in cell.depth.values())
        assert cell.depth["features"] == pytest.approx(cell.distortion_relative, rel=1e-5)
    assert read_client_result(finished.cell(0, "none", "c3")).depth is None
    assert [row["layer"] for row in table(finished.method_file(0, "ft", "depth.csv"))][-1] == "features"


def test_a_diagnosis_that_fails_costs_no_result(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a network like no other")

    monkeypatch.setattr("lpft.personalization.results.distortion_by_depth", fail)
    run = toy("run", out, "--seeds", "[0]", "--only", "none,ft", "--trainer.devices", 1)
    cell = read_client_result(run.cell(0, "ft", "c3"))
    assert cell.status == "ok"
    assert cell.depth is None
    assert not run.method_file(0, "ft", "depth.csv").exists()


def test_a_second_run_does_nothing(finished: Run) -> None:
    def stamps() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in finished.root.rglob("*.*")
            if "cells" in str(path) or "global" in str(path)
        }

    before = stamps()
    toy("run", finished.root)
    assert stamps() == before


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--trainer.devices", 2), marks=pytest.mark.processes),
        ("--trainer.devices", 3),
        ("--trainer.devices", 1, "--trainer.processes_per_device", 2),
    ],
)
def test_any_number_of_processes_gives_the_same_files(finished: Run, words: tuple[object, ...], out: Path) -> None:
    assert outcome(toy("run", out, *words)) == outcome(finished)


def test_dropout_is_the_same_in_any_process_and_after_a_restart(out: Path, tmp_path: Path) -> None:
    words = ("--network.dropout", 0.3, "--only", "lpft")
    whole, apart = (toy("federate", folder, *words) for folder in (out, tmp_path / "apart"))
    toy("personalize", out, *words)
    apart.global_model(1).unlink()
    toy("federate", apart.root, *words, "--trainer.devices", 2)
    toy("personalize", apart.root, *words, "--shard", "1/2", "--trainer.devices", 2)
    toy("personalize", apart.root, *words)
    assert outcome(whole) == outcome(apart)


def test_in_float64_the_size_of_stacks_does_not_matter(tmp_path: Path) -> None:
    sizes = {
        size: toy(
            "run", tmp_path / str(size), "--seeds", "[0]", "--only", "ft,lpft", "--trainer.precision", "64-true",
            "--federation.clients_per_stack", size, "--personalization.clients_per_stack", size,
        )
        for size in (1, 5)
    }  # fmt: skip
    for method in ("ft", "lpft"):
        assert (matrix(sizes[1], 0, method)[1] == matrix(sizes[5], 0, method)[1]).all()


def test_stages_and_shards_equal_run(finished: Run, out: Path) -> None:
    toy("federate", out)
    for shard in ("2/3", "0/3", "1/3"):
        toy("personalize", out, "--shard", shard)
    run = toy("run", out)
    assert outcome(run) == outcome(finished)


def test_methods_can_be_selected_and_added(finished: Run, out: Path) -> None:
    toy("run", out, "--only", "lpft", "--seeds", "[1]")
    run = Run(out)
    assert run.seeds() == [1]
    assert run.methods(1) == ["lpft"]
    toy("run", out, "--seeds", "[1]", "--methods.short", "lpft.methods.ft.FT", "--methods.short.epochs", 1)
    assert run.methods(1) == ["ft", "lpft", "none", "short"]
    assert list(yaml.safe_load(run.config.read_text())["methods"]) == ["none", "ft", "lpft", "short"]
    toy("run", out, "--seeds", "[0]")
    assert yaml.safe_load(run.config.read_text())["seeds"] == [0, 1]
    assert matrix(run, 0, "ft")[1].tolist() == matrix(finished, 0, "ft")[1].tolist()


def test_clients_that_lack_samples_are_marked(out: Path) -> None:
    run = toy(
        "run",
        out,
        "--seeds",
        "[0]",
        "--data.source.counts",
        "[20, 0, 24]",
        "--data.source.num_test",
        "[12, 5, 0]",
    )
    for method in ("none", "ft", "lpft"):
        assert [read_client_result(run.cell(0, method, f"c{i}")).status for i in range(3)] == [
            "ok",
            "no_train",
            "no_test",
        ]
        _, accuracy = matrix(run, 0, method)
        assert np.isnan(accuracy).tolist() == [[False, False, True]] * 3
    base = matrix(run, 0, "none")[1]
    assert (matrix(run, 0, "ft")[1][1, :2] == base[1, :2]).all()  # theta_G itself
    assert (run.root / "report.html").exists()


def test_a_single_client_has_no_others(out: Path) -> None:
    run = toy("run", out, "--data.source.counts", "[20]", "--data.source.num_test", "[12]", "--seeds", "[0]")
    assert all(row["global_others"] == row["worst_row"] == "" for row in table(run.root / "results.csv"))


def test_a_diverged_client_gets_the_global_model(out: Path) -> None:
    run = toy("run", out, "--seeds", "[0]", "--methods.ft.lr", 1e38)
    cell = read_client_result(run.cell(0, "ft", "c1"))
    assert cell.status == "diverged"
    assert cell.accuracy == read_client_result(run.cell(0, "none", "c1")).accuracy
    theirs, ours = load_file(run.model(0, "ft", "c1")), load_file(run.global_model(0))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert cell.distortion_own is None


class OddNet(ToyNet):
    """Has a parameter of its own."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.scale = torch.nn.Parameter(torch.ones(1))


def test_a_finished_model_is_personalized_without_federated_training(finished: Run, out: Path) -> None:
    model = finished.global_model(1)
    run = toy("run", out, "--federation.init", model, "--seeds", "[1]")
    assert not run.global_file(1, "history.csv").exists()
    assert matrix(run, 1, "lpft")[1].tolist() == matrix(finished, 1, "lpft")[1].tolist()


def test_a_model_with_other_names_and_classes_is_personalized(
    finished: Run, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same body, named otherwise, and a new head: the error says how, and the result does not depend on the names."""
    ours = load_file(finished.global_model(0))
    theirs = {name.removeprefix("body.").replace("head.", "fc."): tensor for name, tensor in ours.items()}
    theirs |= {"fc.weight": torch.zeros(7, 10), "fc.bias": torch.zeros(7)}
    torch.save({"state_dict": theirs}, out.parent / "theirs.pt")
    words = ["--seeds", "[0]", "--only", "lpft", "--federation.init"]
    toy("run", out, *words, out.parent / "theirs.pt", code=2)
    error = capsys.readouterr().err
    renames = """{"": "body.", "fc.": "head."}"""
    assert f"--federation.init_map '{renames}'`, and a new head, `--federation.init_head new`" in error
    toy("run", out, *words, out.parent / "theirs.pt", "--federation.init_map", renames, "--federation.init_head", "new")
    run = Run(out)
    new = load_file(run.global_model(0))
    assert all(torch.equal(new[name], tensor) for name, tensor in ours.items() if name.startswith("body."))
    assert not torch.equal(new["head.weight"], ours["head.weight"])
    before = outcome(run)
    toy("run", out, *words, finished.global_model(0), "--federation.init_head", "new")  # the same body, and so settings
    assert outcome(run) == before
    toy("run", out, *words, finished.global_model(0), code=2)
    assert re.search(r"different are: `federation.init` .*, `federation.init_head` \(", capsys.readouterr().err)


def test_a_finished_model_replaces_the_previous_one(finished: Run, out: Path) -> None:
    run = toy("run", out, "--only", "none", "--seeds", "[0]")
    run.global_file(0, "checkpoint.pt").touch()
    toy("run", out, "--only", "none", "--seeds", "[0]", "--federation.init", finished.global_model(1), "--overwrite")
    left = {path.name for path in run.global_model(0).parent.iterdir()}
    assert left == {"model.safetensors", "settings.json"}


def test_a_network_that_is_no_body_with_a_head_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy("run", out, "--network", f"{__name__}.OddNet", code=2)
    assert "outside of body and head: scale" in capsys.readouterr().err
    assert not out.exists()


def test_augmented_runs_do_not_depend_on_processes_and_have_other_settings(
    finished: Run, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seeds", "[0]", "--only", "lpft", "--augment", "lpft.data.transforms.FlipCrop", "--augment.pad", 1]
    one = toy("run", out.parent / "one", *words)
    two = toy("run", out.parent / "two", *words, "--trainer.devices", 2)
    assert outcome(one) == outcome(two)
    arrays = {yaml.safe_load(run.config.read_text())["provenance"]["content_hash"] for run in (finished, one)}
    assert len(arrays) == 1
    assert not same_bits(load_file(finished.global_model(0)), load_file(one.global_model(0)))
    assert matrix(finished, 0, "lpft")[1].tolist() != matrix(one, 0, "lpft")[1].tolist()
    toy("run", one.root, *words, "--augment.pad", 2, code=2)
    assert "different are: `augment.init_args.pad`" in capsys.readouterr().err


def test_tasks_can_be_sent_to_processes_without_shared_memory(out: Path) -> None:
    (experiment,) = open_study("run", ["-c", TOY, "--out", str(out), "--seeds", "[3]"]).experiments
    for task in (experiment.global_task(), experiment.personal_task()):
        copy = pickle.loads(pickle.dumps(task))
        assert copy.seeds == [3]
        assert copy.run.root == out
    assert copy.fingerprints == task.fingerprints
    assert copy.jobs() == task.jobs()


def test_client_results_contain_their_provenance(finished: Run) -> None:
    cell = json.loads(finished.cell(0, "ft", "c0").read_text())
    assert cell["clients_per_stack"] == 2
    assert cell["device"] == "cpu"
    assert cell["num_train"] == 20
    assert cell["status"] == "ok"


def test_fallback_gives_every_client_the_model_it_should_use(out: Path) -> None:
    run = toy(
        "run", out, "--fallback", "--seeds", "[0]", "--methods.broke", "lpft.methods.ft.FT", "--methods.broke.lr", 1e38
    )
    rows = table(run.method_file(0, "advised", "advised.csv"))
    assert [row["client"] for row in rows] == [f"c{i}" for i in range(5)]
    for row in rows:
        client, name = row["client"], row["model"]
        source = run.global_model(0) if name == "global" else run.model(0, name, client)
        assert run.model(0, "advised", client).read_bytes() == source.read_bytes()
        gains = {m: read_client_result(run.cell(0, m, client)) for m in ("ft", "lpft")}
        better = [c for c in gains.values() if c.val_after > c.val_before]  # type: ignore[operator]
        assert name in ("ft", "lpft") if name != "global" else True
        assert better or name == "global"
    assert "advised" not in run.methods(0)
    toy("run", out, "--only", "ft", "--fallback", "--personalization.save_models", "false", code=2)
