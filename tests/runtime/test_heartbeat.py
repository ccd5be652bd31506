import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lpft.runtime import heartbeat
from lpft.runtime.heartbeat import Heartbeat, Work, work_in_progress
from lpft.storage.run import Run


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LOOK", 0.01)


def wait_for(run: Run, work: list[Work]) -> None:
    end = time.monotonic() + 20
    while work_in_progress(run) != work:
        assert time.monotonic() < end, work_in_progress(run)
        time.sleep(0.01)


def test_other_processes_see_the_current_work(tmp_path: Path) -> None:
    run, stack, model = Run(tmp_path), Work(0, "ft", ["a", "b"]), Work(1, "global", [])
    here = Heartbeat(run)
    here.close()
    assert work_in_progress(run) == []
    here = Heartbeat(run)
    here.set_work([stack])
    wait_for(run, [stack])
    here.set_work([stack, model])
    wait_for(run, [stack, model])
    here.close()
    assert list(run.working.iterdir()) == []


def test_the_heartbeat_of_a_killed_process_does_not_count(tmp_path: Path) -> None:
    run = Run(tmp_path)
    code = (
        "import os, signal, time; from lpft.storage.run import Run\n"
        "from lpft.runtime.heartbeat import Heartbeat, Work, work_in_progress\n"
        f"run = Run({str(tmp_path)!r}); Heartbeat(run).set_work([Work(0, 'ft', ['a'])])\n"
        "while not work_in_progress(run): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode < 0
    assert len(list(run.working.iterdir())) == 1
    assert work_in_progress(run) == []


def test_a_heartbeat_of_another_machine_counts_while_it_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, work = Run(tmp_path), Work(0, "ft", ["a"])
    monkeypatch.setattr("socket.gethostname", lambda: "other")
    monkeypatch.setattr(heartbeat, "RENEW", 0.02)
    here = Heartbeat(run)
    here.set_work([work])
    wait_for(run, [work])
    monkeypatch.undo()
    monkeypatch.setattr(heartbeat, "RENEW", 0.02)
    path = here.path
    os.utime(path, (1, 1))
    wait_for(run, [work])
    here.close()
    path.write_text('{"host": "other", "pid": 1, "work": [{"seed": 0, "part": "ft", "clients": ["a"]}]}')
    assert work_in_progress(run) == [work]
    os.utime(path, (time.time() - heartbeat.LOST - 1,) * 2)
    assert work_in_progress(run) == []


@pytest.mark.parametrize("text", ["", "[]", '{"host": "x"}', '{"host": "x", "pid": 1, "work": [{}]}'])
def test_a_damaged_heartbeat_is_ignored(text: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.working.mkdir(parents=True)
    (run.working / "x-1.json").write_text(text)
    assert work_in_progress(run) == []


def test_work_continues_if_heartbeats_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    here = Heartbeat(Run(tmp_path))
    here.set_work([Work(0, "ft", ["a"])])
    time.sleep(0.05)
    here.close()
    assert work_in_progress(Run(tmp_path)) == []
