"""The settings of an experiment that arXiv:2511.12695 does not give, or gives otherwise.

The paper fixes federated averaging, 15 epochs of fine-tuning from the global model with its head, and three seeds; its
other settings are in an appendix that was not available to us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpft.reporting.analysis import Analysis
from lpft.reporting.experiment import flat
from lpft.reporting.verdicts import Verdict

EPOCHS, NUM_SEEDS = 15, 3
SILENT = ("federation.clients_per_stack", "federation.init", "root", "cache_dir", "dampening")
OURS = ("eval_every", "save_models", "clients_per_stack")
"""Settings of personalization that do not change results."""


def settings(points: Sequence[Analysis]) -> Verdict:
    """Which settings are not from the paper? Those of the first point."""
    rows = settings_not_from_the_paper(points[0].experiment.config, len(points[0].experiment.seeds))
    differing = sum(bool(row["remark"]) for row in rows)
    return Verdict("", {"differing": differing}, rows, Path(__file__).parent / "templates" / "settings.txt")


def settings_not_from_the_paper(config: Mapping[str, Any], num_seeds: int) -> list[dict[str, str]]:
    """Return setting (dotted key), value, and a remark where the paper is known to differ."""
    rows = []
    for section in ("data", "augment", "network", "federation", "personalization", "methods"):
        for key, value in flat(config.get(section) or {}):
            silent = f"{section}.{key}" in SILENT or key.rpartition(".")[2] in SILENT or value in (False, "keep")
            class_of_method = section == "methods" and key.endswith(".class_path") and key.count(".") == 1
            harmless = section == "personalization" and (key in OURS or (key, value) == ("epochs", EPOCHS))
            if not (silent or class_of_method or harmless):
                remark = f"the paper uses {EPOCHS}" if (section, key) == ("personalization", "epochs") else ""
                name = f"{section}.{key}".replace(".init_args.", ".")
                rows.append({"setting": name, "value": str(value), "remark": remark})
    if num_seeds != NUM_SEEDS:
        rows.append({"setting": "seeds", "value": str(num_seeds), "remark": f"the paper uses {NUM_SEEDS}"})
    return rows
