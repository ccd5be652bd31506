"""References from end to end: the model of the pooled data, what sweeps share, what is refused, what pages say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lpft.config.study import open_study
from lpft.federated.checkpoint import Checkpoint
from lpft.federated.fedavg import FedAvg
from lpft.federated.federate import GlobalTask, train_global_models
from lpft.federated.settings import Federation
from lpft.models.weights import load_model
from lpft.personalization.worker import StackWorker
from lpft.reporting.analysis import analyze
from lpft.reporting.references import Gains, gains, gains_line, reference_rows
from lpft.storage.run import Run
from tests.commands import TOY, lpft, outcome, save_methods, table, toy
from tests.toy import ToySource, same_bits

pytestmark = pytest.mark.usefixtures("undrawn")

REFERENCES = {
    "none": {"class_path": "lpft.methods.ft.NoFineTuning"},
    "local": {"class_path": "lpft.methods.references.Local"},
    "pooled": {"class_path": "lpft.methods.references.Pooled"},
    "ft": {"class_path": "lpft.methods.ft.FT"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_methods(tmp_path_factory.mktemp("config") / "references.yaml", REFERENCES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Run:
    """A finished run with both references; do not change it."""
    return toy("run", tmp_path_factory.mktemp("finished"), "-c", config)


class Everything(ToySource):
    """The toy data as one client."""

    def table(self):  # type: ignore[no-untyped-def]
        table = super().table()
        names = dict.fromkeys(table["domain"].cat.categories, "pooled")
        return table.assign(domain=table["domain"].map(names).astype("category"))

    def given_splits(self, table):  # type: ignore[no-untyped-def]
        return {"pooled": {"train", "val", "test"}}


def test_pooled_training_is_federated_training_of_one_client_with_all_data(tmp_path: Path, config: Path) -> None:
    """Bit for bit, losses and tests of every round included."""
    words = ["-c", TOY, "-c", str(config), "--out", str(tmp_path / "a"), "--federation.local_epochs", "2"]
    (experiment,) = open_study("plan", words).experiments
    task = experiment.reference_tasks()["pooled"]
    words += ["--data.source", "tests.test_pipeline_references.Everything", "--only", "none"]
    (alone,) = open_study("plan", [*words, "--out", str(tmp_path / "b")]).experiments
    other: GlobalTask = alone.global_task()
    assert [client.name for client in other.data.clients] == ["pooled"]
    assert train_global_models(task) == train_global_models(other) == []
    assert same_bits(load_model(task.run.global_model(0))[0], load_model(other.run.global_model(0))[0])
    histories = [table(each.run.global_file(0, "history.csv")) for each in (task, other)]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 3


def test_as_many_passes_over_the_data_as_federated_training() -> None:
    assert Federation(rounds=10, participation=0.4).full_rounds(5) == 4
    assert Federation(rounds=60, participation=0.1).full_rounds(100) == 6
    assert Federation(rounds=3, participation=0.01).full_rounds(4) == 1
    assert Federation(rounds=7).full_rounds(3) == 7


def test_references_have_the_same_files_as_methods(finished: Run) -> None:
    rows = {row["method"]: row for row in table(finished.root / "results.csv")}
    assert list(rows) == list(REFERENCES)
    for method in ("local", "pooled"):
        folder = finished.method_file(0, method, "")
        assert {"accuracy.csv", "clients.csv", "settings.json"} <= {path.name for path in folder.iterdir()}
        assert len(list((folder / "models").iterdir())) == 5
        assert rows[method]["distortion_own"] == ""
        assert float(rows[method]["train_passes"]) >= 3 * (20 + 33 + 40 + 24 + 17)
    assert finished.reference("pooled").global_file(0, "history.csv").exists()
    assert not finished.reference("pooled").global_file(0, "checkpoint.pt").exists()


def test_references_are_not_recommended(finished: Run) -> None:
    analysis = analyze(finished)
    assert reference_rows(analysis.experiment.config) == {"local": "local", "pooled": "pooled"}
    assert {each.best_method for each in analysis.recommendations} <= {"none", "ft"}
    assert not {each.method for each in analysis.diagnostics} & {"local", "pooled"}


def test_the_page_states_the_gains(finished: Run) -> None:
    rows = {row["method"]: float(row["local"]) for row in table(finished.root / "results.csv")}
    found = gains(analyze(finished))
    assert found is not None
    assert found.over_local == pytest.approx(rows["none"] - rows["local"])
    assert found.over_pooled == pytest.approx(rows["none"] - rows["pooled"])
    assert found.personalizing == pytest.approx(rows["ft"] - rows["none"])
    for name in ("report.md", "report.html"):
        assert gains_line(found) in (finished.root / name).read_text()


def test_the_line_contains_the_existing_references() -> None:
    assert gains_line(None) == ""
    assert gains_line(Gains(12.34, -1.2, 2.1, "lpft", 3)) == (
        "Federated training gained 12.3 points of Local over training on only local data, and lost 1.2 against one"
        " model trained on pooled data; personalizing (lpft) gained 2.1 on top (mean over 3 seeds)."
    )
    assert gains_line(Gains(None, 1.0, None, None, 1)) == (
        "Federated training gained 1.0 points of Local over one model trained on pooled data (one seed)."
    )


def test_without_references_there_is_no_line(out: Path) -> None:
    run = toy("run", out, "--seeds", "[0]", "--only", "none")
    assert gains(analyze(run)) is None


def test_references_do_not_depend_on_personalization(out: Path, config: Path) -> None:
    """The same folder, other settings of personalization: nothing is refused, nothing is trained again."""
    words = ("-c", config, "--only", "local,pooled")
    run = toy("run", out, *words)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("seed_0/*/cells/*")}
    assert len(stamps) == 10
    toy("run", out, *words, "--personalization.epochs", 5, "--personalization.batch_size", 8)
    assert {path: path.stat().st_mtime_ns for path in out.glob("seed_0/*/cells/*")} == stamps
    assert len(table(run.root / "results.csv")) == 2
    toy("run", out, *words, "--federation.rounds", 4, code=2)


def test_a_sweep_over_personalization_makes_them_once(
    out: Path, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fit, fit_stack = FedAvg.fit, StackWorker._fit

    def counted(self: FedAvg, *args: Any) -> bool:
        trained.append(self.data.clients[0].name)
        return fit(self, *args)

    def counted_stack(self: StackWorker, job: Any, *args: Any) -> Any:
        trained.extend([job.method] * len(job.clients))
        return fit_stack(self, job, *args)

    monkeypatch.setattr(FedAvg, "fit", counted)
    monkeypatch.setattr(StackWorker, "_fit", counted_stack)
    words = ("-c", config, "--only", "local,pooled,ft")
    sweep = ("--sweep", "{personalization.batch_size: [16, 8], federation.rounds: [1, 2]}")
    toy("run", out, *words, *sweep)
    assert trained.count("pooled") == 2 + 2 * 5, "two models of the pooled data, and two times five results"
    assert (trained.count("local"), trained.count("ft")) == (10, 20)
    alone = toy("run", tmp_path / "alone", *words, "--federation.rounds", 2, "--personalization.batch_size", 8)
    point = Run(out / "points" / "batch_size=8,rounds=2")
    assert outcome(point) == outcome(alone)
    trained.clear()
    toy("run", out, *words, *sweep)
    assert trained == []


def test_stages_one_by_one(out: Path, config: Path, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    toy("federate", out, "-c", config, "--only", "none")
    toy("personalize", out, "-c", config, code=2)
    assert "`pooled`" in capsys.readouterr().err
    toy("plan", out, "-c", config)
    assert "federate 1 2" in capsys.readouterr().out
    toy("federate", out, "-c", config)
    toy("personalize", out, "-c", config)
    lpft("report", out)
    assert outcome(Run(out)) == outcome(finished)


def test_training_on_pooled_data_resumes(out: Path, config: Path, finished: Run, monkeypatch: Any) -> None:
    """Stopped after the second round of pooled training, it continues there, to the same model."""
    save, stopped = Checkpoint.save, []

    def interrupted(self: Checkpoint, path: Path, fingerprint: str) -> None:
        save(self, path, fingerprint)
        if "references" in path.parts and self.round == 2 and not stopped:
            stopped.append(path)
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    monkeypatch.setattr("lpft.federated.files.WRITE_EVERY", 0.0)
    toy("federate", out, "-c", config, code=130)
    assert stopped[0].exists()
    toy("federate", out, "-c", config)
    model = finished.reference("pooled").global_model(0)
    assert Run(out).reference("pooled").global_model(0).read_bytes() == model.read_bytes()


def test_status_reports_that_pooled_training_failed(
    out: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = FedAvg.fit

    def failing(self: FedAvg, *args: Any) -> bool:
        if self.data.clients[0].name == "pooled":
            raise FloatingPointError("by a test")
        return fit(self, *args)

    monkeypatch.setattr(FedAvg, "fit", failing)
    toy("federate", out, "-c", config, code=1)
    capsys.readouterr()
    lpft("status", out)
    shown = capsys.readouterr().out
    assert "by a test" in shown
    assert "references/pooled" in shown.replace("\n", "")
    monkeypatch.undo()
    toy("federate", out, "-c", config)
    capsys.readouterr()
    lpft("status", out)
    assert "by a test" not in capsys.readouterr().out


def test_a_model_from_a_file_needs_their_epochs(
    out: Path, config: Path, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    init = ("-c", config, "--federation.init", finished.global_model(0))
    toy("run", out, *init, code=2)
    assert "--methods.local.epochs" in capsys.readouterr().err
    epochs = ("--methods.local.epochs", 2, "--methods.pooled.epochs", 2)
    run = toy("run", out, *init, *epochs)
    assert len(table(run.reference("pooled").global_file(0, "history.csv"))) == 2
    assert len(table(run.root / "results.csv")) == 4


def test_references_are_not_tuned(out: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy("run", out, "-c", config, "--tune", "{trials: 2, grids: {local: {epochs: [2]}}}", code=2)
    assert "tune.grids.local" in capsys.readouterr().err


def test_new_clients_have_no_part_in_the_pooled_data(out: Path, config: Path) -> None:
    run = toy("run", out, "-c", config, "--data.held_out", "[c4]", "--only", "pooled,local")
    for method in ("pooled", "local"):
        rows = {row["client"]: row for row in table(run.method_file(0, method, "clients.csv"))}
        assert rows["c4"]["took_part"] == "false"
        assert rows["c4"]["local"]
    passes = {row["method"]: row["train_passes"] for row in table(run.root / "results.csv")}
    assert float(passes["pooled"]) == 3 * (20 + 33 + 40 + 24)
