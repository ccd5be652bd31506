"""Time and memory of federated training with 100 to 10,000 clients, 100 of them per round.

    python benchmarks/scale.py [--clients 100 1000 10000] [--images 50] [--rounds 20] [--personalize N]

Prints one JSON line for every number of clients: seconds to prepare the data, milliseconds per round (median), memory
of the process. Each number is measured in a separate process. With ``--personalize N``, every client is also
personalized by FT and LP-FT, and every model is tested on its own client and N others, drawn at random; the line then
contains the seconds for this, with and without the report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAINED = {"ft": "lpft.methods.ft.FT", "lpft": "lpft.methods.lpft.LPFT"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--images", type=int, default=50, help="images of each client, a tenth of them for validation")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--personalize", type=int, metavar="N", help="also personalize; test on N other clients")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure(options.worker)))
        return
    import workload

    for clients in options.clients:
        train, val = options.images * 9 // 10, options.images // 10
        work = workload.Workload(clients, train, cohort=100, rounds=options.rounds, tested=clients * val)
        with tempfile.TemporaryDirectory() as folder:
            config = workload.lpft_config("mlp", work, Path(folder), processes=1)
            if options.personalize:
                config["methods"] |= {name: {"class_path": path} for name, path in TRAINED.items()}
                config["data"]["test_share"] = 0.2
                config["evaluation"] = {"clients": options.personalize}
            (Path(folder) / "config.json").write_text(json.dumps(config))
            command = [sys.executable, __file__, "--worker", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        print(json.dumps({"clients": clients, **json.loads(done.stdout.strip().splitlines()[-1])}), flush=True)


def _measure(folder: Path) -> dict[str, float]:
    import pandas as pd

    import lpft
    from lpft.config.study import arguments, read_datasets

    config = json.loads((folder / "config.json").read_text())
    start = time.perf_counter()
    for _, data in read_datasets(arguments(config, {})):
        data.prepare_data()
    prepared = time.perf_counter() - start
    lpft.federate(config)
    history = pd.read_csv(folder / "run/seed_0/global/history.csv")
    line = {
        "prepare_seconds": round(prepared, 2),
        "round_ms": round(1e3 * float(history["seconds"].median()), 1),
        "peak_mib": _peak_kib() // 1024,
    }
    if "evaluation" in config:
        start = time.perf_counter()
        lpft.personalize(config)
        personalized = time.perf_counter()
        lpft.report(config["out"])
        line |= {
            "personalize_seconds": round(personalized - start, 1),
            "report_seconds": round(time.perf_counter() - personalized, 1),
            "peak_mib": _peak_kib() // 1024,
        }
    return line


def _peak_kib() -> int:
    """Return the peak memory of this process; `getrusage` would include its parent's before the start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
