"""Cores, start methods and import paths, on systems that are made up."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lpft.runtime import session
from lpft.runtime.devices import Devices
from lpft.runtime.processes import available_cores, start_method
from tests.commands import TOY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def files(root: Path, **contents: str) -> Path:
    for name, content in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("group", "settings", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/../x\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "3:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("1:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "broken\n"}, 64),
        ("", {}, 64),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, group: str, settings: dict[str, str], cores: int) -> None:
    files(tmp_path, proc__self__cgroup=group)
    files(tmp_path / "sys/fs/cgroup", **settings)
    assert available_cores(tmp_path) == cores


def test_without_information_there_is_one_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("platform", "methods", "device", "expected"),
    [
        ("linux", ["fork", "spawn", "forkserver"], "cpu", "fork"),
        ("linux", ["fork", "spawn", "forkserver"], "cuda", "spawn"),
        ("darwin", ["spawn", "fork", "forkserver"], "cpu", "spawn"),
        ("win32", ["spawn"], "cpu", "spawn"),
    ],
)
def test_the_start_method_is_safe(
    platform: str, methods: list[str], device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPFT_START_METHOD", raising=False)
    monkeypatch.setattr("lpft.runtime.processes._has_autograd_threads", lambda: False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    assert start_method(device) == expected
    monkeypatch.setenv("LPFT_START_METHOD", "spawn")
    assert start_method(device) == "spawn"
    monkeypatch.setenv("LPFT_START_METHOD", "fork" if platform == "win32" else "forkserver")
    with pytest.raises(ValueError, match="LPFT_START_METHOD="):
        Devices("cpu").check()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems never fork")
def test_a_process_in_which_autograd_has_threads_is_not_forked() -> None:
    """Exporting a program is enough: it imports what other devices need."""
    script = """
import torch
from lpft.runtime.processes import start_method
inputs = torch.ones(2, 2)
torch.export.export(torch.nn.Linear(2, 2), (inputs,))
before = start_method("cpu")
torch.ones(2, device="meta", requires_grad=True).sum().backward()
print(before, start_method("cpu"))
"""
    environment = {key: value for key, value in os.environ.items() if key != "LPFT_START_METHOD"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["fork", "spawn"], done.stderr


def test_a_notebook_without_fork_uses_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPFT_START_METHOD", "spawn")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert Devices("cpu", "auto").count == 1
    with pytest.raises(ValueError, match=r"`trainer.devices=2` in a notebook.*`auto`"):
        Devices("cpu", 2).check()
    monkeypatch.setenv("LPFT_START_METHOD", "fork")
    Devices("cpu", 2).check()


def test_apples_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer.accelerator=mps.*--trainer.accelerator cpu"):
        Devices("mps").check()


def placed(folders: list[str], here: str) -> list[str]:
    return session._moved_back(folders, here)


def test_the_working_folder_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = "/usr/lib/python3/site-packages"
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for first in ([""], ["/here"], ["."], []):
        assert placed([*first, "/usr/lib", installed], "/here") == ["/usr/lib", installed, "/here"]
    monkeypatch.setenv("PYTHONPATH", f"/other{os.pathsep}/here")
    assert placed(["/here", "/usr/lib", installed], "/here") == ["/usr/lib", "/here", installed]
    monkeypatch.delenv("PYTHONPATH")
    assert placed([str(ROOT), "/usr/lib", installed], str(ROOT)) == ["/usr/lib", str(ROOT), installed]


def test_import_paths_added_by_a_users_module_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/library"])
    before = list(sys.path)
    with session.importable_working_directory():
        assert sys.path[-1] == str(tmp_path)
        sys.path.append("/added")
    assert sys.path == [*before, "/added"]


@pytest.mark.processes
def test_files_in_the_working_folder_do_not_hide_libraries(tmp_path: Path) -> None:
    """Neither from the command nor from the processes that it starts; but methods there are found."""
    for name in ("queue", "statistics", "random", "torch", "numpy/__init__", "lpft/notes"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('this is the file of the working folder')")
    (tmp_path / "my_methods.py").write_text("from lpft.methods.ft import FT\n\n\nclass MyMethod(FT):\n    pass\n")
    words = ["run", "-c", TOY, "--out", "out", "--seeds", "[0]", "--only", "none,mine", "--trainer.devices", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "lpft", *words, "--methods.mine", "my_methods.MyMethod"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("out/seed_0/mine/cells/*.json"))) == 5


def test_a_script_without_a_guard_gets_an_error(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"import lpft\nlpft.run({TOY!r}, out='out', trainer={{'devices': 2}})\n")
    done = subprocess.run(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LPFT_START_METHOD": "spawn"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "HINT: call it below `if __name__ == '__main__':`" in done.stderr


def test_processes_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    devices = Devices("cuda", 2, processes_per_device=3)
    assert devices.processes == 6
    assert [devices.device(process).index for process in range(devices.processes)] == [0, 1, 0, 1, 0, 1]
