"""The settings of an experiment that arXiv:2511.12695 does not give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lpft.reporting.english import flat, section

PAPER_EPOCHS, PAPER_SEEDS = 15, 3
UNIMPORTANT = (
    *("federation.clients_per_stack", "federation.init", "data.init_args.root", "data.init_args.cache_dir"),
    *("personalization.eval_every", "personalization.save_models", "personalization.clients_per_stack"),
)
"""Settings that do not change results, or say where files are."""


def settings_not_from_the_paper(config: Mapping[str, Any], num_seeds: int) -> list[tuple[str, str, str]]:
    """List the settings that arXiv:2511.12695 does not give, or gives otherwise.

    The paper fixes federated averaging, 15 epochs of fine-tuning from the global model with its head, and three seeds;
    its other settings are in an appendix that was not available.

    Returns:
        Dotted key, value, and a remark where the paper is known to differ.
    """
    rows = []
    for part in ("data", "augment", "network", "federation"):
        rows += [(f"{part}.{key}", str(value), "") for key, value in flat(section(config, part))]
    for key, value in flat(section(config, "personalization")):
        if key == "epochs":
            if value != PAPER_EPOCHS:
                rows.append((f"personalization.{key}", str(value), f"the paper uses {PAPER_EPOCHS}"))
        else:
            rows.append((f"personalization.{key}", str(value), ""))
    for method, settings in section(config, "methods").items():
        rows += [(f"methods.{method}.{key}", str(value), "") for key, value in flat(section(settings, "init_args"))]
    if num_seeds != PAPER_SEEDS:
        rows.append(("seeds", str(num_seeds), f"the paper uses {PAPER_SEEDS}"))
    rows = [row for row in rows if row[1] not in ("False", "keep") and not row[0].endswith(".dampening")]
    return [(key.replace(".init_args.", "."), *rest) for key, *rest in rows if key not in UNIMPORTANT]  # type: ignore[misc]
