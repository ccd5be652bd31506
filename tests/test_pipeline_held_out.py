"""Clients that are held out, from end to end: federated training without them, results and tables with them."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest
import yaml

from lpft.federated.federate import GlobalTask, train_global_models
from lpft.models.weights import load_model
from lpft.runtime.devices import Devices
from lpft.storage.run import Run
from tests.commands import lpft, table, toy
from tests.federated.test_fedavg import settings
from tests.toy import ToyNet, same_bits, toy_data, toy_module

pytestmark = pytest.mark.usefixtures("undrawn")

HELD_OUT = ("--data.held_out", "[c1, c4]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with two of five clients held out; do not change it."""
    return toy("run", tmp_path_factory.mktemp("finished"), *HELD_OUT)


@pytest.mark.parametrize("devices", [1, 2])
def test_federated_training_ignores_held_out_clients(tmp_path: Path, devices: int) -> None:
    """Bit for bit, cohorts, losses and tests of every round included."""

    class Without(type(toy_module().source)):  # type: ignore[misc]
        """The same data; but c1 and c4 have none."""

        def table(self):  # type: ignore[no-untyped-def]
            table = super().table()
            table = table[~table["domain"].isin(["c1", "c4"])].reset_index(drop=False)
            self._kept = table.pop("index").to_numpy()
            return table.assign(domain=table["domain"].cat.remove_unused_categories())

        def images(self, positions):  # type: ignore[no-untyped-def]
            self.table()
            return self._images[self._kept[positions]].transpose(0, 2, 3, 1)

    held_out, without = toy_data(), toy_data()
    held_out._held_out = ["c1", "c4"]
    without.source, without._arrays = Without(), None
    without.setup()
    assert [client.name for client in without.clients] == ["c0", "c2", "c3"]
    chosen = settings(rounds=4, participation=0.6)
    for name, data in (("held_out", held_out.participants()), ("without", without)):
        network = partial(ToyNet, norm=True)
        task = GlobalTask(Run(tmp_path / name), [0], data, network, chosen, Devices("cpu", devices=devices), 2, "f")
        assert train_global_models(task) == []
    one, other = (Run(tmp_path / name) for name in ("held_out", "without"))
    assert same_bits(load_model(one.global_model(0))[0], load_model(other.global_model(0))[0])
    histories = [table(run.global_file(0, "history.csv")) for run in (one, other)]
    assert histories[0] == histories[1]
    assert {row["num_clients"] for row in histories[0]} == {"2"}


def test_held_out_clients_are_personalized_and_tested(finished: Run) -> None:
    for method in ("none", "ft", "lpft"):
        rows = table(finished.method_file(0, method, "clients.csv"))
        assert [row["client"] for row in rows] == [f"c{i}" for i in range(5)]
        assert [row["took_part"] for row in rows] == ["true", "false", "true", "true", "false"]
        assert all(row["status"] == "ok" and row["local"] for row in rows)
    assert yaml.safe_load(finished.config.read_text())["provenance"]["held_out"] == ["c1", "c4"]
    assert {row["num_clients"] for row in table(finished.global_file(0, "history.csv"))} == {"3"}


def test_the_table_of_both_kinds_follows_from_the_clients(finished: Run) -> None:
    rows = table(finished.root / "held_out.csv")
    expected = [(s, m, c) for s in "01" for m in ("none", "ft", "lpft") for c in ("took part", "new")]
    assert [(row["seed"], row["method"], row["clients"]) for row in rows] == expected
    for row in rows:
        took_part = {"took part": "true", "new": "false"}[row["clients"]]
        of_method = table(finished.method_file(int(row["seed"]), row["method"], "clients.csv"))
        own = [client for client in of_method if client["took_part"] == took_part]
        assert int(row["num_clients"]) == len(own)
        for name, column in (("local", "local"), ("global_all", "global_all"), ("worst_row", "worst")):
            assert float(row[name]) == pytest.approx(sum(float(client[column]) for client in own) / len(own), abs=1e-9)
    results = {(row["seed"], row["method"]): float(row["local"]) for row in table(finished.root / "results.csv")}
    for of_both in zip(rows[::2], rows[1::2], strict=True):
        total = sum(int(row["num_clients"]) * float(row["local"]) for row in of_both)
        assert total / 5 == pytest.approx(results[of_both[0]["seed"], of_both[0]["method"]], abs=1e-9)


def test_pages_and_console_show_both_kinds(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    lpft("report", finished.root)
    shown = capsys.readouterr().out
    for text in ((finished.root / "report.md").read_text(), (finished.root / "report.html").read_text(), shown):
        assert "took part" in text
        assert "new" in text
    assert "| lpft | new |" in (finished.root / "report.md").read_text()


def test_without_held_out_clients_nothing_changes(out: Path) -> None:
    run = toy("run", out, "--seeds", "[0]", "--only", "none")
    assert not (run.root / "held_out.csv").exists()
    assert "took_part" not in table(run.method_file(0, "none", "clients.csv"))[0]
    assert "took part" not in (run.root / "report.md").read_text()
    toy("run", out, "--seeds", "[0]", "--only", "none", "--data.held_out", 0)  # the same settings


def test_another_choice_needs_other_global_models(finished: Run, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy("federate", out, "--data.held_out", "[c4, c1]")
    toy("federate", out, "--data.held_out", "[c1]", code=2)
    assert "data.held_out" in capsys.readouterr().err
    toy("federate", out, code=2)
    toy("federate", out, "--data.held_out", "[c7]", code=2)
    assert "the clients are c0, c1, c2, c3, c4" in capsys.readouterr().err
    toy("federate", out, "--data.held_out", 5, code=2)
    assert "Traceback" not in capsys.readouterr().err


def test_held_out_clients_take_no_part_in_tuning(out: Path) -> None:
    tune = "{trials: 2, grids: {ft: {lr: [0.1]}}}"
    run = toy("run", out, *HELD_OUT, "--seeds", "[0]", "--only", "ft", "--tune", tune)
    for trial in ("ft+trial0", "ft+trial1"):
        cells = [cell for _, cell in run.tuning.client_results(0, trial)]
        assert [cell.client for cell in cells] == ["c0", "c2", "c3"]  # type: ignore[union-attr]
        assert all(cell.clients == ["c0", "c2", "c3"] for cell in cells)  # type: ignore[union-attr]
    assert len(table(run.method_file(0, "ft_tuned", "clients.csv"))) == 5


def test_held_out_clients_with_a_finished_model(out: Path, tmp_path: Path, finished: Run) -> None:
    init = ("--federation.init", finished.global_model(0))
    run = toy("run", out, *HELD_OUT, "--seeds", "[0]", "--only", "ft", *init)
    with (run.root / "held_out.csv").open(newline="") as file:
        assert [row["clients"] for row in csv.DictReader(file)] == ["took part", "new"]
