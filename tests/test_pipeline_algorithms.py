"""Algorithms of federated training from end to end: rows that are trained in the process, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import lpft as api
from lpft.config.study import open_study
from lpft.models.weights import load_model
from lpft.reporting.analysis import analyze
from lpft.storage.run import Run
from tests.commands import TOY, lpft, outcome, save_methods, table, toy
from tests.toy import same_bits

pytestmark = pytest.mark.usefixtures("undrawn")

ROWS = {
    "none": {"class_path": "lpft.methods.ft.NoFineTuning"},
    "ft": {"class_path": "lpft.methods.ft.FT"},
    "fedbn": {"class_path": "lpft.methods.federated.FedBN"},
    "fedrep": {"class_path": "lpft.methods.federated.FedRep", "init_args": {"head_epochs": 2}},
    "ditto": {"class_path": "lpft.methods.federated.Ditto"},
}
IN_PROCESS = ("fedbn", "fedrep", "ditto")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_methods(tmp_path_factory.mktemp("config") / "rows.yaml", ROWS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Run:
    """A finished run with every row; do not change it."""
    return toy("run", tmp_path_factory.mktemp("finished"), "-c", config, "--data.held_out", 1)


def test_rows_contain_the_clients_own_models(finished: Run) -> None:
    """A client's model is the federation's with the entries it keeps; a new client has the federation's alone."""
    clients = [row["client"] for row in table(finished.root / "seed_0" / "fedrep" / "clients.csv")]
    (new,) = [
        row["client"] for row in table(finished.root / "seed_0" / "ft" / "clients.csv") if row["took_part"] == "false"
    ]
    took_part = [client for client in clients if client != new]
    for method, entry in (("fedbn", "body.1.running_mean"), ("fedrep", "head.weight"), ("ditto", "body.0.weight")):
        reference = finished.reference(method)
        shared, _ = load_model(reference.global_model(0))
        own, _ = load_model(reference.client_models(0))
        for client in clients:
            model, _ = load_model(finished.model(0, method, client))
            place = took_part.index(client) if client != new else None
            expected = {name: shared[name] if place is None or name not in own else own[name][place] for name in shared}
            assert same_bits(model, expected)
        assert len(own[entry]) == 4


def test_rows_cost_the_rounds_in_which_a_client_takes_part(config: Path, tmp_path: Path) -> None:
    """Two of five clients in each of ten rounds: four passes over everybody's data, whoever says that there are ten."""
    words = ["-c", str(TOY), "-c", str(config), "--federation.participation", "0.4", "--out", str(tmp_path)]
    by_experiment, own = (
        open_study("plan", [*words, *more]).experiments[0]
        for more in (["--federation.rounds", "10"], ["--methods.fedbn.epochs", "10"])
    )
    for experiment in (by_experiment, own):
        assert experiment.reference_training(experiment.references["fedbn"]).epochs == 4


def test_rows_fill_the_same_matrix_and_are_marked(finished: Run) -> None:
    rows = {row["method"]: row for row in table(finished.root / "results.csv")}
    assert list(rows) == list(ROWS)
    for method in IN_PROCESS:
        assert api.load(finished.root).matrix(method, 0).shape == (5, 5)
        assert not np.isnan(api.load(finished.root).matrix(method, 0).to_numpy()).any()
        assert rows[method]["distortion_own"] == ""
    analysis = analyze(finished)
    assert {each.best_method for each in analysis.recommendations} <= {"none", "ft"}
    for name in ("report.md", "report.html"):
        assert (
            "Trained in the process, in a federation of their own: fedbn, fedrep, ditto."
            in (finished.root / name).read_text()
        )


def test_their_cost(finished: Run) -> None:
    """Three rounds of one epoch: FedBN 3 passes, FedRep 3 * (1 + 2 / 3), Ditto 6, per training sample."""
    clients = {m: table(finished.root / "seed_0" / m / "clients.csv") for m in IN_PROCESS}
    samples = sum(int(row["num_train"]) for row in clients["fedbn"] if row["took_part"] == "true")
    rows = {row["method"]: float(row["train_passes"]) for row in table(finished.root / "results.csv")}
    assert [rows[method] / samples for method in IN_PROCESS] == pytest.approx([3, 5, 6])


def test_stages_one_by_one_and_again(
    out: Path, config: Path, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-c", config, "--data.held_out", 1)
    toy("federate", out, *words, "--only", "none,ft")
    toy("personalize", out, *words, code=2)
    assert "`fedbn`" in capsys.readouterr().err
    toy("federate", out, *words)
    Run(out).reference("ditto").client_models(0).write_bytes(b"cut off")  # found, and trained again
    toy("federate", out, *words)
    toy("personalize", out, *words)
    lpft("report", out)
    assert outcome(Run(out)) == outcome(finished)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    toy("run", out, *words)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps


def test_the_global_model_of_ditto_is_fedavgs(out: Path, finished: Run) -> None:
    run = toy("federate", out, "--seeds", "[0]", "--federation.algorithm", "lpft.federated.algorithms.Ditto")
    assert run.client_models(0).exists()
    plain = toy("federate", out.with_name("plain"), "--seeds", "[0]")
    assert not plain.client_models(0).exists()
    assert same_bits(load_model(run.global_model(0))[0], load_model(plain.global_model(0))[0])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ("--federation.algorithm", "lpft.federated.algorithms.Scaffold", "--federation.optimizer.momentum", 0.9),
            "SGD",
        ),
        (("--federation.algorithm", "lpft.federated.algorithms.FedBN", "--network.norm", "false"), "--network.norm"),
        (("--methods.own", "lpft.methods.federated.FedBN", "--network.norm", "false"), "methods.own"),
        (("--federation.server_optimizer", "torch.optim.LBFGS"), "LBFGS"),
        (("--federation.algorithm", "lpft.federated.algorithms.FedProx", "--federation.algorithm.mu", -1), "mu"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    words: tuple[object, ...], named: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy("run", out, *words, code=2)
    assert named in capsys.readouterr().err
    assert not (out / "seed_0").exists()


def test_algorithms_can_be_swept(out: Path) -> None:
    """Each point says which it is; runs of another algorithm do not share global models."""
    swept = "[null, {class_path: lpft.federated.algorithms.FedProx, init_args: {mu: 0.5}}]"
    ditto = ("--methods.ditto", "lpft.methods.federated.Ditto", "--only", "none,ditto")
    run = toy("run", out, "--seeds", "[0]", *ditto, "--sweep", f"{{federation.algorithm: {swept}}}")
    points = {point.root.name: point for point in run.points()}
    assert list(points) == ["algorithm=FedProx", "algorithm=null"]
    models = [load_model(point.global_model(0))[0] for point in points.values()]
    assert not same_bits(*models)
    files = [point.reference("ditto").global_file(0, "history.csv") for point in points.values()]
    assert files[0].read_bytes() == files[1].read_bytes(), "with its seconds: trained once"
    point = yaml.safe_load(points["algorithm=FedProx"].config.read_text())["provenance"]["point"]
    assert point["federation.algorithm"]["init_args"] == {"mu": 0.5}
