"""FedAvg: clients trained per second, compared with two loops without a framework in the same run.

    python benchmarks/federate.py [--nets mlp cnn] [--repeats 3] [--rounds 10]

Prints one JSON line for every case: `lean` trains one client at a time, `lean_channels_last` does the same with
channels last, `vmap` trains all clients of a round at once, and `lpft` runs ``lpft federate`` with one and two
processes. Cases alternate, and the fastest repeat counts. `seconds` is the time of the rounds, `cpu` the CPU time of
all processes of a case including start-up, `peak_mib` the memory of the largest process, and `startup` the time outside
of the rounds, without imports. `--peers` adds programs of benchmarks/peers, each with the Python of an environment in
which it is installed: ``--peers pfl=/path/to/python pfl:2=/path/to/python``, the latter with two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["mlp", "cnn"], choices=["mlp", "cnn"])
    parser.add_argument("--cases", nargs="+", default=["lean", "lean_channels_last", "vmap", "lpft:1", "lpft:2"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "NET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure(*options.worker, options.rounds)))
        return
    pythons = dict(peer.split("=", 1) for peer in options.peers)
    for net in options.nets:
        lines: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.repeats):  # cases alternate, so that all see the same load of the machine
            for case in [*options.cases, *pythons]:
                lines.setdefault(case, []).append(_run(case, net, options.rounds, pythons.get(case)))
        for case, measured in lines.items():
            best = min(measured, key=lambda line: line["seconds"])
            print(json.dumps({"case": case, "net": net, **best}), flush=True)


def _run(case: str, net: str, rounds: int, python: str | None) -> dict[str, Any]:
    """Measure one case in a separate process."""
    if python:
        peer, _, processes = case.partition(":")
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", processes] if processes else []
        script = [*launcher, str(HERE / "peers" / f"run_{peer}.py"), net]
    else:
        script = [__file__, "--worker", case, net]
    command = [python or sys.executable, *script, "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{case} has failed:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line = json.loads(done.stdout.strip().splitlines()[-1])
    return {**line, "cpu": round(cpu, 2)}


def _measure(case: str, net: str, rounds: int) -> dict[str, Any]:
    began = time.time()
    import torch
    import workload

    torch.set_num_threads(1)
    work = workload.Workload(rounds=rounds)
    if case.startswith("lpft:"):
        return _lpft(work, net, int(case.removeprefix("lpft:")))
    data = workload.images(work)
    loops = {
        "lean": workload.lean_loop,
        "lean_channels_last": partial(workload.lean_loop, channels_last=True),
        "vmap": workload.vmap_loop,
    }
    loops[case](net, replace(work, rounds=1), data)  # torch imports parts of itself at first use
    start = time.time()
    score = loops[case](net, work, data)
    return _line(work, time.time() - start, start - began, score)


def _lpft(work: Any, net: str, processes: int) -> dict[str, Any]:
    """Train through the public API: a configuration, `lpft.federate`, and the files of the run."""
    import pandas as pd
    import workload

    import lpft

    with tempfile.TemporaryDirectory() as folder:
        config = workload.lpft_config(net, work, Path(folder), processes)
        lpft.federate(config, federation={"rounds": 1}, out=f"{folder}/first")  # fills the array cache
        start = time.time()
        lpft.federate(config)
        total = time.time() - start
        history = pd.read_csv(Path(folder) / "run/seed_0/global/history.csv")
    seconds = float(history["seconds"].sum())
    return _line(work, seconds, total - seconds, float(history["val_accuracy"].iloc[-1]))


def _line(work: Any, seconds: float, startup: float, score: float) -> dict[str, Any]:
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "clients_per_second": round(work.cohort * work.rounds / seconds, 2),
        "seconds": round(seconds, 3),
        "startup": round(startup, 2),
        "peak_mib": max(usage) // 1024,
        "accuracy": round(score, 2),
    }


if __name__ == "__main__":
    main()
