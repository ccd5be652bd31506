"""Flower for real: a SuperLink, SuperNodes and `flwr run` on this machine, or its simulation engine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

pytest.importorskip("flwr", reason="needs the extra `flower`")

from lpft.flower.app_folder import write_app
from lpft.storage.run import Run
from tests.commands import TOY, table, toy

pytestmark = pytest.mark.flower

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
LONGEST = 300


class Deployment:
    """The processes of a federation on this machine, each ended by its number.

    Args:
        folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FLWR_HOME": str(folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [str(PROGRAMS / words[0]), *words[1:]]
            self.processes.append(
                subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            )

    def link(self, *words: str) -> None:
        self.start("link", "flower-superlink", "--insecure", "--host=127.0.0.1", f"--port={self.port}", *words)
        end = time.monotonic() + LONGEST
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.processes[0].poll() is None, self.logs()
                assert time.monotonic() < end, self.logs()
                time.sleep(0.2)

    def node(self, number: int, count: int) -> None:
        words = ("--insecure", f"--superlink=127.0.0.1:{self.port}", "--host=127.0.0.1", f"--port={free_port()}")
        config = f"partition-id={number} num-partitions={count}"
        self.start(f"node_{number}", "flower-supernode", *words, f"--node-config={config}")

    def run(self, app: Path, config: str, *words: str) -> str:
        command = [str(PROGRAMS / "flwr"), "run", str(app), "here", "--stream", "--run-config", config, *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LONGEST
        )
        return done.stdout + done.stderr

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def left(self) -> list[str]:
        """Return the processes that still have this deployment's environment."""
        mark, found = f"FLWR_HOME={self.folder / 'home'}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended, or is another's
                continue
        return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    made = Deployment(folder)
    try:
        yield made
    finally:
        made.stop()
    end = time.monotonic() + 30
    while made.left() and time.monotonic() < end:
        time.sleep(0.2)
    assert made.left() == []


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The shipped app with the toy experiment."""
    write_app(tmp_path / "app")
    shutil.copy(TOY, tmp_path / "app" / "experiment.yaml")
    return tmp_path / "app"


WORDS = ("--federation.clients_per_stack=1", "--federation.rounds=1", "--seeds=[0]")


def config(folder: Path) -> str:
    """Write a run configuration, and return its name."""
    settings = json.dumps(shlex.join([f"--out={folder / 'flower'}", *WORDS]))
    (folder / "run.toml").write_text(f'methods = "lpft"\nsettings = {settings}\n')
    return str(folder / "run.toml")


def test_a_deployment_trains_the_same_model_as_lpft(app: Path, tmp_path: Path) -> None:
    with deployment(tmp_path) as flower:
        flower.link()
        for number in range(2):
            flower.node(number, 2)
        said = flower.run(app, config(tmp_path))
        check(tmp_path, said + flower.logs())


def test_a_simulation_trains_the_same_model_as_lpft(app: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs flwr[simulation]")
    with deployment(tmp_path) as flower:
        flower.link("--simulation")
        said = flower.run(app, config(tmp_path), "--federation-config", "num-supernodes=2")
        check(tmp_path, said + flower.logs())


def check(folder: Path, said: str) -> None:
    """The bytes are the same, `lpft personalize` goes on, and the nodes' figures are those of this machine."""
    run, reference = Run(folder / "flower"), toy("federate", folder / "lpft", *WORDS)
    assert run.nodes.exists(), said
    assert run.global_model(0).read_bytes() == reference.global_model(0).read_bytes()
    toy("personalize", run.root, *WORDS, "--only", "lpft")
    local = {row["client"]: row["local"] for row in table(run.method_file(0, "lpft", "clients.csv"))}
    assert {row["client"]: row["local_after"] for row in table(run.nodes)} == local
    assert len(yaml.safe_load(run.config.read_text())["provenance"]["flower"]["0"]["nodes"]) == 2
    assert sorted(path.parent.name for path in run.root.glob("nodes/*/report.html")) == ["0_of_2", "1_of_2"]
