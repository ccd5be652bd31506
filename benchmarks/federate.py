"""FedAvg: clients trained per second, beside two loops without any framework, in one run.

    python benchmarks/federate.py [--nets mlp cnn] [--repeats 3] [--rounds 10]

Prints one JSON line for every case: `lean` trains one client after the other, `lean_channels_last` the same in
another layout of memory, `vmap` all clients of a round at once, `lpft` runs ``lpft federate`` with one and two
processes. Cases alternate; the best of the repeats counts. `seconds` is the time of the rounds alone, `cpu` the CPU
time of all processes of a case, start-up included, `peak_mib` the memory of the largest process, `startup` what passes
outside of the rounds, without imports. `--peers` adds those of benchmarks/peers, each run by the Python that is given:
pfl=/path/to/python.
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
    """Measure one case in a process of its own."""
    script = [str(HERE / "peers" / f"{case}.py"), net] if python else [__file__, "--worker", case, net]
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
    """Train by the public path: a configuration, `lpft.federate`, and the run's files."""
    import numpy as np
    import pandas as pd
    import workload

    import lpft

    per_client = work.images + work.tested // work.clients
    pixels, labels = workload.raw_images(work, per_client)
    owners = np.repeat(np.arange(work.clients), per_client)
    classes = {"mlp": "lpft.models.mlp.MLP", "cnn": "lpft.models.mcmahan.McMahanCNN"}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", x_train=pixels, y_train=labels, owner=owners)
        domain = {"path": "images.npz", "x_test": None, "y_test": None, "group": "owner"}
        source = {"class_path": "lpft.data.sources.Arrays", "init_args": {"root": folder, "domains": {"c": domain}}}
        config: dict[str, Any] = {
            "name": "benchmark",
            "out": f"{folder}/run",
            "seeds": [0],
            "data": {
                "source": source, "image_size": 28, "channels": 1, "num_classes": 10, "cache_dir": f"{folder}/cache",
                "val_share": work.tested / work.clients / per_client, "test_share": 0.0,
            },
            "network": {"class_path": classes[net]},
            "federation": {
                "rounds": work.rounds, "participation": work.cohort / work.clients, "batch_size": work.batch,
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": workload.LEARNING_RATE[net]}},
            },
            "methods": {"none": {"class_path": "lpft.methods.ft.NoFineTuning"}},
            "trainer": {"accelerator": "cpu", "devices": processes},
        }  # fmt: skip
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
