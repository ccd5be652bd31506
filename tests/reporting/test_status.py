import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import CLIENTS, make_run
from rich.console import Console

from lpft.reporting.analysis import analyze
from lpft.reporting.status import print_status, read_status
from lpft.reporting.status_table import render_status
from lpft.runtime.heartbeat import Heartbeat, Work, work_in_progress
from lpft.storage.atomic import write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run


def rendered(run: Run) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_status(read_status(run)), crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_finished_run(tmp_path: Path) -> None:
    found = read_status(make_run(tmp_path, seeds=(0, 1)))
    assert found.complete
    assert [str(model) for model in found.models] == ["done (60 rounds)"] * 2
    assert all((part.done, part.expected) == (10, 10) for part in found.methods)
    assert len(found.methods) == 10


def test_everything_that_can_be_wrong(tmp_path: Path) -> None:
    def edit(cell: ClientResult) -> ClientResult | None:
        if cell.seed == 1 and (cell.method == "lp" or cell.client in CLIENTS[:2]):
            return None
        return replace(cell, status="diverged") if cell.client == CLIENTS[2] else cell

    run = make_run(tmp_path, seeds=(0, 1), methods=("ft", "lp"), edit=edit)
    run.cell(0, "lp", CLIENTS[5]).write_text("")
    run.global_model(1).unlink()
    found = read_status(run)
    parts = {(part.seed, part.method): part for part in found.methods}
    assert (parts[0, "ft"].done, parts[0, "ft"].diverged, parts[0, "ft"].complete) == (10, 1, True)
    assert (parts[0, "lp"].done, len(parts[0, "lp"].damaged), parts[0, "lp"].missing) == (9, 1, [])
    assert parts[1, "ft"].missing == list(CLIENTS[:2])
    assert (parts[1, "lp"].done, len(parts[1, "lp"].missing)) == (0, 10)
    assert not found.complete
    text = rendered(run)
    for words in ("60/60 rounds", "9/10, 1 damaged, 1 diverged", "8/10, 1 diverged", "0/10", f"{CLIENTS[5]}.json"):
        assert words in text


def test_planned_but_not_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0, 7), edit=lambda cell: None)
    for seed in (0, 7):
        run.global_model(seed).unlink()
        run.global_file(seed, "history.csv").unlink()
    found = read_status(run)
    assert [str(model) for model in found.models] == ["missing", "missing"]
    assert {part.expected for part in found.methods} == {10}
    assert "report   not written yet" in rendered(run)


def test_history_that_was_cut_off(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), edit=lambda cell: None)
    run.global_model(0).unlink()
    run.global_file(0, "history.csv").write_text(
        "round,train_loss,val_accuracy,num_clients,seconds\n1,2.0,,10,0.3\n2,1.9"
    )
    assert str(read_status(run).models[0]) == "2/60 rounds"


@pytest.mark.parametrize("content", [b"", b"\xff\x00\n\xfe,\n1,2\n", b"round\nx\n" + b"y" * 200_000])
def test_history_that_is_damaged(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path, seeds=(0,))
    run.global_file(0, "history.csv").write_bytes(content)
    assert str(read_status(run).models[0]) == "done"
    assert analyze(run).histories == {0: []}


def test_json_has_it_all(tmp_path: Path) -> None:
    content = json.loads(json.dumps(read_status(make_run(tmp_path, seeds=(0,))).to_json()))
    assert content["complete"] is True
    assert content["methods"][0]["method"] == "none"
    model = {"seed": 0, "done": True, "rounds": 60, "planned": 60, "running": False, "failed": ""}
    assert content["models"][0] == model
    assert content["outlook"]["seconds_left"] == 0
    assert content["errors"] == []


