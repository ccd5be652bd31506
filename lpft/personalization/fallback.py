"""The model that each client should use: the best by its validation data, or theta_G where none beats that."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence

from lpft.evaluation.recommend import choose
from lpft.storage.atomic import replacing, write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run


def write_advised(run: Run, seeds: Sequence[int], methods: Sequence[str]) -> dict[tuple[int, str], str | None]:
    """Write ``seed_S/advised/models/CLIENT.safetensors`` for every client, and ``advised.csv`` that says whose it is.

    Args:
        run: the run; its models have been saved.
        seeds: the seeds.
        methods: what may be chosen from, in the order of preference among equals.

    Returns:
        By seed and client the name of the chosen method; None for the global model.

    Raises:
        FileNotFoundError: if a model was not saved.
    """
    found = [cell for seed in seeds for method in methods for _, cell in run.cells(seed, method)]
    chosen = choose([cell for cell in found if isinstance(cell, ClientResult)], methods)
    for (seed, client), method in chosen.items():
        source = run.global_model(seed) if method is None else run.model(seed, method, client)
        if not source.exists():
            raise FileNotFoundError(f"{source} was not saved. HINT: set `--personalization.save_models true`.")
        with replacing(run.model(seed, "advised", client)) as temporary:
            shutil.copyfile(source, temporary)
    for seed in seeds:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["client", "model"])
        writer.writerows((client, method or "global") for (of, client), method in chosen.items() if of == seed)
        write_atomically(run.method_file(seed, "advised", "advised.csv"), text.getvalue())
    return chosen
