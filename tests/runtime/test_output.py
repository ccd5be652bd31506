"""Output that cannot be written: nobody reads it any more, the disk is full, or its encoding lacks a character."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that prints something, in a process of its own."""
    program = f"import lpft.cli as cli\ndef say(args):\n    {code}\n    return 0\n"
    program += "cli.COMMANDS['say'] = say\ncli.main(['say'])\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment, timeout=60, **options
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 100000])
def test_a_closed_pipe_ends_the_command_like_other_tools(lines: int, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(f"print('line\\n' * {lines})", stdout=writing, env={"PYTHONUNBUFFERED": unbuffered})
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_an_error() -> None:
    done = run("raise BrokenPipeError(32, 'a worker has ended')")
    assert done.returncode == 1
    assert "a worker has ended" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_the_output_is_reported() -> None:
    with Path("/dev/full").open("w") as full:
        done = run("print('line')", stdout=full)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"1 ? 2 ?\n"),
        ({"PYTHONIOENCODING": "cp1252"}, b"1 \xb1 2 ?\n"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}, b"1 ? 2 ?\n"),
    ],
)
def test_characters_that_an_encoding_lacks_do_no_harm(env: dict[str, str], expected: bytes, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = run("print('1 \\u00b1 2 \\u2192')", stdout=file, env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == expected


def test_a_closed_standard_output_does_no_harm() -> None:
    done = run("print('line')", preexec_fn=lambda: os.close(1), stdout=None)
    assert (done.returncode, done.stderr) == (0, "")