def test_printed_json_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_status(make_run(tmp_path, seeds=(0,), methods=("ft",)))
    print_status(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == found.to_json()
    print_status(found)
    assert "10/10" in capsys.readouterr().out


@contextmanager
def working(run: Run, *work: Work) -> Iterator[None]:
    here = Heartbeat(run)
    here.set_work(work)
    while not work_in_progress(run):
        time.sleep(0.01)
    yield
    here.close()


def test_every_cell_is_done_running_failed_missing_or_damaged(tmp_path: Path) -> None:
    """Of ft's ten cells of seed 0 five are there, one of them damaged; a stack is worked on that has failed before."""
    run = make_run(
        tmp_path,
        seeds=(0, 1),
        methods=("ft", "lp"),
        edit=lambda cell: None if (cell.seed, cell.method) == (0, "ft") and cell.client in CLIENTS[5:] else cell,
    )
    run.cell(0, "ft", CLIENTS[0]).write_text("")
    for number, clients in ((4, CLIENTS[4:6]), (6, CLIENTS[6:8])):
        run.write_failure(run.failure(0, "ft", number), 0, "ft", clients, "Traceback\nRuntimeError: broken")
    run.write_failure(run.failure(0, "lp", 2), 0, "lp", CLIENTS[2:4], "made good since")
    run.global_model(1).unlink()
    run.write_failure(run.failure(1, "global"), 1, "global", [], "In round 3 all clients have diverged.")
    with working(run, Work(0, "ft", list(CLIENTS[6:8])), Work(0, "lp", list(CLIENTS[:2]))):
        found, text = read_status(run), rendered(run)
    ft = next(part for part in found.methods if (part.seed, part.method) == (0, "ft"))
    assert (ft.done, ft.running, ft.failed) == (4, list(CLIENTS[6:8]), {CLIENTS[5]: "RuntimeError: broken"})
    assert (ft.missing, len(ft.damaged)) == (list(CLIENTS[8:]), 1)
    assert str(found.models[1]) == "60/60 rounds, failed"
    assert [(error.where, error.error) for error in found.errors] == [
        (f"seed 0, ft, clients {CLIENTS[4]}, {CLIENTS[5]}", "RuntimeError: broken"),
        (f"seed 0, ft, clients {CLIENTS[6]}, {CLIENTS[7]}", "RuntimeError: broken"),
        ("seed 1, global", "In round 3 all clients have diverged."),
    ]
    assert found.eta.at_work == 2
    for words in ("4/10, 2 running, 1 failed, 1 damaged", "(and 1 more): RuntimeError: broken", "2 stacks at a time"):
        assert words in text
    assert "made good since" not in text
    assert json.loads(json.dumps(found.to_json()))["outlook"]["seconds_left"] > 0


def test_a_global_model_that_is_trained(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0,), edit=lambda cell: None)
    run.global_model(0).unlink()
    run.global_file(0, "history.csv").write_text("round,train_loss,val_accuracy,num_clients,seconds\n1,2.0,,10,0.5\n")
    with working(run, Work(0, "global", [])):
        assert str(read_status(run).models[0]) == "1/60 rounds, running"
        assert read_status(run).eta.seconds_of_rounds == 59 * 0.5
        assert "rounds 0:30, then personalization unknown" in rendered(run)
    assert str(read_status(run).models[0]) == "1/60 rounds"


def test_a_model_on_pooled_data_that_is_trained(tmp_path: Path) -> None:
    run = make_run(tmp_path, seeds=(0, 1))
    pooled = run.reference("pooled")
    write_atomically(pooled.global_file(1, "history.csv"), "round,val_accuracy\n1,10.0\n2,20.0\n")
    with working(pooled, Work(1, "global", [])):
        found = read_status(run)
        assert [str(model) for model in found.others["pooled"]] == ["missing", "2 rounds, running"]
        assert found.to_json()["others"]["pooled"][1]["rounds"] == 2
        assert "2 rounds, running" in rendered(run)


def test_jobs_that_wait_or_have_failed_at_the_start(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.logs.mkdir()
    assert "its jobs are waiting (squeue --me)" in rendered(run)
    (run.logs / "lpft-federate-7.log").write_text("/var/spool/slurm/script: line 9: lpft: command not found\n")
    assert "lpft: command not found" in rendered(run)
    assert not read_status(run).complete


def test_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        read_status(Run(tmp_path))


def test_answers_at_once(tmp_path: Path) -> None:
    """Nothing heavy is imported, not even numpy."""
    run = make_run(tmp_path, seeds=(0,))
    code = (
        "import sys; from lpft.reporting.status import read_status; from lpft.storage.run import Run;"
        "from lpft.reporting.status_table import render_status;"
        f"render_status(read_status(Run({str(run.root)!r})));"
        "print([n for n in ('torch', 'lightning', 'numpy', 'matplotlib', 'pandas', 'tensorboard') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
