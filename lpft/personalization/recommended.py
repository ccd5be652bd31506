"""Recommended models: for every client the best one on its validation data, or the global model if none is better."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence

from lpft.evaluation.recommend import choose
from lpft.storage.atomic import replacing, write_atomically
from lpft.storage.client_result import ClientResult
from lpft.storage.run import Run


def write_recommended(run: Run, seeds: Sequence[int], methods: Sequence[str]) -> dict[tuple[int, str], str | None]:
    """Write ``seed_S/advised/models/CLIENT.safetensors`` for every client, and ``advised.csv``, which names its method.

    Args:
        run: the run; its models were saved.
        seeds: the seeds.
        methods: the methods to choose from, in the order of preference among equals.

    Returns:
        The name of the recommended method by seed and client; None for the global model.

    Raises:
        FileNotFoundError: if a model was not saved.
    """
    results = [result for seed in seeds for method in methods for _, result in run.client_results(seed, method)]
    recommended = choose([result for result in results if isinstance(result, ClientResult)], methods)
    for (seed, client), method in recommended.items():
        source = run.global_model(seed) if method is None else run.model(seed, method, client)
        if not source.exists():
            raise FileNotFoundError(f"{source} was not saved. HINT: set `--personalization.save_models true`.")
        with replacing(run.model(seed, "advised", client)) as temporary:
            shutil.copyfile(source, temporary)
    for seed in seeds:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["client", "model"])
        writer.writerows((client, method or "global") for (of, client), method in recommended.items() if of == seed)
        write_atomically(run.method_file(seed, "advised", "advised.csv"), text.getvalue())
    return recommended
