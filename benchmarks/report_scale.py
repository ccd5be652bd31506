"""Time and memory of `lpft status` and `lpft report` as the number of client results grows.

    python benchmarks/report_scale.py [--clients 500] [--methods 5] [--seeds 2] [--folder FOLDER] [--profile]

Generates a run with these numbers of clients, methods and seeds (one file per result, with a row of the accuracy
matrix), and prints one JSON line for every command: seconds, CPU seconds, peak memory of the process. With
``--folder``, the run is written there, kept, and reused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

METHODS = ("none", "ft", "ft_short", "lp", "lpft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--methods", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=200, help="test samples of each client; 0: any accuracy")
    parser.add_argument("--folder", type=Path, help="where the run is written and kept")
    parser.add_argument("--commands", nargs="+", default=["status", "report"])
    parser.add_argument("--profile", action="store_true", help="write a profile of each command next to the run")
    options = parser.parse_args()
    with _folder(options.folder) as folder:
        if not (folder / "config.yaml").exists():
            make_large_run(folder, options.clients, options.methods, options.seeds, options.samples)
        for command in options.commands:
            print(json.dumps({"command": command, **_measure(command, folder, options.profile)}), flush=True)


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) / "run"


def make_large_run(folder: Path, clients: int, methods: int, seeds: int, samples: int) -> None:
    """Write a run with a result for every client, method and seed."""
    from dataclasses import replace

    from lpft.storage.client_result import ClientResult
    from tests.reporting.fabricate import make_run

    def counted(cell: ClientResult) -> ClientResult:
        if not samples:
            return cell
        counts = [round(value * samples / 100) for value in cell.accuracy if value is not None]
        return replace(cell, accuracy=[100 * count / samples for count in counts])

    names = [*METHODS, *(f"method_{number}" for number in range(methods))][:methods]
    make_run(
        folder,
        seeds=range(seeds),
        methods=names,
        clients=[f"client_{number:05d}" for number in range(clients)],
        edit=counted,
    )


def _measure(command: str, folder: Path, profile: bool) -> dict[str, float]:
    """Run one command in a separate process."""
    before = time.perf_counter()
    options = ["-m", "cProfile", "-o", str(folder.parent / f"{command}.prof")] if profile else []
    process = subprocess.Popen(
        [sys.executable, *options, "-m", "lpft", command, str(folder)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    _, code, usage = os.wait4(process.pid, 0)
    if code:
        sys.exit(f"lpft {command} ended with {os.waitstatus_to_exitcode(code)}")
    return {
        "seconds": round(time.perf_counter() - before, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
